"""Rounds of a camera that fails in mid-episode while arm, joints and everything else go on."""

from __future__ import annotations

import random
import time

from efm_bringup.faults import blind_robot, trace
from efm_bringup.faults.causes import CAMERA_SECONDS
from efm_bringup.faults.fleet_rounds import Findings, free_name, judge_episodes, seed_of
from efm_bringup.faults.results import Round, Trial
from efm_bringup.faults.testbed import Shape, Testbed
from efm_core.episode import EpisodeRecord, Outcome
from efm_core.guard_report import Source
from efm_core.topics import EPISODE_STATUS, GUARD_STATE

SHAPE = Shape(robot="blind", chunk=5)
"""Chunks of 0.5 s: the camera's own limit must hold the arm, not the chunk's end."""
LONG_TICKS, SHORT_TICKS = 150, 10
STRIKE_SECONDS = 1.0, 2.5
"""The camera fails so many s after the beginning of the episode."""
SHORT_SECONDS, LONG_SECONDS, REPLAY_SECONDS = (1.0, 5.0), (12.0, 12.0), (1.0, 2.0)
"""For so many s: within the manager's patience, beyond it, and with repeated pictures."""
PATIENCE_SECONDS = 10.0
"""How long the manager waits for a camera."""
LATE_SECONDS = 1.5
"""After that: the next guard/state, the flush of the bag, the change of phase."""
AGAIN_SECONDS = 1.0
"""A camera that is back moves the arm again within this time."""
END_SECONDS = 90.0


def camera_round(bed: Testbed, trial: Trial, number: int, seed: int) -> Round:
    """One failure; trial.signal is its manner, as `blind_robot.Manner` in capitals."""
    found, heard = Findings(), bed.observer.trace
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    manner = trial.signal.lower()
    spans = SHORT_SECONDS if number % 2 else LONG_SECONDS
    lasts = rng.uniform(*(REPLAY_SECONDS if manner == "replay" else spans))
    heard.heard.clear()
    plan = bed.plan_all(
        free_name(bed.fleet.data_dir, f"{trial.name}-{seed_of(rng)}-{number}"),
        {bed.robot: (LONG_TICKS, SHORT_TICKS)}, number,
    )  # fmt: skip
    bed.until(lambda: trace.announced(heard, plan.plan_id), END_SECONDS, "the episode begins")
    bed.let_pass(rng.uniform(*STRIKE_SECONDS))
    episode = bed.observer.status["episode_id"]
    at = time.monotonic()
    blind_robot.begin(bed.camera_order, manner)
    try:
        failed = at + lasts  # a robot whose episode ended over it need not be blind in the next
        bed.until(
            lambda: time.monotonic() > failed or _left(heard, at, episode) < float("inf"),
            END_SECONDS, "the failure's end",
        )  # fmt: skip
    finally:
        bed.camera_order.unlink()
    back = time.monotonic()
    bed.until(lambda: bed.done(plan) >= 2, END_SECONDS, "the plan's end")
    left = _left(heard, at, episode)
    again = trace.running_again(heard, at, episode)
    # The next episode may run 30 ms after this one, and topics overtake each other by a few.
    over = min((left + again) / 2, left + trace.IN_FLIGHT)
    still = back - trace.IN_FLIGHT / 2 if back < left else over
    _judge_hold(found, bed, manner, at, still)
    record = judge_episodes(found, bed, plan).get(episode)
    if record is None:
        found.problems.append("the episode is lost")
    else:
        _judge_end(found, bed, record, (at, back, left))
    found.expect(again < float("inf"), "no episode came after it")
    return Round(trial, number, seed, found.figures, found.problems, found.note)


def _left(heard: trace.Trace, at: float, episode: str) -> float:
    """When the episode was first heard to run no more."""
    said = heard.of(EPISODE_STATUS.name, at)
    gone = [h.at for h in said if (h.phase, h.episode) != ("running", episode)]
    return gone[0] if gone else float("inf")


def _judge_hold(found: Findings, bed: Testbed, manner: str, at: float, end: float) -> None:
    """Held in time, counted from the last picture that was news, until `end`."""
    heard, limit = bed.observer.trace, CAMERA_SECONDS[manner]
    fresh = trace.last_fresh(heard, at + trace.IN_FLIGHT)
    hold = trace.guard_hold(heard, at, end)
    if fresh is None or hold is None:
        found.problems.append("the arm was never held")
        return
    found.figures["hold_s"] = hold - fresh
    found.figures["hold_after_fault_s"] = hold - at
    found.figures["still_s"] = trace.last_motion(heard, at, end) - fresh
    found.expect(hold - fresh <= limit, f"held later than {limit:g} s after the last fresh picture")


def _judge_end(
    found: Findings, bed: Testbed, record: EpisodeRecord, times: tuple[float, float, float]
) -> None:
    """Ended as manner and length of the failure ask for; times: fault, camera back, end (s)."""
    at, back, left = times
    found.note = f"{record.outcome.value} {record.termination_reason}"
    if record.termination_reason == "fault:frozen_camera":
        found.expect(record.outcome is Outcome.FAULT, f"marked {found.note}")
        found.figures["end_s"] = left - at
        return
    if left >= back:
        found.expect(back - at < PATIENCE_SECONDS + LATE_SECONDS, "was waited for too long")
        found.expect(record.termination_reason == "timeout", f"did not go on: {found.note}")
        moved = [
            h.at for h in bed.observer.trace.of(GUARD_STATE.name, back, left)
            if int(h.values[0]) == Source.POLICY
        ]  # fmt: skip
        again = moved[0] - back if moved else float("inf")
        found.expect(again <= AGAIN_SECONDS, f"moved later than {AGAIN_SECONDS:g} s after it")
        found.figures |= {"again_s": again} if moved else {}
        return
    found.expect(record.termination_reason == "fault:stale_camera", f"marked {found.note}")
    found.figures["end_s"] = left - at
    early, late = PATIENCE_SECONDS, PATIENCE_SECONDS + LATE_SECONDS
    found.expect(early <= left - at <= late, f"did not end within {early:g} to {late:g} s")
