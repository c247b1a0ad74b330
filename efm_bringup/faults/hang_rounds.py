"""Rounds on four robots: processes of one robot hang in turn, and the other three go on as before.

Times without a fault and with one alternate, so that both see the same machine.
"""

from __future__ import annotations

import random
import signal
import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from efm_bringup.faults import trace
from efm_bringup.faults.fleet_rounds import Findings, free_name, judge_episodes, seed_of
from efm_bringup.faults.reset_rounds import SLOWEST, periods
from efm_bringup.faults.reset_watch import Said
from efm_bringup.faults.results import Round, Trial
from efm_bringup.faults.testbed import Shape, Testbed
from efm_core.episode import EpisodeRecord, Outcome
from efm_core.topics import ACTION_CHUNK, EPISODE_STATUS

SHAPE = Shape(robots=4)
TICKS, HIT_TICKS = 10, 40
"""Length of the others' episodes, and of the victim's: long enough to be hit in the middle."""
EPISODES, HIT_EPISODES = 60, 14
"""More than they do before the round is over."""
CALM_SECONDS = HANG_SECONDS = 8.0
STRIKE_SECONDS = 0.3, 1.3
STALL_SECONDS = 0.5
"""Longest time between two chunks for a neighbour in mid-episode: inference does not wait."""
END_SECONDS = 120.0
ROLES = ("sim", "guard", "manager")
Span = tuple[float, float]
"""Steady times in s."""


@dataclass(slots=True)
class Course:
    """What was when: times without a fault, with one; hit: role -> episode that was cut."""

    calm: list[Span] = field(default_factory=list)
    faulty: list[Span] = field(default_factory=list)
    hit: dict[str, str] = field(default_factory=dict)


def hang_round(bed: Testbed, trial: Trial, number: int, seed: int) -> Round:
    """SIGSTOP of the processes of one robot in turn, for 8 s each, each in mid-episode."""
    found, watch = Findings(), bed.watch
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    victim = rng.choice(bed.robots[1:])  # the observer hears the first
    others = [robot for robot in bed.robots if robot != victim]
    limits = dict.fromkeys(others, (TICKS,) * EPISODES)
    limits[victim] = (HIT_TICKS,) * HIT_EPISODES
    name = free_name(bed.fleet.data_dir, f"{trial.name}-{seed_of(rng)}-{number}")
    bed.observer.trace.heard.clear()
    plan = bed.plan_all(name, limits, number)
    bed.until(
        lambda: all(watch.done(robot) >= 1 for robot in others), END_SECONDS, "first episodes"
    )
    course = Course()
    for role in rng.sample(ROLES, len(ROLES)):
        course.calm.append(_calm(bed, victim))
        _hang(bed, rng, victim, role, course)
    bed.finish_all(plan, END_SECONDS)
    heard = list(watch.said)
    _judge_pace(found, heard, others, course)
    _judge_stalls(found, bed.observer.trace, course)
    records = judge_episodes(found, bed, plan)
    for role, episode in course.hit.items():
        _judge_mark(found, role, records.get(episode))
    back = [_back(heard, victim, woken) for _, woken in course.faulty]
    found.figures["back_s"] = max(back)
    found.note = f"{victim}: {', '.join(course.hit)}"
    return Round(trial, number, seed, found.figures, found.problems, found.note)


def _calm(bed: Testbed, victim: str) -> Span:
    """Time without a fault, once the victim is at work again."""
    bed.until(lambda: bed.watch.phase(victim) == "running", END_SECONDS, f"{victim} runs")
    begun = time.monotonic()
    bed.let_pass(CALM_SECONDS)
    return begun, time.monotonic()


def _hang(bed: Testbed, rng: random.Random, victim: str, role: str, course: Course) -> None:
    """Stop the process in the middle of an episode for a while."""
    known = bed.watch.status[victim].get("episode_id", "")
    bed.until(lambda: _another(bed, victim, known), END_SECONDS, "the victim's next episode")
    bed.let_pass(rng.uniform(*STRIKE_SECONDS))
    course.hit[role] = bed.watch.status[victim]["episode_id"]
    at = bed.signal(f"{victim}_{role}", signal.SIGSTOP)
    try:
        bed.let_pass(HANG_SECONDS)
    finally:
        woken = bed.signal(f"{victim}_{role}", signal.SIGCONT)
    course.faulty.append((at, woken))


def _another(bed: Testbed, robot: str, known: str) -> bool:
    """Whether an episode runs that is not the one known."""
    status = bed.watch.status[robot]
    return status.get("phase") == "running" and status.get("episode_id") != known


def _judge_pace(
    found: Findings, heard: Sequence[Said], others: Collection[str], course: Course
) -> None:
    """The others' mean time per episode with a fault over that without."""
    calm, faulty = (
        [p for begin, end in spans for p in periods(heard, others, begin, end)]
        for spans in (course.calm, course.faulty)
    )
    if not calm or not faulty:
        found.problems.append("the others hardly went on")
        return
    found.figures["others_per_hour_before"] = 3600.0 / statistics.mean(calm)
    found.figures["others_per_hour"] = 3600.0 / statistics.mean(faulty)
    ratio = statistics.mean(faulty) / statistics.mean(calm)
    found.figures["others_slower"] = ratio
    found.expect(ratio <= SLOWEST, f"the others took more than {SLOWEST:g} times as long")


def _judge_stalls(found: Findings, heard: trace.Trace, course: Course) -> None:
    """A neighbour's decisions come as before: the inference, common to all, waits for nobody."""
    for name, spans in (("gap_before_s", course.calm), ("gap_s", course.faulty)):
        found.figures[name] = max(longest_gap(heard, *span) for span in spans)
    found.expect(
        found.figures["gap_s"] <= STALL_SECONDS,
        f"a neighbour waited more than {STALL_SECONDS:g} s for a decision",
    )


def longest_gap(heard: trace.Trace, begin: float, end: float) -> float:
    """Longest time in s between two chunks of one running episode; 0 without any."""
    marks = sorted(
        [*heard.of(ACTION_CHUNK.name, begin, end), *heard.of(EPISODE_STATUS.name, begin, end)],
        key=lambda h: h.at,
    )
    longest, running, last = 0.0, False, None
    for mark in marks:
        if mark.topic == EPISODE_STATUS.name:
            running = mark.phase == "running"
            last = last if running else None
        elif running:
            longest = max(longest, mark.at - (mark.at if last is None else last))
            last = mark.at
    return longest


def _judge_mark(found: Findings, role: str, record: EpisodeRecord | None) -> None:
    if record is None:
        found.problems.append(f"{role}: the cut episode is lost")
        return
    marked = record.outcome in (Outcome.INTERRUPTED, Outcome.FAULT)
    mark = f"{record.outcome.value} {record.termination_reason}"
    found.expect(marked, f"{role}: marked {mark}")


def _back(heard: Sequence[Said], robot: str, woken: float) -> float:
    """How long after it was woken an episode of the robot began to run, s; infinity: never."""
    begun = [s.at for s in heard if (s.robot, s.phase) == (robot, "running") and s.at > woken]
    return min(begun, default=float("inf")) - woken
