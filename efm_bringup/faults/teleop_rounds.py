"""Rounds in which a person's node dies while it drives one of two robots."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import Joy

from efm_bringup.faults import trace
from efm_bringup.faults.causes import OPERATOR_SECONDS
from efm_bringup.faults.fleet_rounds import Findings, free_name, judge_episodes, seed_of
from efm_bringup.faults.reset_rounds import compare_pace
from efm_bringup.faults.results import Round, Trial
from efm_bringup.faults.testbed import Shape, StuckError, Testbed
from efm_bringup.runner import child_command
from efm_bringup.teleop.joystick import JoystickSettings
from efm_bringup.teleop.node import JOY
from efm_core.fleet_processes import ProcessSpec
from efm_core.guard_report import Source
from efm_core.topics import GUARD_STATE, TELEOP_TWIST

SHAPE = Shape(robots=2)
TICKS, HIT_TICKS = 10, 160
EPISODES, BEFORE_EPISODES = 18, 6
JOY_SECONDS = 0.05
DRIVE_SECONDS = 0.5, 2.0
"""The person drives for so long before the node dies."""
AFTER_SECONDS = 9.0
"""The other robot's pace is taken over this time after it."""
END_SECONDS = 90.0


def teleop_round(bed: Testbed, trial: Trial, number: int, seed: int) -> Round:
    """Takeover by joystick in mid-episode, then SIGKILL of `efm_teleop`; the stick stays held."""
    found, heard = Findings(), bed.observer.trace
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    other = bed.robots[1]
    limits = {bed.robot: (HIT_TICKS, TICKS), other: (TICKS,) * EPISODES}
    with _stick(bed, rng) as stick, _teleop(bed) as process:
        bed.until(lambda: stick.heard, END_SECONDS, "the teleop node starts")
        heard.heard.clear()
        plan = bed.plan_all(
            free_name(bed.fleet.data_dir, f"{trial.name}-{seed_of(rng)}-{number}"), limits, number
        )
        bed.until(
            lambda: bed.watch.done(other) >= BEFORE_EPISODES, END_SECONDS, "the other's episodes"
        )
        episode = bed.observer.status["episode_id"]
        taken = time.monotonic()
        stick.hold()
        bed.until(lambda: _driven(heard, taken), 5.0, "the takeover")
        found.figures["takeover_s"] = _driven(heard, taken)[0].at - taken
        bed.let_pass(rng.uniform(*DRIVE_SECONDS))
        at = time.monotonic()
        process.kill()
        bed.let_pass(AFTER_SECONDS)
        bed.finish_all(plan, END_SECONDS)
    end = trace.running_again(heard, at, episode)
    _judge_hold(found, bed, at, end)
    compare_pace(found, list(bed.watch.said), [other], 0.0, at, at + AFTER_SECONDS)
    found.expect("others_slower" in found.figures, "the other robot hardly went on")
    record = judge_episodes(found, bed, plan).get(episode)
    if record is None:
        found.problems.append("the episode is lost")
    else:
        found.note = f"{record.outcome.value} {record.termination_reason}"
        found.expect(record.termination_reason == "timeout", f"marked {found.note}")
        found.expect(bool(record.interventions), "the takeover is not in the record")
    moved = [h for h in heard.of(GUARD_STATE.name, end) if int(h.values[0]) == Source.POLICY]
    found.expect(bool(moved), "the next episode is not the policy's")
    return Round(trial, number, seed, found.figures, found.problems, found.note)


def _driven(heard: trace.Trace, since: float) -> list[trace.Heard]:
    states = heard.of(GUARD_STATE.name, since)
    return [h for h in states if int(h.values[0]) == Source.TELEOP]


def _judge_hold(found: Findings, bed: Testbed, at: float, end: float) -> None:
    """Held in time after the person's last command, to the end of the episode."""
    heard = bed.observer.trace
    last = heard.last(TELEOP_TWIST.name, at + trace.IN_FLIGHT)
    hold = trace.guard_hold(heard, at, end)
    if last is None or hold is None:
        found.problems.append("the arm was never held")
        return
    found.figures["hold_s"] = hold - last.at
    found.figures["hold_after_fault_s"] = hold - at
    found.figures["still_s"] = trace.last_motion(heard, at, end) - last.at
    limit = OPERATOR_SECONDS
    found.expect(hold - last.at <= limit, f"held later than {limit:g} s after the last command")


@contextmanager
def _teleop(bed: Testbed) -> Iterator[subprocess.Popen[bytes]]:
    """The real node, as `efm teleop` runs it."""
    args = ("--ros-args", "-r", f"__ns:=/{bed.robot}", "-p", f'fleet:="{bed.fleet.path}"')
    spec = ProcessSpec("teleop", "efm_teleop", args)
    log: IO[bytes]
    with (bed.folder / "logs" / "teleop.log").open("ab") as log:
        process = subprocess.Popen(
            child_command(spec), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, **bed.environment}, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
            if process.returncode not in (None, -signal.SIGKILL):
                raise StuckError(f"efm_teleop ended with {process.returncode}; see {log.name}")
        finally:
            process.kill()
            process.wait()


class Stick:
    """A joystick that repeats its state 20 times per second; released until `hold`."""

    def __init__(self, node: Node, robot: str, axes: tuple[float, float]) -> None:
        settings = JoystickSettings()
        self._axes, self._settings = axes, settings
        self._state = self._message(0, (0.0, 0.0))
        self._publisher = node.create_publisher(Joy, f"/{robot}/{JOY.name}", 10)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="joystick", daemon=True)
        self._thread.start()

    def _message(self, enabled: int, axes: tuple[float, float]) -> Joy:
        message = Joy(axes=[0.0] * 8, buttons=[0] * 12)
        for name, value in zip(("x", "y"), axes, strict=True):
            message.axes[self._settings.axes[name]] = value
        message.buttons[self._settings.enable] = enabled
        return message

    @property
    def heard(self) -> bool:
        """Whether a node listens."""
        return bool(self._publisher.get_subscription_count() > 0)

    def hold(self) -> None:
        """The dead man's button is held and the stick deflected."""
        self._state = self._message(1, self._axes)

    def _repeat(self) -> None:
        while not self._ending.wait(JOY_SECONDS):
            self._publisher.publish(self._state)

    def close(self) -> None:
        """End the thread."""
        self._ending.set()
        self._thread.join()


@contextmanager
def _stick(bed: Testbed, rng: random.Random) -> Iterator[Stick]:
    context = Context()
    context.init()
    node = Node("fault_joystick", context=context)
    stick = Stick(node, bed.robot, (rng.choice((-0.4, 0.4)), rng.choice((-0.4, 0.4))))
    try:
        yield stick
    finally:
        stick.close()
        node.destroy_node()
        context.try_shutdown()
