"""A reset of a real arm's configuration: manager and guard against a stand-in for its drivers."""

from __future__ import annotations

from pathlib import Path

import pytest
from ros.alone import ALONE_ARGS
from ros.test_arms import Driver

from efm_bringup.guard_node import GuardNode
from efm_core import messages, topics
from efm_core.fleet import load_fleet, save_fleet
from efm_core.fleet_processes import processes
from efm_core.plan import EpisodePlan
from efm_core.reset_settings import PoseReset
from efm_episode_manager.node import EpisodeManagerNode
from efm_ros.channels import PLAN, STOPPED, Sender, receive

ROOT = Path(__file__).resolve().parents[2]
HOME = {f"joint_{i}": 0.1 * i for i in range(1, 7)} | {"gripper": 0.04}
SHARE = 0.6


@pytest.fixture
def arm(tmp_path):
    """The fleet of config/arms/ros2_control.yaml with a scripted pose."""
    fleet = load_fleet(ROOT / "config" / "arms" / "ros2_control.yaml")
    (robot,) = fleet.robots
    robot = robot.model_copy(update={"reset": PoseReset(kind="pose", poses=(HOME,), speed=SHARE)})
    own = {"robots": (robot,), "data_dir": tmp_path / "data", "reserve_mb": 0.0}
    return save_fleet(fleet.model_copy(update=own), tmp_path / "fleet.yaml")


def test_joints_and_gripper_go_to_the_pose_and_the_episode_begins(
    arm, tmp_path, context, executor, probe, spin_until
):
    (robot,) = arm.robots
    args = {s.name: [*s.args, *ALONE_ARGS] for s in processes(arm, tmp_path / "run")}
    driver = Driver(robot, context)
    driver.silent = False
    for node in (
        driver,
        GuardNode(context=context, cli_args=args["arm1_guard"]),
        EpisodeManagerNode(context=context, cli_args=args["arm1_manager"]),
    ):
        executor.add_node(node)
    said: list[dict[str, str]] = []
    status = topics.EPISODE_STATUS
    absolute = topics.Topic(f"/arm1/{status.name}", status.type, status.qos)
    receive(probe, absolute, lambda m: said.append(messages.read_status(m)))
    stopped, plans = Sender(probe, STOPPED), Sender(probe, PLAN)
    probe.create_timer(0.1, lambda: stopped.send(messages.boolean(False)))
    episodes = {"arm1": [{"index": 0, "instruction": "grasp it", "limit": 50}]}
    plan = EpisodePlan(plan_id="arm", mode="demo", data_set="demo", episodes=episodes)
    spin_until(lambda: plans.subscribers and said)
    plans.send(messages.text(plan.model_dump_json()))
    spin_until(lambda: said[-1]["phase"] == "running", 30.0)
    for group in driver.groups.values():
        for joint, dim in zip(group.joint_names, group.dims, strict=True):
            assert driver.joints[joint] == pytest.approx(HOME[dim], abs=0.05)
    passed = [list(message.data) for _, message in driver.heard["arm"]]
    # In a straight line: joint 6 has the longest way, 0.59 rad, the others go along with it.
    for values in passed[len(passed) // 4 : -len(passed) // 4]:
        done = [(v - 0.01) / (HOME[f"joint_{i + 1}"] - 0.01) for i, v in enumerate(values)]
        assert max(done) - min(done) < 0.15
    times = [at for at, _ in driver.heard["arm"]]
    seconds = times[-1] - times[0]
    assert seconds > (0.6 - 0.01) / (SHARE * 0.8)  # 60 % of 0.8 rad/s
