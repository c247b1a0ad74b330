"""What the learning benchmark measures, fixed before it is measured."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Arm = Literal["default", "reinforce", "cloning", "reset_free"]
"""default: the trainer's update. reinforce: the paper's. cloning: as many demonstrations more.
reset_free: as default, but practice goes on from where the last episode left the blocks."""
Part = Literal["dev", "test", "reserve"]

SEEDS: dict[Part, tuple[int, ...]] = {
    "dev": tuple(range(1000, 1008)),
    "test": tuple(range(2000, 2008)),
    "reserve": tuple(range(3000, 3008)),
}
"""Disjoint: dev for all tuning, test for one pass, reserve unused. A seed fixes demonstrations,
initialisation and practice; start states of evaluations are common to all."""


class Protocol(BaseModel):
    """One benchmark.

    sizes: demonstrations to learn from, a fifth more validate. seeds: how many of a part.
    budgets: practice episodes (multiples of per_round) at which success is measured; success is
    never taken at a first crossing. limit: control ticks. starts: common start states of every
    evaluation. calibration: labels of the simulated operator for the detector.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arms: tuple[Arm, ...]
    sizes: tuple[Annotated[int, Field(ge=5)], ...]
    seeds: Annotated[int, Field(ge=1, le=8)]
    budgets: tuple[Annotated[int, Field(ge=1)], ...]
    cloning_budgets: tuple[Annotated[int, Field(ge=1)], ...] = (288,)
    starts: Annotated[int, Field(ge=1)]
    per_round: Annotated[int, Field(ge=1)] = 48
    limit: Annotated[int, Field(ge=1)] = 60
    demonstration_limit: Annotated[int, Field(ge=1)] = 150
    calibration: Annotated[int, Field(ge=0)] = 48
    practice_temperature: Annotated[float, Field(gt=0.0)] = 1.0
    temperature: Annotated[float, Field(gt=0.0)] = 0.5
    sft_steps: Annotated[int, Field(ge=1)] = 2000

    def hash(self, settings: str = "") -> str:
        """Twelve hex digits that change with any field and with the learners' `settings`."""
        return hashlib.sha256(f"{self.model_dump_json()}{settings}".encode()).hexdigest()[:12]

    def budgets_of(self, arm: Arm) -> tuple[int, ...]:
        """At which numbers of episodes, or of further demonstrations, an arm is measured."""
        return self.cloning_budgets if arm == "cloning" else self.budgets

    def runs(self, part: Part) -> list[tuple[Arm, int, int]]:
        """(arm, size, seed) of every run, seed by seed so that an early stop leaves whole seeds."""
        return [
            (arm, size, seed)
            for seed in SEEDS[part][: self.seeds]
            for size in self.sizes
            for arm in self.arms
        ]


PRESETS = {
    "fast": Protocol(
        arms=("default", "reinforce"), sizes=(80,), seeds=2, budgets=(96, 288, 576), starts=200
    ),
    "standard": Protocol(
        arms=("default", "reinforce", "cloning"), sizes=(80, 160, 640), seeds=8,
        budgets=(96, 288, 576, 1152, 1584), starts=500,
    ),
    "stress": Protocol(
        arms=("default", "cloning"), sizes=(40,), seeds=8, budgets=(96, 288, 576, 1152, 1584),
        starts=500,
    ),
    "reset-free": Protocol(
        arms=("default", "reset_free"), sizes=(80,), seeds=8, budgets=(96, 288, 576), starts=200
    ),
}  # fmt: skip
