"""The executables of the suite: name -> `module:function`. The one list of them.

`setup.py` makes console scripts of it, the embedded runner starts children from it, and a test
compares it with the fleet description and the launch file.
"""

EXECUTABLES = {
    "efm": "efm_bringup.cli:main",
    "efm_sim_robot": "efm_sim.node:main",
    "efm_guard": "efm_bringup.guard_node:main",
    "efm_episode_manager": "efm_episode_manager.node:main",
    "efm_inference": "efm_bringup.inference_node:main",
    "efm_fleet": "efm_bringup.fleet_node:main",
    "efm_demonstrator": "efm_sim.demonstrator_node:main",
    "efm_teleop": "efm_bringup.teleop.node:main",
    "efm_trainer": "efm_trainer.node:main",
    "efm_monitor": "efm_bringup.monitor.node:main",
}
