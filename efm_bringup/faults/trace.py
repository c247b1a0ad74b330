"""What an observer heard round a fault, and what follows from it: plain functions of a record."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from efm_core.guard_report import Fault, Source
from efm_core.topics import EE_POSE, EPISODE_STATUS, GUARD_STATE, camera, twist_command

COMMAND = twist_command("arm").name
CAMERA = camera("front").name
STILL_SPEED = 1e-9
"""m/s: a command below this is zero."""
STILL_METRES = 5e-4
"""A tool that moved less was pushed back by what it touches; a commanded step is 20 mm."""
IN_FLIGHT = 0.1
"""s after a fault in which messages from before it may still arrive."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One message: steady time of receipt (s), topic below the robot, header stamp (ns).

    values: for commands the speed (m/s); for guard/state (source, fault); for ee_pose (x, y) in
    m, base frame; for pictures (checksum of all but the stamp,); empty otherwise. phase, episode
    (id), plan, done (episodes of it saved): of episode/status.
    """

    at: float
    topic: str
    stamp_ns: int = 0
    values: tuple[float, ...] = ()
    phase: str = ""
    episode: str = ""
    plan: str = ""
    done: int = 0


@dataclass(slots=True)
class Trace:
    """Everything heard of one robot since `begin`; appended to by one thread."""

    heard: list[Heard] = field(default_factory=list)

    def of(self, topic: str, begin: float, end: float = float("inf")) -> list[Heard]:
        """Messages of a topic received in [begin, end)."""
        return [h for h in list(self.heard) if h.topic == topic and begin <= h.at < end]

    def last(self, topic: str, end: float) -> Heard | None:
        """The newest message of a topic received before `end`."""
        found = self.of(topic, float("-inf"), end)
        return found[-1] if found else None


def running_again(trace: Trace, after: float, episode: str) -> float:
    """When another episode than `episode` was first heard to run; infinity if never."""
    for heard in trace.of(EPISODE_STATUS.name, after):
        if heard.phase == "running" and heard.episode != episode:
            return heard.at
    return float("inf")


def back_at(trace: Trace, sign: str, fault_at: float) -> float:
    """When the hit process, or the robot's next reset, was first heard; infinity if never.

    sign: topic of the process. What it sent before the fault may arrive for `IN_FLIGHT` s.
    """
    signs = [h.at for h in trace.of(sign, fault_at + IN_FLIGHT)][:1]
    phases = trace.of(EPISODE_STATUS.name, fault_at + IN_FLIGHT)
    resets = [h.at for h in phases if h.phase == "resetting"][:1]
    return min([float("inf"), *signs, *resets])


def guard_hold(trace: Trace, fault_at: float, end: float) -> float | None:
    """When the guard began the hold that lasts until `end`; None when it never did.

    Seen in its state and in its commands, of which nothing but zero comes after: a lost datagram
    holds one of the two topics up, sent again after a second, and the earlier one counts.
    """
    states = trace.of(GUARD_STATE.name, fault_at, end)
    moving = [i for i, h in enumerate(states) if int(h.values[0]) != Source.HOLD]
    rest = states[moving[-1] + 1 :] if moving else states
    if not rest:
        return None
    moved = last_motion(trace, fault_at, end)
    still = [h.at for h in trace.of(COMMAND, moved, end) if h.values[0] <= STILL_SPEED]
    return min([rest[0].at, *still[:1]])


def last_motion(trace: Trace, fault_at: float, end: float) -> float:
    """When the last command other than zero was heard; `fault_at` without one."""
    moving = [h.at for h in trace.of(COMMAND, fault_at, end) if h.values[0] > STILL_SPEED]
    return max([fault_at, *moving])


def arm_stood(trace: Trace, fault_at: float, end: float) -> float:
    """When the arm was last seen in a new place; `fault_at` when it never moved since."""
    before = trace.last(EE_POSE.name, fault_at)
    place = before.values if before is not None else None
    since = fault_at
    for heard in trace.of(EE_POSE.name, fault_at, end):
        if place is None or math.dist(heard.values, place) > STILL_METRES:
            place, since = heard.values, heard.at
    return since


def stop_seen(trace: Trace, asked_at: float) -> float | None:
    """When the guard first said that it holds over a stop."""
    for heard in trace.of(GUARD_STATE.name, asked_at):
        if int(heard.values[1]) == Fault.STOPPED:
            return heard.at
    return None


def new_observations(trace: Trace, begin: float, end: float) -> int:
    """How many pictures with a stamp never seen before came in [begin, end): lockstep advances."""
    known = {h.stamp_ns for h in trace.of(CAMERA, float("-inf"), begin)}
    return len({h.stamp_ns for h in trace.of(CAMERA, begin, end)} - known)


def last_fresh(trace: Trace, end: float) -> float | None:
    """When the last picture came that differed from the one before in stamp and content."""
    before, at = Heard(0.0, CAMERA), None
    for heard in trace.of(CAMERA, float("-inf"), end):
        if heard.stamp_ns != before.stamp_ns and heard.values != before.values:
            at = heard.at
        before = heard
    return at


def lost_tail(
    trace: Trace, begin: float, fault_at: float, kept: Iterable[tuple[str, int]]
) -> float:
    """Seconds between the newest message heard before the fault and the newest one kept.

    kept: (topic below the robot, stamp in ns) of what the recovered bag holds. Compared by the
    observer's time of receipt from `begin` on; all of the time since `begin` when nothing is kept.
    """
    held = set(kept)
    topics = {topic for topic, _ in held}
    heard = [h for h in list(trace.heard) if begin <= h.at < fault_at and h.topic in topics]
    if not heard:
        return fault_at - begin
    saved = [h.at for h in heard if (h.topic, h.stamp_ns) in held]
    return heard[-1].at - max(saved, default=begin)


def announced(trace: Trace, plan: str) -> list[str]:
    """Ids of the plan's episodes that were heard to run, in order."""
    ids: list[str] = []
    for heard in trace.of(EPISODE_STATUS.name, float("-inf")):
        if heard.plan == plan and heard.phase == "running" and heard.episode not in ids:
            ids.append(heard.episode)
    return ids


def acknowledged(trace: Trace, plan: str, end: float) -> list[str]:
    """Ids of the plan's episodes that the manager had called saved (plan_done) before `end`."""
    said = [h for h in trace.of(EPISODE_STATUS.name, float("-inf"), end) if h.plan == plan]
    return announced(trace, plan)[: said[-1].done] if said else []
