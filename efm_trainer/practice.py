"""Practice: rounds of episodes with one policy version, an update, a new version, again.

Independent of the transport: `collect` runs a plan's episodes (over DDS and bags, or in process)
and returns them, `publish` makes the changed policy a version that can be loaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from efm_core.episode import Mode, Outcome
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_model.model import EmbodiedModel
from efm_trainer.episode_data import SOURCE_TELEOP, EpisodeData
from efm_trainer.features import FeatureCache
from efm_trainer.improve import ImproveSettings, new_optimizer, update
from efm_trainer.progress import (
    Cancelled,
    MetricsLog,
    Pace,
    Progress,
    ProgressCallback,
    TrainingCancelledError,
    never,
)  # fmt: skip
from efm_trainer.round_batch import build_round

_log = logging.getLogger(__name__)


class PracticeSettings(BaseModel):
    """What a fleet practises and when it stops.

    name: prefix of plan ids and of policy versions. robots: who practises; a round's episodes are
    dealt out in turn. limit: control ticks per episode. temperature: of the sampled actions.
    entropy_floor: nats per decision (summed over its tokens) below which practice stops: the
    policy no longer explores. window, drop: practice stops when the mean detection rate of the
    last `window` rounds lies more than `drop` below the best such mean: past the peak it gets
    worse.
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
    entropy_floor: Annotated[float, Field(ge=0.0)] = 1.5
    window: Annotated[int, Field(ge=1)] = 4
    drop: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    improve: ImproveSettings = ImproveSettings()

    def version_of(self, round_index: int) -> str:
        """The policy version that round `round_index` (0, 1, ...) gives."""
        return f"{self.name}-r{round_index:03d}"


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What one round did. metrics: figures by name; stop: why practice ends here, else empty."""

    round: int
    acted: str
    published: str
    episodes: int
    detected: float
    metrics: dict[str, float]
    stop: str = ""


Collect = Callable[[EpisodePlan], Sequence[EpisodeData]]
Publish = Callable[[EmbodiedModel, torch.optim.Optimizer, str, int, dict[str, float]], None]
OnRound = Callable[[RoundReport], None]


@dataclass(slots=True)
class Practice:
    """A practice run and everything it needs to go on.

    policy: the weights that act; changed in place. reward: the frozen Stage-1 weights. version:
    of `policy` now; version_before: the one that acted in the last round. optimizer, round,
    detections: where a resumed run continues.
    """

    settings: PracticeSettings
    policy: EmbodiedModel
    reward: EmbodiedModel
    version: str
    reward_version: str
    collect: Collect
    publish: Publish
    cache: FeatureCache
    optimizer: torch.optim.Optimizer | None = None
    round: int = 0
    detections: list[float] = field(default_factory=list)
    version_before: str = ""

    def run(
        self,
        log: MetricsLog | None = None,
        progress: ProgressCallback | None = None,
        on_round: OnRound | None = None,
        cancelled: Cancelled = never,
    ) -> list[RoundReport]:
        """Rounds until `settings.rounds` or a stop rule.

        Raises TrainingCancelledError between rounds when `cancelled()` turns true, and
        RoundRefusedError when episodes and checkpoints do not fit.
        """
        reports: list[RoundReport] = []
        total = self.settings.rounds
        pace = Pace(self.round / total)
        while self.round < total:
            if cancelled():
                raise TrainingCancelledError(f"practice stopped before round {self.round}")
            report = self.one_round()
            reports.append(report)
            done = self.round / total
            if log:
                log.write(report.round, report.metrics, version=report.published)
            if on_round:
                on_round(report)
            if progress:
                progress(Progress("practice", done, pace.eta(done), report.metrics))
            if report.stop:
                _log.warning("practice ends after round %d: %s", report.round, report.stop)
                break
        return reports

    def one_round(self) -> RoundReport:
        """Collect, check, update, publish."""
        settings, acted, number = self.settings, self.version, self.round
        if self.optimizer is None:
            self.optimizer = new_optimizer(self.policy, settings.improve)
        started = time.monotonic()
        plan = round_plan(settings, number, acted, self.reward_version)
        episodes = self.collect(plan)
        collected = time.monotonic()
        batch = build_round(
            episodes, self.policy, self.reward, self.cache, settings.improve, acted,
            self.reward_version,
        )  # fmt: skip
        seed = int(np.random.default_rng((settings.seed, number)).integers(2**31))
        result = update(self.policy, self.optimizer, batch, settings.improve, seed)
        metrics = episode_metrics(episodes)
        metrics |= {f"round/{k}": v for k, v in batch.report.items()}
        metrics |= {f"update/{k}": v for k, v in result.scalars().items()}
        metrics["seconds/collect"] = collected - started
        metrics["seconds/update"] = time.monotonic() - collected
        self.detections.append(metrics["episodes/detected"])
        stop = self._why_stop(result.entropy * batch.tokens)
        self.version_before, self.version = acted, settings.version_of(number)
        self.round = number + 1
        self.publish(self.policy, self.optimizer, self.version, number, metrics)
        return RoundReport(
            number, acted, self.version, len(episodes), self.detections[-1], metrics, stop
        )

    def chosen(self) -> str:
        """The version to go on with: the newest, or the one at the peak if practice passed it."""
        means = window_means(self.detections, self.settings.window)
        if not means or max(means) - means[-1] <= self.settings.drop:
            return self.version
        # Round k was acted by the version of round k - 1; the first rounds by the start.
        last = int(np.argmax(means)) + self.settings.window - 1
        return self.settings.version_of(last - 1) if last > 0 else self.version

    def _why_stop(self, entropy: float) -> str:
        settings = self.settings
        if entropy < settings.entropy_floor:
            return f"entropy {entropy:.2f} nats per decision is below {settings.entropy_floor}"
        means = window_means(self.detections, settings.window)
        if means and max(means) - means[-1] > settings.drop:
            return (
                f"detections fell from {max(means):.2f} to {means[-1]:.2f} (means of "
                f"{settings.window} rounds)"
            )
        return ""


def window_means(values: Sequence[float], window: int) -> list[float]:
    """Means of every `window` consecutive values; [] while there are fewer."""
    return [
        float(np.mean(values[i : i + window])) for i in range(len(values) - window + 1)
    ]


def round_plan(
    settings: PracticeSettings, number: int, policy_version: str, reward_version: str
) -> EpisodePlan:
    """The episodes of one round, drawn in advance as a function of (seed, round) alone."""
    generator = np.random.default_rng((settings.seed, 1, number))
    dealt: dict[str, list[PlannedEpisode]] = {robot: [] for robot in settings.robots}
    for index in range(settings.episodes_per_round):
        scene = {"seed": int(generator.integers(1, 2**31))} if settings.simulated else {}
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
        data_set=settings.data_set,
        episodes={robot: tuple(episodes) for robot, episodes in dealt.items()},
    )  # fmt: skip


def episode_metrics(episodes: Sequence[EpisodeData]) -> dict[str, float]:
    """Counts and means over a round's episodes; truth is not among what is known here."""
    count = max(len(episodes), 1)
    outcomes = [e.record.outcome for e in episodes]
    entries = {
        "episodes/count": len(episodes),
        "episodes/detected": sum(o is Outcome.SUCCESS for o in outcomes) / count,
        "episodes/faults": sum(o is Outcome.FAULT for o in outcomes),
        "episodes/interrupted": sum(o is Outcome.INTERRUPTED for o in outcomes),
        "episodes/interventions": sum(len(e.record.interventions) for e in episodes),
        "episodes/teleop_ticks": sum(int((e.source == SOURCE_TELEOP).sum()) for e in episodes),
        "episodes/ticks": sum(e.record.ticks for e in episodes) / count,
    }
    return {name: float(value) for name, value in entries.items()}
