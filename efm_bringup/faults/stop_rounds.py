"""Rounds of stop: asked for at a random state, latched, released by clear, start and a reset."""

from __future__ import annotations

import random
import time
from typing import Any

from efm_bringup.faults import trace
from efm_bringup.faults.causes import STOP_SECONDS
from efm_bringup.faults.fleet_rounds import Findings
from efm_bringup.faults.results import Round, Trial
from efm_bringup.faults.testbed import Testbed
from efm_core.topics import EPISODE_STATUS

LATEST_SECONDS = 2.5
"""The stop comes at most so many s after a plan was published."""
WATCHED_SECONDS = 0.3
ANSWER_SECONDS = 15.0


def stop_round(bed: Testbed, trial: Trial, number: int, seed: int) -> Round:
    """One stop and one release, whatever the robot was doing."""
    found, heard = Findings(), bed.observer.trace
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    heard.heard.clear()
    bed.plan(f"stop-{rng.getrandbits(48):012x}", 3, 25, number)
    bed.let_pass(rng.uniform(0.0, LATEST_SECONDS))
    found.note = bed.phase
    episode = bed.observer.status.get("episode_id", "")
    newest = heard.last(trace.COMMAND, float("inf"))
    moved = newest is not None and newest.values[0] > trace.STILL_SPEED
    asked = time.monotonic()
    bed.observer.request_stop()
    bed.until(lambda: bed.phase == "stopped", ANSWER_SECONDS, "the manager's stop")
    bed.let_pass(WATCHED_SECONDS)
    seen = trace.stop_seen(heard, asked)
    _answered(bed, found, bed.observer.clear_stop(), "clear_stop")
    bed.let_pass(WATCHED_SECONDS)
    found.expect(bed.phase == "stopped", "clear_stop alone started the robot")
    started = time.monotonic()
    if moved:
        found.figures["still_s"] = trace.last_motion(heard, asked, started) - asked
        found.expect(found.figures["still_s"] <= STOP_SECONDS, f"moved after {STOP_SECONDS:g} s")
    if seen is None:
        found.problems.append("the guard never said that it was stopped")
    else:
        found.figures["hold_s"] = seen - asked
        found.expect(seen - asked <= STOP_SECONDS, f"held later than {STOP_SECONDS:g} s")
    _answered(bed, found, bed.observer.start(), "episode/start")
    bed.until(
        lambda: trace.running_again(heard, started, episode) < float("inf"),
        4 * ANSWER_SECONDS, "an episode after the stop",
    )  # fmt: skip
    again = trace.running_again(heard, started, episode)
    phases = {h.phase for h in heard.of(EPISODE_STATUS.name, started, again)}
    found.expect("resetting" in phases, "it went on without a reset")
    return Round(trial, number, seed, found.figures, found.problems, found.note)


def _answered(bed: Testbed, found: Findings, future: Any, name: str) -> None:
    bed.until(future.done, ANSWER_SECONDS, f"an answer of {name}")
    answer = future.result()
    found.expect(bool(answer.success), f"{name} refused: {answer.message}")
