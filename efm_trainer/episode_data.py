"""One episode as arrays: what a robot saw, did and was told, and never the simulator's truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_core.actions import ActionSpace
from efm_core.episode import EpisodeRecord, Labels, Mode, Outcome
from efm_trainer.stored_pictures import Pictures

SOURCE_HOLD, SOURCE_POLICY, SOURCE_TELEOP, SOURCE_RESET = 0, 1, 2, 3
SOURCE_NONE = -1


def without_truth(record: EpisodeRecord) -> EpisodeRecord:
    """The record without `labels.truth` and what a robot's reset says of its blocks.

    Nothing that learns may see either; that a reset was needed stays.
    """
    labels = Labels(
        operator=record.labels.operator, operator_source=record.labels.operator_source
    )
    return record.model_copy(update={"labels": labels, "reset_reason": ""})


@dataclass(frozen=True, slots=True)
class EpisodeData:
    """N observations of one episode and what belongs to each (row i, aligned by stamp).

    Rows 0..end_row-1 are the decisions of the episode, row end_row its last observation, later
    rows the still frames recorded after a success.

    record: the episode's record, `labels.truth` always None.
    space: the action space the values are written in.
    images: camera name -> uint8 (N, H, W, 3), RGB, as the policy received them; an array, or rows
        that are read from a cache when asked for.
    state: name -> float64 (N,), proprioception (rad or m, robot base frame); NaN where missing.
    stamps: int64 (N,), ns, ascending.
    bins: int64 (N, tokens), the sampled tokens; -1 where no decision was published.
    log_prob, temperature: float64 (N,), of the decision in nats and 1; NaN without a decision.
    policy_versions: (N,) version that decided; "" without a decision.
    executed: float64 (N, D), what the guard executed in action-space units; NaN where unknown.
    source: int64 (N,), guard's source (0 hold, 1 policy, 2 teleop, 3 reset), -1 unknown or mixed.
    modified: bool (N,), whether the guard changed the command it was given.
    steps_to_go: float64 (N,), d(o_i, g) in steps as published live; NaN where missing.
    reward_versions: (N,) version that gave it; "" where missing.
    end_row: row of the observation that ended the episode.
    """

    record: EpisodeRecord
    space: ActionSpace
    images: Mapping[str, Pictures]
    state: Mapping[str, NDArray[np.float64]]
    stamps: NDArray[np.int64]
    bins: NDArray[np.int64]
    log_prob: NDArray[np.float64]
    temperature: NDArray[np.float64]
    policy_versions: tuple[str, ...]
    executed: NDArray[np.float64]
    source: NDArray[np.int64]
    modified: NDArray[np.bool_]
    steps_to_go: NDArray[np.float64]
    reward_versions: tuple[str, ...]
    end_row: int

    def __post_init__(self) -> None:
        """Refuse truth and arrays that don't belong together."""
        if self.record.labels.truth is not None:
            raise ValueError(
                f"episode {self.record.episode_id}: labels.truth reached the trainer; "
                "pass the record through without_truth first"
            )
        rows = len(self.stamps)
        lengths = {f"images.{k}": len(v) for k, v in self.images.items()}
        lengths |= {f"state.{k}": len(v) for k, v in self.state.items()}
        names = ("bins", "log_prob", "temperature", "policy_versions", "executed", "source",
                 "modified", "steps_to_go", "reward_versions")  # fmt: skip
        lengths |= {name: len(getattr(self, name)) for name in names}
        wrong = {name: length for name, length in lengths.items() if length != rows}
        if wrong:
            raise ValueError(
                f"episode {self.record.episode_id}: {rows} observations but lengths {wrong}"
            )
        if not 0 <= self.end_row < max(rows, 1):
            raise ValueError(
                f"episode {self.record.episode_id}: end_row={self.end_row} outside its {rows} rows"
            )

    def __len__(self) -> int:
        """Number of observations N."""
        return len(self.stamps)

    @property
    def instruction(self) -> str:
        """The goal g in natural language."""
        return self.record.instruction

    @property
    def contiguous(self) -> NDArray[np.bool_]:
        """Whether row i + 1 follows row i within 1.5 control periods, bool (N - 1,)."""
        return np.diff(self.stamps) <= 1.5e9 / self.record.rate

    @property
    def succeeded(self) -> bool:
        """Whether a person (or the robot, in a demonstration) called the episode a success."""
        if self.record.labels.operator is not None:
            return self.record.labels.operator
        return self.record.mode is Mode.DEMO and self.record.outcome is Outcome.SUCCESS
