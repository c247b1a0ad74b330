"""What the in-process roll-outs need from a robot, a model and a demonstrator: protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efm_core.actions import ActionSpace
from efm_core.detector import DetectorSettings
from efm_core.observation import Decision, Observation, StepsToGo


class Robot(Protocol):
    """One robot that waits for commands: a simulated world, or anything that can be stepped.

    instruction: the goal g of the present scene. scene_hash: of the present state.
    """

    @property
    def instruction(self) -> str:
        """The goal of the present scene."""
        ...

    @property
    def scene_hash(self) -> str:
        """SHA-256 (hex) of configuration and state."""
        ...

    @property
    def effector(self) -> NDArray[np.float64]:
        """End effector in the order of the action dimensions, base frame, m."""
        ...

    def reset(self, seed: int, instruction: str | None = None) -> None:
        """A new start scene drawn from `seed`; `instruction` None draws one too."""
        ...

    def restore_state(self, state: Mapping[str, object]) -> None:
        """Continue from a saved state."""
        ...

    def step(self, velocity: ArrayLike) -> None:
        """Move for one control period with a velocity in unit/s."""
        ...

    def observe(self, tick: int = 0, stamp_ns: int = 0) -> Observation:
        """What the robot's cameras and joints say now."""
        ...

    def truth(self) -> dict[str, float]:
        """Named scalars of the true state with "success" 0 or 1; recorded, read by evaluation."""
        ...


@runtime_checkable
class LastingRobot(Protocol):
    """What a robot has beside `Robot` when practice goes on from where its blocks lie."""

    def save_state(self) -> dict[str, object]:
        """Everything the future depends on, as JSON types, for `restore_state`."""
        ...

    def go_on_or_reset(self, seed: int, instruction: str | None = None) -> str:
        """The next start from the scene as it lies; why it was reset in full, "" if it was not."""
        ...


class Brain(Protocol):
    """Policy and reward model behind one batched call: `efm_model.inference.Engine` is one."""

    policy_version: str
    reward_version: str

    @property
    def action_space(self) -> ActionSpace:
        """The action space of the policy."""
        ...

    @property
    def detector(self) -> DetectorSettings:
        """The success detector that was calibrated for the reward model."""
        ...

    def infer(
        self, observations: Sequence[Observation], draws: NDArray[np.float64], temperature: float
    ) -> tuple[list[Decision], list[StepsToGo]]:
        """Observations of B robots, draws (B, tokens) -> B decisions and B steps-to-go."""
        ...


class Demonstrator(Protocol):
    """A person with a joystick, or a script that behaves like one."""

    def command(self, robot: Robot) -> NDArray[np.float64]:
        """Velocity (D,) in unit/s, base frame, for the next control period."""
        ...
