"""Checkpoints from disk into an engine: verified, fitted to the robot, and tried once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import numpy as np

from efm_bringup.model_shelf import BadCheckpointError, Loaded, Versions
from efm_core.checkpoint import verify_checkpoint
from efm_core.fleet import FleetDescription, RobotDescription
from efm_core.observation import Observation
from efm_core.registry import Registry
from efm_model.inference import Engine

TRIALS = 5
"""Blank questions before a model is put to work: the first one also warms it up."""


class ModelLoader:
    """Loads pairs of checkpoints for the robots of a fleet."""

    def __init__(self, fleet: FleetDescription) -> None:
        self._fleet = fleet
        self._registry = Registry(fleet.models_dir)

    def load(self, versions: Versions, robot: str) -> Loaded:
        """An engine for `robot`, or BadCheckpointError with the file, the field and the remedy.

        Every file's hash and every tensor is checked, then the robot's cameras and action space,
        then the engine answers a few blank questions.
        """
        described = self._fleet.robot(robot)
        policy = self._path(versions.policy, "policy", described)
        reward = self._path(versions.reward, "reward", described)
        role = "policy" if policy is not None else "reward"
        try:
            engine = Engine.load(policy, reward, self._fleet.backend)
            seconds = _try(engine, described, policy is not None, reward is not None)
        except (ValueError, OSError) as error:
            version = versions.policy or versions.reward
            raise BadCheckpointError(role, version, str(error)) from error
        return Loaded(engine, seconds)

    def _path(
        self, version: str, role: Literal["policy", "reward"], robot: RobotDescription
    ) -> Path | None:
        if not version:
            return None
        cameras = [camera.name for camera in robot.cameras]
        try:
            path = self._registry.path(version)
            verify_checkpoint(path, cameras=cameras, space=robot.space, role=role)
        except (ValueError, OSError) as error:
            raise BadCheckpointError(role, version, str(error)) from error
        return path


def _try(engine: Engine, robot: RobotDescription, policy: bool, reward: bool) -> float:
    """Seconds of the fastest answer: what the model costs, however busy the machine is.

    Raises ValueError when the pictures do not fit or an answer is not finite.
    """
    images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in robot.cameras}
    blank = [Observation(images, "push the red star to the blue cube")]
    draws = np.full((1, robot.space.tokens), 0.5)
    took = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        if policy:
            (decision,) = engine.act(blank, draws, 1.0)
            if not np.isfinite(decision.log_prob):
                raise ValueError("model.safetensors: the policy's log-probability is not finite")
        if reward:
            (word,) = engine.steps_to_go(blank)
            if not np.isfinite(word.mean):
                raise ValueError("model.safetensors: the steps-to-go are not finite")
        took.append(time.perf_counter() - start)
    return min(took)
