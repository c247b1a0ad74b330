"""What a fleet practises: the settings of a run, and the episodes of each of its rounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from efm_core.episode import Mode
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_trainer.early_warning import WarningSettings
from efm_trainer.improve import ImproveSettings
from efm_trainer.stopping import StopSettings


class PracticeSettings(BaseModel):
    """What a fleet practises and when it stops.

    name: prefix of plan ids and of policy versions. robots: who practises; a round's episodes are
    dealt out in turn. limit: control ticks per episode. temperature: of the sampled actions.
    entropy_floor: nats per decision (summed over its tokens) below which practice stops: the
    policy no longer explores. window, drop: practice stops when the mean detection rate of the
    last `window` rounds lies more than `drop` below the best such mean: past the peak it gets
    worse. stop: `auto` also ends practice when the detector's word no longer rises and goes on with
    the best version by the same figure (`efm_trainer.stopping`), `rounds` then being the most that
    are run. warning: the test of the detector against operators' labels; an alarm is told, and
    with `stop: auto` it ends practice. reset_free: every episode begins from where the robot's last
    one left the blocks; the robot's reset makes a new scene only where that is unusable, and after
    `misses` failures in a row (0: never).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,60}$")] = "practice"
    data_set: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")] = "practice"
    robots: Annotated[tuple[str, ...], Field(min_length=1)] = ("robot1",)
    rounds: Annotated[int, Field(ge=1)] = 24
    episodes_per_round: Annotated[int, Field(ge=1)] = 48
    limit: Annotated[int, Field(ge=1)] = 60
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0
    instructions: tuple[str, ...] = ()
    simulated: bool = True
    reset_free: bool = False
    misses: Annotated[int, Field(ge=0)] = 8
    entropy_floor: Annotated[float, Field(ge=0.0)] = 1.5
    window: Annotated[int, Field(ge=1)] = 4
    drop: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    stop: Literal["rounds", "auto"] = "rounds"
    stopping: StopSettings = StopSettings()
    warning: WarningSettings = WarningSettings()
    improve: ImproveSettings = ImproveSettings()

    def version_of(self, round_index: int) -> str:
        """The policy version that round `round_index` (0, 1, ...) gives."""
        return f"{self.name}-r{round_index:03d}"


def round_plan(
    settings: PracticeSettings, number: int, policy_version: str, reward_version: str
) -> EpisodePlan:
    """The episodes of one round, drawn in advance as a function of (seed, round) alone."""
    generator = np.random.default_rng((settings.seed, 1, number))
    dealt: dict[str, list[PlannedEpisode]] = {robot: [] for robot in settings.robots}
    for index in range(settings.episodes_per_round):
        scene: dict[str, Any] = {}
        if settings.simulated:
            scene["seed"] = int(generator.integers(1, 2**31))
            if settings.reset_free:
                scene["lasting"] = True
        choices = settings.instructions
        instruction = choices[int(generator.integers(len(choices)))] if choices else None
        dealt[settings.robots[index % len(settings.robots)]].append(
            PlannedEpisode(
                index=index, instruction=instruction, scene=scene, limit=settings.limit
            )
        )
    return EpisodePlan(
        plan_id=settings.version_of(number), mode=Mode.PRACTICE, round=number,
        policy_version=policy_version, reward_version=reward_version,
        temperature=settings.temperature, seed=settings.seed, end_on_success=True,
        misses=settings.misses if settings.reset_free else 0, data_set=settings.data_set,
        episodes={robot: tuple(episodes) for robot, episodes in dealt.items()},
    )  # fmt: skip
