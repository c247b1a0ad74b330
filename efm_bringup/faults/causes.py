"""What is broken on purpose, in which process, and what is promised for each."""

from __future__ import annotations

from dataclasses import dataclass

from efm_core.topics import ACTION_CHUNK, EPISODE_STATUS, camera, twist_command


@dataclass(frozen=True, slots=True)
class Cause:
    """A process of the fleet that is hit in mid-episode.

    process: name in the runner, `{robot}` for the robot's. sign: topic (below the robot) whose
    last message begins the time to hold. limit_s: promised time from that sign to the hold, real
    clock; None = the action chunk's length + 0.05 s, at most 0.6 s. marks: termination reasons of
    the cut episode, or their beginnings.
    """

    name: str
    process: str
    sign: str
    limit_s: float | None
    marks: tuple[str, ...]
    about: str


INFERENCE = Cause(
    "inference", "inference", ACTION_CHUNK.name, None, ("fault:",),
    "process with policy and reward",
)  # fmt: skip
ROBOT = Cause(
    "robot", "{robot}_sim", camera("front").name, 0.25, ("fault:",),
    "simulated robot, and with it camera and arm",
)  # fmt: skip
GUARD = Cause(
    "guard", "{robot}_guard", twist_command("arm").name, 0.25, ("fault:",),
    "guard; the robot's own watchdog holds",
)  # fmt: skip
MANAGER = Cause(
    "manager", "{robot}_manager", EPISODE_STATUS.name, 0.5, ("crash", "fault:"),
    "episode manager and recorder",
)  # fmt: skip

KILLED: dict[str, Cause] = {c.name: c for c in (INFERENCE, ROBOT, GUARD, MANAGER)}
"""Causes that SIGKILL or SIGSTOP a process of the fleet."""

OTHERS = {
    "message-loss": "inference stopped for 1.5 s in lockstep and woken again",
    "stop": "a request on /fleet/stop_request at a random state",
    "writer": "SIGKILL of a process that writes one episode after the other",
    "checkpoint": "every way of spoiling a checkpoint",
}
"""The remaining causes: name -> what it is."""

LOST_TAIL_SECONDS = 0.25
STOP_SECONDS = 0.1
