"""The success detector's threshold, held against episodes that a person labelled.

The labels are `labels.operator` alone: did the robot get there. The simulator's truth is never
read; in simulation an oracle operator may have given the labels, which the records then say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from efm_core.detector import DetectorSettings, SuccessDetector
from efm_trainer.episode_data import EpisodeData
from efm_trainer.intervals import wilson


class TooFewLabelsError(ValueError):
    """Too few labels of one kind to choose a detector by."""


class CalibrationConfig(BaseModel):
    """What is wanted, and what may be tried when labels say that `start` does not give it.

    thresholds: steps, ascending, `start` among them; hold: ticks. Fifty labels can't tell good
    thresholds apart, and the best of several on them looks better than it is, so `start` stays
    unless they contradict it: where the 95 % interval of the precision lies below `precision`,
    the next stricter one whose interval does not; where that of the recall lies below `recall`,
    the next looser one that mends it (or the loosest) among those whose expected precision,
    (true + 1) / (fired + 2), Laplace's rule of succession, reaches `precision`. Below a hold of 3
    near misses fire: a block passes the goal's border within one or two ticks; above 0.85 steps
    practice learns to stop short (docs/log.md). minimum_labels: of each kind, below which nothing
    is chosen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    thresholds: tuple[Annotated[float, Field(gt=0.0)], ...] = (
        0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85,
    )  # fmt: skip
    start: float = 0.5
    hold: Annotated[int, Field(ge=1)] = 4
    release: Annotated[float, Field(ge=0.0)] = 0.3
    minimum_ticks: Annotated[int, Field(ge=0)] = 2
    precision: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    recall: Annotated[float, Field(ge=0.0, le=1.0)] = 0.7
    minimum_labels: Annotated[int, Field(ge=1)] = 5

    @model_validator(mode="after")
    def _in_order(self) -> CalibrationConfig:
        rising = all(low < high for low, high in itertools.pairwise(self.thresholds))
        if not rising or self.start not in self.thresholds:
            raise ValueError(
                f"thresholds={self.thresholds}, start={self.start}: give rising thresholds, and "
                "one of them as start"
            )
        return self

    def detector(self, threshold: float) -> DetectorSettings:
        """The detector with one of the thresholds."""
        return DetectorSettings(
            threshold=threshold, hold=self.hold, release=self.release,
            minimum_ticks=self.minimum_ticks,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trace:
    """One labelled episode: d in steps at every observation, and the label.

    reached: row at which the operator said success and the arm was held, None where the label
    came afterwards: then a detection at any time counts as one of this success.
    """

    episode_id: str
    steps_to_go: NDArray[np.float64]
    label: bool
    source: str
    reached: int | None = None


@dataclass(frozen=True, slots=True)
class DetectorQuality:
    """Counts over episodes, with 95 % Wilson intervals.

    A true positive fired at or after the moment of success: firing too early stops the robot
    short of its goal, so it is a false positive and, the success being missed, a false negative.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """Share of fired episodes that were successes; 0 when none fired."""
        return self.true_positives / max(self.true_positives + self.false_positives, 1)

    @property
    def expected_precision(self) -> float:
        """Precision to expect on further episodes: Laplace's rule of succession."""
        return (self.true_positives + 1) / (self.true_positives + self.false_positives + 2)

    @property
    def recall(self) -> float:
        """Share of successes that fired; 0 when there was none."""
        return self.true_positives / max(self.true_positives + self.false_negatives, 1)

    @property
    def precision_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the precision."""
        return wilson(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the recall."""
        return wilson(self.true_positives, self.true_positives + self.false_negatives)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The chosen settings, their quality, whether the wanted precision was reached, and on what."""

    settings: DetectorSettings
    quality: DetectorQuality
    reached: bool
    episode_ids: tuple[str, ...]
    label_sources: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """Name -> figure, for the manifest."""
        q = self.quality
        return {
            "detector/precision": q.precision,
            "detector/precision_low": q.precision_interval[0],
            "detector/recall": q.recall,
            "detector/recall_low": q.recall_interval[0],
            "detector/episodes": float(len(self.episode_ids)),
        }


def trace_of(episode: EpisodeData, steps_to_go: NDArray[np.float64]) -> Trace | None:
    """The trace of an episode with an operator's label, None without one.

    steps_to_go: float64 (N,), recomputed d. Where the operator ended the episode by saying success
    the still frames after it are kept: the detector has them too before it must have fired.
    """
    label = episode.record.labels.operator
    if label is None:
        return None
    source = episode.record.labels.operator_source or "person"
    ended = label and episode.record.termination_reason == "operator"
    return Trace(
        episode.record.episode_id,
        steps_to_go if ended else steps_to_go[: episode.end_row + 1],
        label,
        source,
        episode.end_row if ended else None,
    )


def first_detection(steps_to_go: NDArray[np.float64], settings: DetectorSettings) -> int | None:
    """The tick at which the detector first fires on d (T + 1,), None if never."""
    detector = SuccessDetector(settings)
    for tick, d in enumerate(steps_to_go.tolist()):
        if detector.update(d, tick):
            return tick
    return None


def quality_of(traces: Sequence[Trace], settings: DetectorSettings) -> DetectorQuality:
    """Counts of a detector over labelled episodes."""
    at = [first_detection(t.steps_to_go, settings) for t in traces]
    fired = np.array([tick is not None for tick in at])
    label = np.array([t.label for t in traces])
    right = np.array(
        [
            t.label and tick is not None and tick >= (t.reached or 0)
            for t, tick in zip(traces, at, strict=True)
        ]
    )
    return DetectorQuality(
        int(right.sum()), int((fired & ~right).sum()),
        int((label & ~right).sum()), int((~fired & ~label).sum()),
    )  # fmt: skip


def calibrate(traces: Sequence[Trace], config: CalibrationConfig) -> Calibration:
    """Choose a threshold; see `CalibrationConfig`.

    Raises TooFewLabelsError when either kind of label is rarer than `minimum_labels`.
    """
    positive = sum(t.label for t in traces)
    if min(positive, len(traces) - positive) < config.minimum_labels:
        raise TooFewLabelsError(
            f"{positive} successes and {len(traces) - positive} failures are labelled, at least "
            f"{config.minimum_labels} of each are needed; label more calibration episodes"
        )
    tried = [quality_of(traces, config.detector(threshold)) for threshold in config.thresholds]
    chosen = _chosen(tried, config)
    return Calibration(
        config.detector(config.thresholds[chosen]), tried[chosen],
        bool(tried[chosen].true_positives) and not _contradicted(tried[chosen], config),
        tuple(t.episode_id for t in traces), tuple(sorted({t.source for t in traces})),
    )  # fmt: skip


def _chosen(tried: Sequence[DetectorQuality], config: CalibrationConfig) -> int:
    """Which threshold; `tried` are in their order."""
    start = config.thresholds.index(config.start)
    if _contradicted(tried[start], config):
        firing = [i for i in range(start, -1, -1) if tried[i].true_positives]
        stricter = [i for i in firing if not _contradicted(tried[i], config)]
        best = max(firing or [start], key=lambda i: tried[i].expected_precision)
        return stricter[0] if stricter else best
    if tried[start].recall_interval[1] >= config.recall:
        return start
    looser = [
        i for i in range(start + 1, len(tried)) if tried[i].expected_precision >= config.precision
    ]
    enough = [i for i in looser if tried[i].recall_interval[1] >= config.recall]
    return (enough[:1] or looser[-1:] or [start])[0]


def _contradicted(quality: DetectorQuality, config: CalibrationConfig) -> bool:
    """Whether the labels say that the precision is less than wanted."""
    fired = quality.true_positives + quality.false_positives
    return fired > 0 and quality.precision_interval[1] < config.precision
