"""What the benchmarks work on: a fleet, a pair of checkpoints and episodes, all made on the spot.

The checkpoints are real ones, the shipped pre-trained trunk under fresh random heads: they cost
what trained ones cost.
"""

from __future__ import annotations

from pathlib import Path

from efm_bringup.installed import share
from efm_bringup.plans import scene_seed
from efm_bringup.rollouts import in_process
from efm_bringup.simulated_robots import ScriptedPerson
from efm_core.episode import Mode
from efm_core.fleet import Clock, FleetDescription, SharedRole, load_fleet, save_fleet
from efm_core.observation import Observation
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import CameraSpec
from efm_model.inference import Engine
from efm_model.trunk_runner import Backend
from efm_model.weights import pretrained_model
from efm_sim.config import WorldConfig
from efm_sim.world import World
from efm_trainer.episode_run import FinishedEpisode
from efm_trainer.versions import Making, save_version

POLICY, REWARD = "bench-policy", "bench-reward"
WORLDS = 4
TEMPERATURE = 0.8


def bench_fleet(
    folder: Path,
    robots: int = 1,
    clock: Clock = "lockstep",
    shared: tuple[SharedRole, ...] = (),
) -> FleetDescription:
    """The shipped fleet's first robot `robots` times, data and models below `folder`."""
    shipped = load_fleet(share("config/fleet.yaml"))
    alike = tuple(
        shipped.robots[0].model_copy(
            update={"name": f"robot{i + 1}", "seed": 1000 * i, "demonstrator": False}
        )
        for i in range(robots)
    )
    own = {
        "name": "bench", "clock": clock, "robots": alike, "data_dir": folder / "data",
        "models_dir": folder / "models", "reserve_mb": 0.0, "shared": shared,
    }  # fmt: skip
    return save_fleet(shipped.model_copy(update=own), folder / "fleet.yaml")


def write_checkpoints(fleet: FleetDescription, seed: int) -> tuple[Path, Path]:
    """The versions `POLICY` and `REWARD` in the fleet's models_dir; their folders."""
    robot = fleet.robots[0]
    cameras = tuple(
        CameraSpec(name=c.name, width=c.width, height=c.height) for c in robot.cameras
    )
    model = pretrained_model(robot.space, cameras, StepsToGoBins(), seed=seed)
    policy = save_version(fleet.models_dir, POLICY, model, Making("policy", "untrained"))
    reward = save_version(fleet.models_dir, REWARD, model, Making("reward", "untrained"))
    return policy, reward


def engine(
    fleet: FleetDescription, seed: int, backend: Backend = "auto", policy: bool = True
) -> Engine:
    """Both roles (policy False: the reward model alone), through checkpoints on disk."""
    folders = (fleet.models_dir / POLICY, fleet.models_dir / REWARD)
    if not all(folder.is_dir() for folder in folders):
        folders = write_checkpoints(fleet, seed)
    return Engine.load(folders[0] if policy else None, folders[1], backend)


def plan(
    mode: Mode,
    robots: list[str],
    each: int,
    limit: int,
    seed: int,
    name: str = "bench",
) -> EpisodePlan:
    """`each` episodes per robot, scenes drawn from `seed`; only its limit ends an autonomous one.

    The detector of an untrained reward model says nothing.
    """
    acting = mode is not Mode.DEMO
    count = len(robots)
    episodes = {
        robot: tuple(
            PlannedEpisode(
                index=k * count + i, limit=limit,
                scene={"seed": scene_seed(seed, f"bench-{mode.value}", k * count + i)},
                split="validation" if (k * count + i) % 5 == 4 else "train",
            )
            for k in range(each)
        )
        for i, robot in enumerate(robots)
    }  # fmt: skip
    return EpisodePlan(
        plan_id=name, mode=mode, seed=seed, temperature=TEMPERATURE, end_on_success=False,
        policy_version=POLICY if acting else "", reward_version=REWARD if acting else "",
        data_set=mode.value, episodes=episodes,
    )  # fmt: skip


def practice_episodes(
    fleet: FleetDescription, brain: Engine, count: int, limit: int, seed: int
) -> list[FinishedEpisode]:
    """`count` practised episodes of `limit` ticks, recorded to `<data_dir>/practice`."""
    wanted = plan(Mode.PRACTICE, ["robot1"], count, limit, seed)
    with in_process(fleet, min(WORLDS, count)) as robots:
        return robots.practise(wanted, brain)


def demonstrations(
    fleet: FleetDescription, count: int, limit: int, seed: int
) -> list[FinishedEpisode]:
    """`count` demonstrated episodes, recorded to `<data_dir>/demo`."""
    wanted = plan(Mode.DEMO, ["robot1"], count, limit, seed)
    with in_process(fleet, min(WORLDS, count)) as robots:
        return robots.demonstrate(wanted, lambda planned: ScriptedPerson(planned.scene["seed"]))


def observations(fleet: FleetDescription, count: int, seed: int) -> list[Observation]:
    """`count` observations of different scenes."""
    world = World(WorldConfig.model_validate(fleet.robots[0].world_options()))
    seen = []
    try:
        for tick in range(count):
            world.reset(scene_seed(seed, "bench-scene", tick))
            seen.append(world.observe(tick, 10**18 + tick * 10**8))
    finally:
        world.close()
    return seen
