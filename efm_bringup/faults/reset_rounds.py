"""Rounds of resets: 100 episodes on four robots, 5 of the resets fail, once or for all tries.

First nobody comes: a robot whose reset failed for good stays where it is, calling for help, until
every other one has done its list or calls too. Then a person helps, as often as it takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

from efm_bringup.faults.fleet_rounds import Findings
from efm_bringup.faults.reset_crowd import ATTEMPTS, Crowd, Extent, Where, crowd
from efm_bringup.faults.reset_watch import Said
from efm_bringup.faults.results import Round, Trial
from efm_bringup.signals import StopSignal
from efm_core.bags import check_episode, list_episodes, read_record

ROUND_SECONDS = 900.0
SLOWEST = 1.1
"""The others' episodes may take so much longer while a robot calls for help."""
_FEWEST = 5
"""Episodes on either side without which nothing is compared."""


def reset_round(
    template: Path,
    folder: Path,
    trial: Trial,
    number: int,
    seed: int,
    stop: StopSignal,
    extent: Extent | None = None,
) -> Round:
    """One round with a fleet of its own below `folder`."""
    found = Findings()
    with crowd(template, folder, trial, number, seed, stop, extent or Extent()) as made:
        made.watch.publish(made.plan)
        begun = time.monotonic()
        made.until(
            lambda: all(made.finished(r) or made.calls(r) for r in made.robots),
            ROUND_SECONDS, "every robot is done or calls for help",
        )  # fmt: skip
        unattended = time.monotonic()
        stuck = [robot for robot in made.robots if made.calls(robot)]
        found.figures["unattended_episodes"] = sum(made.watch.done(r) for r in made.robots)
        found.figures["unattended_s"] = unattended - begun
        found.figures["robots_waiting"] = len(stuck)
        visited = _visit(made)
        heard = list(made.watch.said)
    _judge_calls(found, made, visited)
    _judge_pace(found, heard, begun, unattended)
    _judge_records(found, made)
    return Round(trial, number, seed, found.figures, found.problems, found.note)


def _visit(made: Crowd) -> list[Where]:
    """Help whoever calls until all is done; who called, and at which episode."""
    visited = []
    deadline = time.monotonic() + ROUND_SECONDS
    while not all(made.finished(robot) for robot in made.robots):
        left = deadline - time.monotonic()
        made.until(
            lambda: any(made.calls(r) for r in made.robots)
            or all(made.finished(r) for r in made.robots),
            left, "somebody calls or all are done",
        )  # fmt: skip
        for robot in filter(made.calls, made.robots):
            visited.append((robot, made.watch.done(robot)))
            answer = made.watch.help(robot)
            made.until(
                lambda answer=answer, robot=robot: answer.done() and not made.calls(robot),
                30.0, f"{robot} goes on after help",
            )  # fmt: skip
    return visited


# ---- judgement -----------------------------------------------------------------------------------


def _judge_calls(found: Findings, made: Crowd, visited: Sequence[Where]) -> None:
    """Help was called for exactly where every try of a reset failed."""
    expected = sorted(w for w, failure in made.failures.items() if failure.tries >= ATTEMPTS)
    found.figures["calls_expected"], found.figures["calls"] = len(expected), len(visited)
    found.expect(sorted(visited) == expected, f"called at {sorted(visited)}, not at {expected}")


def _judge_pace(
    found: Findings, heard: Sequence[Said], begun: float, unattended: float
) -> None:
    """The others' time per episode before anybody called for help, and while somebody did."""
    calls = [said.at for said in heard if said.phase == "needs_help" and said.at < unattended]
    if not calls:
        return
    first = min(calls)
    waiting = {s.robot for s in heard if s.phase == "needs_help" and s.at < unattended}
    compare_pace(found, heard, {s.robot for s in heard} - waiting, begun, first, unattended)


def compare_pace(
    found: Findings,
    heard: Sequence[Said],
    others: Collection[str],
    begun: float,
    hit: float,
    end: float,
) -> None:
    """The others' median time per episode within [hit, end), over that within [begun, hit)."""
    before = periods(heard, others, begun, hit)
    during = periods(heard, others, hit, end)
    if min(len(before), len(during)) < _FEWEST:
        return
    found.figures["others_per_hour_before"] = 3600.0 / statistics.median(before)
    found.figures["others_per_hour"] = 3600.0 / statistics.median(during)
    ratio = statistics.median(during) / statistics.median(before)
    found.figures["others_slower"] = ratio
    found.expect(ratio <= SLOWEST, f"the others took more than {SLOWEST:g} times as long")


def periods(
    heard: Sequence[Said], robots: Collection[str], begin: float, end: float
) -> list[float]:
    """s from one saved episode to the next of the same robot, both within [begin, end)."""
    found = []
    for robot in robots:
        saved: dict[int, float] = {}
        for said in heard:
            if said.robot == robot and begin <= said.at < end:
                saved.setdefault(said.done, said.at)
        times = [saved[done] for done in sorted(saved)][1:]  # the first was not seen to rise
        found += [b - a for a, b in pairwise(times)]
    return found


def _judge_records(found: Findings, made: Crowd) -> None:
    """All episodes are there, whole, once, and say how many tries their reset took."""
    paths = list_episodes(made.fleet.data_dir / made.plan.data_set)
    for path in paths:
        found.problems += [f"damaged episode: {text}" for text in check_episode(path)]
    records = [read_record(path) for path in paths]
    tries = {(r.robot, r.index): r.reset_attempts for r in records}
    every = {(robot, index) for robot in made.robots for index in range(made.extent.episodes)}
    found.figures["episodes"] = len(records)
    found.expect(set(tries) == every and len(records) == len(every), "an episode is not there once")
    for where, count in sorted(tries.items()):
        failure = made.failures.get(where)
        # After help the tries are counted anew.
        expected = 1 if failure is None or failure.tries >= ATTEMPTS else failure.tries + 1
        found.expect(
            count == expected, f"{where[0]}/{where[1]}: {count} tries, expected {expected}"
        )
