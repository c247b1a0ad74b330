"""Early warning: do the detector's successes still agree with what operators say of them?

The only truth here are operator labels on episodes that the detector ended; a run without labels
is never warned. Tested is "the precision is at least the calibrated one, p0" against lower ones by
a likelihood ratio that may be looked at after every round: for a precision q below p0 and a change
in round k it is L(k, q) = product over the rounds from k on of
(q / p0)^right ((1 - q) / (1 - p0))^wrong. Averaged over q and over k with weights
1 / (k (k + 1)) it is a supermartingale from 1 wherever the precision stays at p0 or above, so that
it ever reaches 1 / level has at most the probability `level` (J. Ville 1939; A. Wald, "Sequential
Analysis", 1947, is the case of one q and one k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from efm_core.episode import EpisodeRecord

_ALTERNATIVES = 20
_LOWEST = 0.05


class WarningSettings(BaseModel):
    """How sure a warning is and what it is about.

    level: most probability of a false alarm in a whole run, however long. margin: how far below the
    calibrated precision the alternatives begin; a loss of less than about half of it is let pass.
    ceiling: more is expected of no detector: it is what calibration asks for, and no error in a few
    dozen labels proves no more. default: precision expected
    of a detector that was never calibrated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    margin: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    ceiling: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.9
    default: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.9

    def expected(self, calibrated: float | None) -> float:
        """The precision p0 to hold a detector to, given what its calibration found."""
        found = self.default if calibrated is None else calibrated
        return min(max(found, self.margin + 2 * _LOWEST), self.ceiling)


class LabelTally(BaseModel):
    """Of a round's episodes that the detector ended: those that an operator called right, wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    right: Annotated[int, Field(ge=0)] = 0
    wrong: Annotated[int, Field(ge=0)] = 0

    @property
    def count(self) -> int:
        """Labelled detections."""
        return self.right + self.wrong


@dataclass(frozen=True, slots=True)
class Watch:
    """What the labels say after a round.

    evidence: the averaged likelihood ratio, at most 1 in the mean where all is well; the largest so
    far where it has reached 1 / level. alarmed: number of the round in which it did, None where it
    has not. since: the round from which on the labels speak most against p0. labels, precision:
    labelled detections from that round on, and the share of them that were right (1 of none).
    expected: p0.
    """

    evidence: float
    alarmed: int | None
    since: int
    labels: int
    precision: float
    expected: float

    @property
    def text(self) -> str:
        """The warning in words, "" without an alarm."""
        if self.alarmed is None:
            return ""
        return (
            f"early warning in round {self.alarmed}: since round {self.since} operators called "
            f"{self.precision:.0%} of {self.labels} detected successes right, calibrated were "
            f"{self.expected:.0%}; what practice learns from this detector is no longer what is "
            "wanted. Look at these episodes, label more, calibrate anew"
        )

    def scalars(self) -> dict[str, float]:
        """Name -> figure, for metrics files and plots."""
        return {
            "warning/alarm": float(self.alarmed is not None),
            "warning/evidence": min(self.evidence, 1e12),
            "warning/labels": float(self.labels),
            "warning/precision": self.precision,
        }


def labels_of(records: Sequence[EpisodeRecord]) -> LabelTally:
    """Count a round's labels on what the detector called successes."""
    said = [
        r.labels.operator
        for r in records
        if r.termination_reason == "detector" and r.labels.operator is not None
    ]
    return LabelTally(right=sum(said), wrong=len(said) - sum(said))


def watch(
    tallies: Sequence[LabelTally], expected: float, settings: WarningSettings
) -> Watch:
    """The state after these rounds, a function of its arguments alone; an alarm stays.

    expected: p0 as from `WarningSettings.expected`.
    """
    q = np.linspace(_LOWEST, max(expected - settings.margin, _LOWEST), _ALTERNATIVES)
    begun = np.full(len(q), -np.inf)  # log of sum over k of weight * L(k, q)
    evidence, labelled, alarmed = 1.0, 0, None
    for number, tally in enumerate(tallies):
        if not tally.count:
            continue
        labelled += 1
        weight = -math.log(labelled * (labelled + 1))
        begun = np.logaddexp(begun, weight) + _log_ratio(tally, q, expected)
        now = math.exp(min(_log_mean(begun), 700.0)) + 1.0 / (labelled + 1)
        evidence = max(now, evidence) if alarmed is not None else now
        if alarmed is None and evidence >= 1.0 / settings.level:
            alarmed = number
    since = _since(tallies, q, expected)
    rest = tallies[since:]
    count, right = sum(t.count for t in rest), sum(t.right for t in rest)
    return Watch(evidence, alarmed, since, count, right / count if count else 1.0, expected)


def _log_ratio(tally: LabelTally, q: NDArray[np.float64], p0: float) -> NDArray[np.float64]:
    """Log likelihood of a round's labels with precision q over that with p0, (len(q),)."""
    right, wrong = np.log(q / p0), np.log((1 - q) / (1 - p0))
    ratio: NDArray[np.float64] = tally.right * right + tally.wrong * wrong
    return ratio


def _log_mean(values: NDArray[np.float64]) -> float:
    return float(np.logaddexp.reduce(values)) - math.log(len(values))


def _since(tallies: Sequence[LabelTally], q: NDArray[np.float64], p0: float) -> int:
    """The round from which on the labels are least likely under p0; 0 without labels."""
    total = np.zeros(len(q))
    best, since = -math.inf, 0
    for number in range(len(tallies) - 1, -1, -1):
        total = total + _log_ratio(tallies[number], q, p0)
        if tallies[number].count and _log_mean(total) > best:
            best, since = _log_mean(total), number
    return since
