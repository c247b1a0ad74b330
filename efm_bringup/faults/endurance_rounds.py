"""Rounds without any fault: 1,000 episodes in a row, in which no process may grow."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efm_bringup.faults.fleet_rounds import Findings, free_name, judge_episodes, seed_of
from efm_bringup.faults.results import Round, Trial
from efm_bringup.faults.testbed import Shape, Testbed

SHAPE = Shape(robots=2)
EPISODES, TICKS = 1000, 5
"""Of all robots together; lockstep ticks of each."""
SETTLED = 100
"""Episodes after which a process may not grow: until then code is loaded and caches fill."""
GROWTH_MB = 1.0
"""Most that a process may grow per 100 episodes."""
SAMPLE_SECONDS = 1.0
FEWEST_SAMPLES = 30
END_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A process after `episodes` saved ones: resident memory in MB, open file handles."""

    episodes: int
    memory_mb: float
    handles: int


def endurance_round(bed: Testbed, trial: Trial, number: int, seed: int) -> Round:
    """One plan of EPISODES episodes, nobody near, every process looked at once a second."""
    found, began = Findings(), time.monotonic()
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    restarts = bed.runner.restarts
    name = free_name(bed.fleet.data_dir, f"{trial.name}-{seed_of(rng)}-{number}")
    limits = dict.fromkeys(bed.robots, (TICKS,) * (EPISODES // len(bed.robots)))
    plan = bed.plan_all(name, limits, number)
    samples: dict[str, list[Sample]] = {}

    def done() -> int:
        return sum(bed.watch.done(robot) for robot in bed.robots)

    while done() < EPISODES:
        for process, sample in _look(bed.runner.pids, done()).items():
            samples.setdefault(process, []).append(sample)
        if time.monotonic() - began > END_SECONDS:
            found.problems.append(f"only {done()} of {EPISODES} in {END_SECONDS:g} s")
            break
        bed.let_pass(SAMPLE_SECONDS)
    found.figures["episodes_per_hour"] = 3600.0 * done() / (time.monotonic() - began)
    found.expect(bed.runner.restarts == restarts, "a process was restarted")
    called = [s.robot for s in bed.watch.said if s.phase == "needs_help"]
    found.expect(not called, f"{', '.join(sorted(set(called)))} called for help")
    judge_episodes(found, bed, plan)
    judge_growth(found, samples)
    return Round(trial, number, seed, found.figures, found.problems, found.note)


def _look(pids: Mapping[str, int], episodes: int) -> dict[str, Sample]:
    """A sample of every process that is there."""
    page_mb = os.sysconf("SC_PAGE_SIZE") / 2**20
    found = {}
    for name, pid in pids.items():
        try:
            resident = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
            handles = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:  # it has just ended: the restarts tell
            continue
        found[name] = Sample(episodes, resident * page_mb, handles)
    return found


def judge_growth(found: Findings, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Least-squares slope of memory and of handles after SETTLED episodes, of every process.

    Figures: the worst slope in MB, and in handles, per 100 episodes; the note names that process.
    """
    worst, grown = ("", -np.inf), 0.0
    for name, taken in samples.items():
        later = [s for s in taken if s.episodes >= SETTLED]
        if len(later) < FEWEST_SAMPLES:
            found.problems.append(f"{name} was seen only {len(later)} times")
            continue
        memory, handles = (
            100.0 * _slope([s.episodes for s in later], [getattr(s, what) for s in later])
            for what in ("memory_mb", "handles")
        )
        worst, grown = max(worst, (name, memory), key=lambda w: w[1]), max(grown, handles)
        found.expect(memory < GROWTH_MB, f"{name} grew {memory:.2f} MB per 100 episodes")
        third = len(later) // 3
        more = max(s.handles for s in later[-third:]) - max(s.handles for s in later[:third])
        found.expect(more <= 0, f"{name} holds {more} file handles more at the end")
    found.figures |= {"memory_mb": worst[1], "handles": grown} if worst[0] else {}
    found.note = worst[0]


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line; 0 where x does not change."""
    return float(np.polyfit(x, y, 1)[0]) if min(x) < max(x) else 0.0
