"""A recorded evaluation once more in one process: same scenes, same draws, same decisions?

The draws of an episode depend on its id (`efm_core.observation.draws`), so an episode repeated
under the id of its record must decide the same at every tick, whatever transport recorded it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efm_core import messages, topics
from efm_core.actions import ActionSpace
from efm_core.bags import EpisodeReader, list_episodes
from efm_core.episode import EpisodeRecord
from efm_core.plan import EpisodePlan
from efm_trainer.episode_run import FinishedEpisode
from efm_trainer.robot import Brain
from efm_trainer.rollout import InProcessFleet


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """The record of an episode and the tokens decided at each of its ticks, int64 (T, tokens).

    A row of -1: no decision of that tick is in the bag.
    """

    record: EpisodeRecord
    bins: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Repetition:
    """One episode twice.

    same_decisions: ticks, counted from the first, at which both decided the same. ticks: of the
    recorded episode. missing: ticks whose decision is not in its bag. same_end: equal length, and
    equal success by the simulator's truth.
    """

    episode_id: str
    same_decisions: int
    ticks: int
    missing: int
    same_end: bool

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.same_end and self.same_decisions == self.ticks

    def __str__(self) -> str:
        """What differs, in words."""
        if self.same:
            return f"{self.episode_id}: all {self.ticks} decisions are the same"
        what = f"decided otherwise at tick {self.same_decisions} of {self.ticks}"
        if self.same_decisions == self.ticks:
            what = f"decided the same at all {self.ticks} ticks"
        lost = f", {self.missing} decisions are not in the bag" if self.missing else ""
        end = "the same" if self.same_end else "otherwise"
        return f"{self.episode_id}: {what}{lost}, ended {end}"


def read_recorded(data_set: Path, plan_id: str) -> dict[int, RecordedEpisode]:
    """Index -> episode of one plan in a data set. Raises ValueError when there is none."""
    found = {}
    for path in list_episodes(data_set):
        reader = EpisodeReader(path)
        if reader.record.plan == plan_id:
            found[reader.record.index] = RecordedEpisode(reader.record, _decisions(reader))
    if not found:
        raise ValueError(
            f"{data_set} holds no episode of plan '{plan_id}'; give the data set, policy and "
            "seed of the recorded evaluation"
        )
    return found


def _decisions(reader: EpisodeReader) -> NDArray[np.int64]:
    """Tokens by tick; a decision that was published twice counts once."""
    record = reader.record
    space = ActionSpace.model_validate(record.action_space)
    bins = np.full((record.ticks, space.tokens), -1, dtype=np.int64)
    for _, type_name, _, raw in reader.messages([f"/{record.robot}/{topics.DECISION.name}"]):
        message = messages.deserialize(raw, type_name)
        _, decision = messages.read_decision(message, space)
        # One that answered the last episode and came late lies before this one's first stamp.
        tick = round((messages.stamp_of(message) - record.start_ns) * record.rate / 1e9)
        if 0 <= tick < record.ticks and bins[tick, 0] < 0:
            bins[tick] = decision.bins.reshape(-1)
    return bins


def repeat(
    fleet: InProcessFleet,
    brain: Brain,
    plan: EpisodePlan,
    recorded: Mapping[int, RecordedEpisode],
) -> list[Repetition]:
    """Run the recorded episodes of `plan` again under their own ids, in order of their index."""
    episodes = {
        robot: tuple(
            e.model_copy(update={"repeats": recorded[e.index].record.episode_id})
            for e in listed
            if e.index in recorded
        )
        for robot, listed in plan.episodes.items()
    }
    again = fleet.practise(plan.model_copy(update={"episodes": episodes}), brain)
    ordered = sorted(again, key=lambda episode: episode.record.index)
    return [_compare(recorded[episode.record.index], episode) for episode in ordered]


def _compare(before: RecordedEpisode, again: FinishedEpisode) -> Repetition:
    ticks = before.record.ticks
    mine, theirs = again.data.bins[:ticks], before.bins
    rows = len(mine)
    same = (mine == theirs[:rows]).all(axis=1)
    leading = rows if same.all() else int(np.argmin(same))
    missing = int((theirs[:, 0] < 0).sum())
    ended = again.record.ticks == ticks
    truth = again.record.labels.truth == before.record.labels.truth
    return Repetition(before.record.episode_id, leading, ticks, missing, ended and truth)
