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

MANNERS = ("replay", "stuck", "silence")
"""How a camera fails: its last picture with new stamps, with the old one, or no picture."""

OTHERS = {
    "endurance": "nothing: 1,000 episodes in a row, in which no process may grow",
    "camera": "a camera that repeats its last picture with new stamps, with the old one, or sends "
    "nothing, while the arm goes on",
    "frames": "pictures dropped, repeated, overtaken, cut, of another size or from the future",
    "hang": "SIGSTOP of simulator, guard and manager of one of four robots in turn, 8 s each",
    "rollback": "efm models rollback while four robots practise with the champion",
    "teleop": "SIGKILL of the joystick's node while a person drives one of two robots",
    "message-loss": "inference stopped for 0.6 s in lockstep and woken again",
    "resets": "5 of the 100 resets of four robots fail, once or for all tries; one round is 100 "
    "episodes",
    "stop": "a request on /fleet/stop_request at a random state",
    "training": "SIGKILL of fine-tuning and of practice in one process, at random steps",
    "writer": "SIGKILL of a process that writes one episode after the other",
    "checkpoint": "every way of spoiling a checkpoint",
}
"""The remaining causes: name -> what it is."""

CAMERA_SECONDS = {"replay": 0.65, "stuck": 0.25, "silence": 0.25}
"""s from the last fresh picture (10 Hz) to the hold. A repeated picture counts as frozen after
0.5 s of commanded motion, seen at the next picture."""
OPERATOR_SECONDS = 0.3
LOST_TAIL_SECONDS = 0.25
STOP_SECONDS = 0.1
