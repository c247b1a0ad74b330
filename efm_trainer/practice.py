"""Practice: rounds of episodes with one policy version, an update, a new version, again.

Independent of the transport: `collect` runs a plan's episodes (over DDS and bags, or in process)
and returns them, `publish` makes the changed policy a version that can be loaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from efm_core.episode import Outcome
from efm_core.plan import EpisodePlan
from efm_model.model import EmbodiedModel
from efm_trainer.early_warning import LabelTally, WarningSettings, Watch, labels_of, watch
from efm_trainer.episode_data import SOURCE_TELEOP, EpisodeData
from efm_trainer.features import FeatureCache
from efm_trainer.improve import new_optimizer, update
from efm_trainer.practice_settings import PracticeSettings, round_plan
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
from efm_trainer.stopping import RoundTally, Verdict, best_round, judge, tally_of

_log = logging.getLogger(__name__)


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
    of `policy` now; version_before: the one that acted in the last round; start: the one that
    acted in the first (default: `version`). expected: precision to hold the detector to. optimizer,
    round, detections, tallies, labels: where a resumed run continues; ended: why it does not, ""
    where it does.
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
    start: str = ""
    expected: float = WarningSettings().default
    tallies: list[RoundTally] = field(default_factory=list)
    labels: list[LabelTally] = field(default_factory=list)
    ended: str = ""

    def __post_init__(self) -> None:
        """A run that begins does so with the version it is given."""
        self.start = self.start or self.version

    def run(
        self,
        log: MetricsLog | None = None,
        progress: ProgressCallback | None = None,
        on_round: OnRound | None = None,
        cancelled: Cancelled = never,
    ) -> list[RoundReport]:
        """Rounds until `settings.rounds` or a stop rule; none where one has ended the run before.

        Raises TrainingCancelledError between rounds when `cancelled()` turns true, and
        RoundRefusedError when episodes and checkpoints do not fit.
        """
        reports: list[RoundReport] = []
        total = self.settings.rounds
        pace = Pace(self.round / total)
        while self.round < total and not self.ended:
            if cancelled():
                raise TrainingCancelledError(f"practice stopped before round {self.round}")
            report = self.one_round()
            reports.append(report)
            done = self.round / total
            if log:
                why = {"ended": self.why_ended()} if self.why_ended() else {}
                log.write(report.round, report.metrics, version=report.published, **why)
            if on_round:
                on_round(report)
            if progress:
                progress(Progress("practice", done, pace.eta(done), report.metrics))
        if self.ended:
            _log.warning("practice ends after round %d: %s", self.round - 1, self.ended)
        return reports

    def why_ended(self) -> str:
        """Why no further round is run, "" while one is due."""
        done = self.round >= self.settings.rounds
        return self.ended or (f"all {self.settings.rounds} rounds are done" if done else "")

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
        records = [episode.record for episode in episodes]
        self.tallies.append(tally_of(records))
        self.labels.append(labels_of(records))
        metrics |= self.watched().scalars()
        if settings.stop == "auto":
            metrics |= {**self.verdict().scalars(), "stop/best": float(self.best())}
        self.ended = self._why_stop(result.entropy * batch.tokens)
        self.version_before, self.version = acted, settings.version_of(number)
        self.round = number + 1
        self.publish(self.policy, self.optimizer, self.version, number, metrics)
        return RoundReport(
            number, acted, self.version, len(episodes), self.detections[-1], metrics, self.ended
        )

    def verdict(self) -> Verdict:
        """What the stop rule says of the rounds so far."""
        return judge(self.tallies, self.settings.limit, self.settings.stopping)

    def watched(self) -> Watch:
        """What operators' labels say of the detector so far."""
        return watch(self.labels, self.expected, self.settings.warning)

    def best(self) -> int:
        """The round that was acted best by the detector's word, as far as that is to be trusted.

        After an alarm these are the rounds before labels and detector parted. Raises ValueError
        before the first round.
        """
        watched = self.watched()
        trusted = len(self.tallies) if watched.alarmed is None else max(watched.since, 1)
        return best_round(
            self.tallies[:trusted], self.settings.limit, self.settings.stopping
        )

    def chosen(self) -> str:
        """The version to go on with: the newest, or the one at the peak if practice passed it.

        With `stop: auto` the best by the detector's word; the newest has not acted yet.
        """
        if self.settings.stop == "auto" and self.tallies:
            return self._actor(self.best())
        means = window_means(self.detections, self.settings.window)
        if not means or max(means) - means[-1] <= self.settings.drop:
            return self.version
        return self._actor(int(np.argmax(means)) + self.settings.window - 1)

    def _actor(self, number: int) -> str:
        """The version that acted in a round: the last round's, in the first the start."""
        return self.settings.version_of(number - 1) if number > 0 else self.start

    def _why_stop(self, entropy: float) -> str:
        settings = self.settings
        if entropy < settings.entropy_floor:
            return f"entropy {entropy:.2f} nats per decision is below {settings.entropy_floor}"
        if settings.stop == "auto" and (alarm := self.watched().text):
            return alarm
        if settings.stop == "auto" and (verdict := self.verdict()).ends:
            return (
                f"plateau: over the last {settings.stopping.window} episodes the detector's score "
                f"({verdict.score:.3f}) rose by {verdict.rise:+.3f}, standard error "
                f"{verdict.error:.3f}"
            )
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


def episode_metrics(episodes: Sequence[EpisodeData]) -> dict[str, float]:
    """Counts and means over a round's episodes; truth is not among what is known here."""
    count = max(len(episodes), 1)
    outcomes = [e.record.outcome for e in episodes]
    resets = sum(e.record.reset_asked for e in episodes)
    entries = {
        "episodes/count": len(episodes),
        "episodes/detected": sum(o is Outcome.SUCCESS for o in outcomes) / count,
        "episodes/faults": sum(o is Outcome.FAULT for o in outcomes),
        "episodes/interrupted": sum(o is Outcome.INTERRUPTED for o in outcomes),
        "episodes/interventions": sum(len(e.record.interventions) for e in episodes),
        "episodes/resets": resets,
        "episodes/resets_per_100": 100.0 * resets / count,
        "episodes/teleop_ticks": sum(int((e.source == SOURCE_TELEOP).sum()) for e in episodes),
        "episodes/ticks": sum(e.record.ticks for e in episodes) / count,
    }
    return {name: float(value) for name, value in entries.items()}
