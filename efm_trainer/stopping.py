"""When practice has stopped helping, by the frozen detector's word alone; never by truth.

An episode that the detector ends at tick t of at most L scores 1 - slowness * t / L, one that runs
into its limit 0: successes first, and among equal ones the quicker. A straight line through the
scores of the last `window` episodes (least squares) says by how much they rose; practice ends when
that is not more than its standard error. The version that is kept is the one whose own round,
smoothed with the rounds beside it, has the highest score: what comes after a peak is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from efm_core.episode import EpisodeRecord


class StopSettings(BaseModel):
    """Constants of the rule, chosen on dev seeds (docs/training.md).

    window: episodes whose trend decides; no end before that many. The best version is looked for
    with rounds smoothed over half of it to either side. slowness: what a detection at the very
    limit loses, 0..1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Annotated[int, Field(ge=2)] = 768
    slowness: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5


class RoundTally(BaseModel):
    """What a round's records say: episodes that count, those the detector ended, and when.

    ticks, squared_ticks: sums over the detected episodes of t and of t squared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    episodes: Annotated[int, Field(ge=0)] = 0
    detected: Annotated[int, Field(ge=0)] = 0
    ticks: Annotated[int, Field(ge=0)] = 0
    squared_ticks: Annotated[int, Field(ge=0)] = 0

    def score(self, limit: int, slowness: float) -> tuple[float, float]:
        """Mean of the episodes' scores and their variance; both 0 without an episode."""
        if not self.episodes:
            return 0.0, 0.0
        share = slowness / limit
        squares = self.detected - 2 * share * self.ticks + share**2 * self.squared_ticks
        mean = (self.detected - share * self.ticks) / self.episodes
        return mean, max(squares / self.episodes - mean * mean, 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a run stands after a round.

    score: mean of the last window's episodes, 0..1. rise: of the line through them, from the middle
    of the first round to that of the last; error: its standard error. ends: whether practice should
    end here.
    """

    score: float
    rise: float
    error: float
    ends: bool

    def scalars(self) -> dict[str, float]:
        """Name -> figure, for metrics files and plots."""
        return {f"stop/{name}": float(getattr(self, name)) for name in self.__slots__}


def tally_of(records: Sequence[EpisodeRecord]) -> RoundTally:
    """Count a round's records.

    Left out: episodes cut by a fault, a crash or a person, and those called by a person before
    the detector said anything. A person's takeover makes an episode one that was not detected.
    """
    counted = [r for r in records if r.termination_reason in ("detector", "timeout")]
    ticks = [
        r.ticks for r in counted if r.termination_reason == "detector" and not r.interventions
    ]
    return RoundTally(
        episodes=len(counted), detected=len(ticks), ticks=sum(ticks),
        squared_ticks=sum(t * t for t in ticks),
    )  # fmt: skip


def judge(tallies: Sequence[RoundTally], limit: int, settings: StopSettings) -> Verdict:
    """The verdict after these rounds, a function of its arguments alone.

    limit: control ticks that an episode may take.
    """
    recent = _recent(tallies, settings.window)
    counts = [t.episodes for t in recent]
    total = sum(counts)
    if not total:
        return Verdict(0.0, 0.0, 0.0, ends=False)
    scores = [t.score(limit, settings.slowness) for t in recent]
    middles = _middles(recent)
    centre = sum(n * x for n, x in zip(counts, middles, strict=True)) / total
    score = sum(n * y for n, (y, _) in zip(counts, scores, strict=True)) / total
    spread = sum(n * (x - centre) ** 2 for n, x in zip(counts, middles, strict=True))
    if not spread:
        return Verdict(score, 0.0, 0.0, ends=False)
    slope = (
        sum(n * (x - centre) * y for n, x, (y, _) in zip(counts, middles, scores, strict=True))
        / spread
    )
    # Chance within rounds alone; the policy's own change from round to round is what is fitted.
    variance = sum(n * v for n, (_, v) in zip(counts, scores, strict=True)) / total
    way = middles[-1] - middles[0]
    rise, error = slope * way, math.sqrt(variance / spread) * way
    return Verdict(score, rise, error, ends=total >= settings.window and rise <= error)


def best_round(tallies: Sequence[RoundTally], limit: int, settings: StopSettings) -> int:
    """The round whose policy did best, smoothed with those beside it; of equal ones the later.

    A neighbour's weight falls in a straight line to 0 at half a window of episodes: a round by
    itself is mostly chance. Raises ValueError without a round.
    """
    if not tallies:
        raise ValueError("no round to choose from; run one first")
    middles = _middles(tallies)
    scores = [t.score(limit, settings.slowness)[0] for t in tallies]
    smoothed = []
    for middle in middles:
        near = [
            max(1.0 - 2.0 * abs(x - middle) / settings.window, 0.0) * t.episodes
            for x, t in zip(middles, tallies, strict=True)
        ]
        weighed = sum(w * y for w, y in zip(near, scores, strict=True))
        smoothed.append(weighed / sum(near) if sum(near) else 0.0)
    return max(range(len(tallies)), key=lambda i: (smoothed[i], i))


def _recent(tallies: Sequence[RoundTally], window: int) -> list[RoundTally]:
    """The newest rounds that together have at least `window` episodes, or all; oldest first."""
    chosen: list[RoundTally] = []
    for tally in reversed(tallies):
        if sum(t.episodes for t in chosen) >= window:
            break
        chosen.insert(0, tally)
    return chosen


def _middles(tallies: Sequence[RoundTally]) -> list[float]:
    """How many episodes lie before the middle of each round."""
    middles, passed = [], 0.0
    for tally in tallies:
        middles.append(passed + tally.episodes / 2)
        passed += tally.episodes
    return middles
