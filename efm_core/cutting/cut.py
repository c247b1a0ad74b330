"""Recordings of other people -> a data set of episodes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from efm_core.bags.episode_writer import PARTIAL, RECORD_NAME, RESERVE_BYTES, lock_directory
from efm_core.bags.errors import BagError
from efm_core.bags.reader import read_record
from efm_core.cutting.events import Wanted, wanted_episodes
from efm_core.cutting.foreign import ForeignBag
from efm_core.cutting.mapping import CutMapping, check_mapping
from efm_core.cutting.plan import CannotCutError, EpisodePlan, Planner
from efm_core.cutting.scan import Scanner
from efm_core.cutting.sweep import Sweep
from efm_core.fleet import RobotDescription

_log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
"""(messages read, messages to be read), of all bags."""
_Spoilt = frozenset[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class CutEpisode:
    """What became of one episode of a recording.

    start_s, end_s: since the bag's beginning. plan: None where it was skipped. path: its
    directory, None where it was skipped. reason: why. known: it was there already.
    """

    bag: Path
    start_s: float
    end_s: float
    plan: EpisodePlan | None = None
    path: Path | None = None
    reason: str = ""
    known: bool = False


@dataclass(frozen=True, slots=True)
class CutJob:
    """What to cut and where to. fleet: its name, for the records. reserve_bytes: left free."""

    mapping: CutMapping
    robot: RobotDescription
    data_set: Path
    fleet: str = ""
    reserve_bytes: int = RESERVE_BYTES


def cut_bags(job: CutJob, bags: Sequence[Path], tell: Progress) -> Iterator[CutEpisode]:
    """Cut every episode that is not there yet, one bag after the other.

    All bags are opened and compared with the mapping before anything is written. Raises
    MappingError or BagError; episodes cut before are whole and stay, the same call goes on.
    """
    check_mapping(job.mapping, job.robot)
    total = 0
    for path in bags:
        with ForeignBag(path) as bag:
            total += 2 * bag.count(Scanner(bag, job.mapping, job.robot).topics)
    done = 0
    for path in bags:
        with ForeignBag(path) as bag:
            scanner = Scanner(bag, job.mapping, job.robot)
            worker = _BagCut(job, bag, scanner, tell, done, total)
            yield from worker.run()
            done += 2 * bag.count(scanner.topics)
    tell(total, total)


class _BagCut:
    """One recording's episodes."""

    def __init__(
        self, job: CutJob, bag: ForeignBag, scanner: Scanner, tell: Progress, done: int, total: int
    ) -> None:
        self._job, self._bag, self._scanner = job, bag, scanner
        self._tell, self._done, self._total = tell, done, total
        self._begin_ns = bag.start_ns
        self._wanted: dict[str, Wanted] = {}

    def run(self) -> Iterator[CutEpisode]:
        """Read it, plan, write; again for episodes of which pictures turn out to be damaged."""
        job = self._job
        scan = self._scanner.read(self._count)
        self._begin_ns = scan.begin_ns
        for topic, number in scan.unreadable.items():
            _log.warning("%s: %d messages on %s make no sense", self._bag.path, number, topic)
        planner = Planner(job.mapping, job.robot, scan, job.fleet)
        spoilt: _Spoilt = frozenset()
        todo = wanted_episodes(job.mapping, scan, self._bag.path.name)
        if not todo:
            yield CutEpisode(self._bag.path, 0.0, 0.0, reason="the mapping finds no episode in it")
        while todo:
            plans: list[EpisodePlan] = []
            for wanted in todo:
                found = self._planned(planner, wanted, spoilt)
                if isinstance(found, EpisodePlan):
                    plans.append(found)
                else:
                    yield found
            todo = []
            sweep = Sweep(self._bag, job.mapping, job.data_set, job.reserve_bytes)
            for plan, path, damaged in sweep.write(plans, self._count) if plans else ():
                wanted = self._wanted[plan.record.episode_id]
                if path is None:
                    spoilt |= damaged
                    todo.append(wanted)
                else:
                    yield self._told(wanted, plan=plan, path=path)

    def _planned(
        self, planner: Planner, wanted: Wanted, spoilt: _Spoilt
    ) -> EpisodePlan | CutEpisode:
        try:
            plan = planner.plan(wanted, spoilt)
        except CannotCutError as error:
            return self._told(wanted, reason=str(error))
        identifier = plan.record.episode_id
        if identifier in self._wanted:
            return self._told(wanted, reason="another episode of this bag is the same")
        path = self._job.data_set / identifier
        if path.exists():
            if (path / RECORD_NAME).exists() and not read_record(path).recovered:
                return self._told(wanted, plan=plan, path=path, known=True)
            return self._told(
                wanted, reason=f"{path} is what is left of an interrupted cut; remove it"
            )
        _clear(path.with_name(identifier + PARTIAL))
        self._wanted[identifier] = wanted
        return plan

    def _told(
        self,
        wanted: Wanted,
        plan: EpisodePlan | None = None,
        path: Path | None = None,
        reason: str = "",
        known: bool = False,
    ) -> CutEpisode:
        start, end = ((at - self._begin_ns) / 1e9 for at in (wanted.start_ns, wanted.end_ns))
        return CutEpisode(self._bag.path, start, end, plan, path, reason, known)

    def _count(self, number: int) -> None:
        self._done = min(self._done + number, self._total)
        self._tell(self._done, self._total)


def _clear(partial: Path) -> None:
    """Drop what a cut that was killed left of an episode. Raises BagError while one is at it."""
    if not partial.exists():
        return
    lock = lock_directory(partial)
    if lock is None:
        raise BagError(f"{partial} is being written by another process; wait for it")
    try:
        shutil.rmtree(partial)
    finally:
        os.close(lock)
