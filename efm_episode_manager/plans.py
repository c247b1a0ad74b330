"""Which episode of a plan is next: those that are on disk are done, whoever recorded them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from efm_core.plan import EpisodePlan, PlannedEpisode

_log = logging.getLogger(__name__)

RECORD_FILE = "episode.json"
DISCARDED = ".discarded"
"""Folder of a data set with the episodes that a person threw away after they were saved."""


def saved_indices(data_set: Path, plan_id: str, robot: str) -> set[int]:
    """Indices of the plan's episodes of `robot` that are saved below `data_set`.

    An episode that was interrupted and saved counts as done: it is marked, not replaced, so that
    long (failing) episodes are not crowded out. So does one that was discarded once it was saved:
    whoever discards it wants one less.
    """
    done: set[int] = set()
    discarded = data_set.glob(f"{DISCARDED}/*/{RECORD_FILE}")
    for file in (*data_set.glob(f"*/{RECORD_FILE}"), *discarded):
        if file.parent.suffix == ".partial":
            continue
        try:
            record = json.loads(file.read_text())
        except (OSError, json.JSONDecodeError) as error:
            _log.warning("%s cannot be read and is not counted as done: %s", file, error)
            continue
        if record.get("plan") == plan_id and record.get("robot") == robot:
            done.add(int(record["index"]))
    return done


class PlanProgress:
    """One robot's list of one plan and what of it is done."""

    def __init__(self, plan: EpisodePlan, robot: str, data_dir: Path) -> None:
        self.plan = plan
        self.data_set = data_dir / plan.data_set
        self._mine = plan.episodes.get(robot, ())
        self._done = saved_indices(self.data_set, plan.plan_id, robot) & {
            p.index for p in self._mine
        }
        self._saving: set[int] = set()
        self._kept: set[int] | None = None

    @property
    def closed(self) -> bool:
        """Whether the list was cut short by `close`."""
        return self._kept is not None

    @property
    def total(self) -> int:
        """Episodes listed for this robot; once closed, those that were recorded."""
        if self._kept is None:
            return len(self._mine)
        return len(self._done | self._saving | self._kept)

    @property
    def done(self) -> int:
        """Episodes of the list that are saved."""
        return len(self._done)

    def next(self) -> PlannedEpisode | None:
        """The first listed episode that is neither saved nor being saved, None without one."""
        if self.closed:
            return None
        taken = self._done | self._saving
        return next((p for p in self._mine if p.index not in taken), None)

    def close(self, running: int | None) -> None:
        """No further episode; `running` is the index of the one that goes on and is kept."""
        self._kept = set() if running is None else {running}

    def saving(self, index: int) -> None:
        """Episode `index` is recorded and on its way to the disk."""
        self._saving.add(index)

    def saved(self, index: int, done: bool) -> None:
        """Episode `index` is on disk, or (not `done`) it was thrown away or could not be saved."""
        self._saving.discard(index)
        if self._kept is not None:
            self._kept.discard(index)
        if done:
            self._done.add(index)
