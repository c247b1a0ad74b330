"""Policies at work on simulated robots in this process: what evaluate and calibrate share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from efm_bringup.simulated_robots import guard_settings, worlds
from efm_core.bags.episode_writer import PARTIAL, RECORD_NAME
from efm_core.checkpoint import verify_checkpoint
from efm_core.fleet import FleetDescription
from efm_core.plan import EpisodePlan
from efm_core.registry import Registry
from efm_model.inference import Engine
from efm_trainer.episode_run import planned_episode_id
from efm_trainer.rollout import InProcessFleet

WORLDS = 16
"""Robots side by side: the network answers that many observations in one batch."""


@contextmanager
def in_process(
    fleet: FleetDescription, count: int = WORLDS, record: bool = True
) -> Iterator[InProcessFleet]:
    """`count` simulated robots of the fleet's kind; record: write bags below its data_dir."""
    facts = {"fleet": fleet.name, "task": "push block to block", "efm_version": efm_version()}
    with worlds(fleet, count) as robots:
        data_dir = fleet.data_dir if record else None
        yield InProcessFleet(robots, guard_settings(fleet), data_dir, facts)


def load_engine(fleet: FleetDescription, policy: str, reward: str) -> Engine:
    """Both checkpoints, verified for the fleet's robots. Raises CheckpointError, RegistryError."""
    registry, robot = Registry(fleet.models_dir), fleet.robots[0]
    cameras = [camera.name for camera in robot.cameras]
    paths = registry.path(policy), registry.path(reward)
    verify_checkpoint(paths[0], cameras=cameras, space=robot.space, role="policy")
    verify_checkpoint(paths[1], cameras=cameras, space=robot.space, role="reward")
    return Engine.load(*paths, fleet.backend)


def drop_plan(data_set: Path, plan: EpisodePlan) -> None:
    """Delete the episodes of an earlier, interrupted run of the same plan, cut ones included."""
    for file in data_set.glob(f"*/{RECORD_NAME}"):
        if json.loads(file.read_text()).get("plan") == plan.plan_id:
            shutil.rmtree(file.parent)
    for robot, episodes in plan.episodes.items():
        for planned in episodes:  # killed while it was opened, or here while it was deleted
            folder = data_set / planned_episode_id(plan, robot, planned.index)
            for left in (folder, folder.with_name(folder.name + PARTIAL)):
                if not (left / RECORD_NAME).exists():
                    shutil.rmtree(left, ignore_errors=True)


def efm_version() -> str:
    """The installed version, "" in a checkout that was never installed."""
    try:
        return version("efm_bringup")
    except PackageNotFoundError:
        return ""
