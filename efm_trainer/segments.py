"""Which decisions of an episode the policy gradient may use, and how each stretch of them ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_core.episode import Outcome
from efm_trainer.baseline import Segment
from efm_trainer.episode_data import SOURCE_POLICY, SOURCE_RESET, SOURCE_TELEOP, EpisodeData

_MATCH = 1e-6


@dataclass(frozen=True, slots=True)
class DecisionSegment:
    """K consecutive decisions of one episode.

    rows: int64 (K,), their rows in the `EpisodeData`.
    last_row: row of the observation after them.
    values: d at these K + 1 observations and how the stretch ends.
    as_sampled: bool (K,), executed exactly as sampled; only these get a policy-gradient loss.
    """

    rows: NDArray[np.int64]
    last_row: int
    values: Segment
    as_sampled: NDArray[np.bool_]


def decision_segments(
    episode: EpisodeData, steps_to_go: NDArray[np.float64], fault_tail: int = 10
) -> list[DecisionSegment]:
    """Cut an episode into stretches in which the policy was in charge.

    steps_to_go: float64 (N,), d in steps at every observation, from the frozen reward checkpoint.
    fault_tail: decisions dropped before a fault (about 1 / (1 - gamma): what they led to was never
        seen).

    A person's takeover and a missing frame cut a stretch, which then ends at the last observation
    before the cut and bootstraps there; a success ends it for good; a time limit or an operator's
    stop bootstraps.
    """
    end = episode.end_row
    record = episode.record
    ended_there = record.termination_reason in ("detector", "operator")
    terminal = record.outcome is Outcome.SUCCESS and ended_there
    if record.outcome is Outcome.FAULT:
        end = max(end - fault_tail, 0)
    taken = np.isin(episode.source, (SOURCE_TELEOP, SOURCE_RESET))
    contiguous = episode.contiguous
    decided = episode.bins[:, 0] >= 0
    result: list[DecisionSegment] = []
    start = 0
    for row in range(end + 1):
        cut = row == end or bool(taken[row]) or not contiguous[row]
        if not cut:
            continue
        rows = np.flatnonzero(decided[start:row]) + start
        # What comes before the first decision of a stretch happened without the policy.
        if rows.size and np.isfinite(steps_to_go[[*rows, row]]).all():
            values = Segment(steps_to_go[[*rows, row]], bootstrap=not (row == end and terminal))
            result.append(DecisionSegment(rows, row, values, _as_sampled(episode, rows, row)))
        start = row + 1 if row == end or not contiguous[row] or taken[row] else row
    return result


def _as_sampled(
    episode: EpisodeData, rows: NDArray[np.int64], last_row: int
) -> NDArray[np.bool_]:
    """Whether every command of each decision reached the robot unchanged and in full.

    An absolute target counts from the moment it is commanded; within its period the arm need not
    arrive, and `executed` says where it got to.
    """
    space = episode.space
    tolerance = _MATCH * (space.high - space.low) if space.kind == "delta" else np.inf
    following = [*rows[1:].tolist(), last_row]
    result = np.zeros(len(rows), dtype=bool)
    for k, (row, until) in enumerate(zip(rows.tolist(), following, strict=True)):
        # A chunk may be cut short only by the end of the stretch; it must never be stretched.
        length = until - row
        short = length < space.chunk and until != last_row
        if length > space.chunk or short:
            continue
        wanted = space.decode(episode.bins[row].reshape(space.chunk, space.size))[:length]
        done = episode.executed[row:until]
        result[k] = bool(
            np.all(episode.source[row:until] == SOURCE_POLICY)
            and not np.any(episode.modified[row:until])
            and np.all(np.abs(done - wanted) <= tolerance)
        )
    return result
