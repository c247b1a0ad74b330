"""A simulated robot with a bad link to its camera, run as a module of its own.

Only `efm faults frames` starts it, in the place of `efm_sim_robot`. The camera stamps by a clock
of its own, at even times, as cameras do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rclpy.node import Node

from efm_bringup.child import RUNNER_VARIABLE, die_with
from efm_bringup.faults.blind_robot import VARIABLE
from efm_bringup.faults.frame_faults import FaultProxy, script
from efm_core.topics import Topic
from efm_ros.channels import Sender
from efm_ros.convert import message_class
from efm_ros.entrypoint import run
from efm_sim.node import SimulatedRobotNode

RATE = 10.0
"""Hz of the camera."""
LATENCY_SECONDS = 0.03
"""From a picture's stamp to its being sent, on average."""
DEPTH = 30
"""Of the publisher: a burst of pictures leaves it whole."""


def told(order: Path) -> Path:
    """Where the robot writes what became of every picture, one [stamp in ns, deed] a line."""
    return order.with_suffix(".told")


class BadLink(Sender):
    """Sends pictures through a `FaultProxy` whose script the order file asks for."""

    def __init__(self, node: Node, topic: Topic, order: Path) -> None:
        self.topic = topic
        self._publisher = node.create_publisher(message_class(topic.type), topic.name, DEPTH)
        self._proxy = FaultProxy(super().send)
        self._order, self._known = order, ""
        self._began_ns, self._taken = time.time_ns() - round(LATENCY_SECONDS * 1e9), -1
        told(order).unlink(missing_ok=True)

    def send(self, message: Any) -> bytes:
        """As its base, but for the faults and for what was sent already; returns b""."""
        self._look()
        stamp_ns = self._even(time.time_ns())
        if stamp_ns is None:
            return b""
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        deed = self._proxy.take(message)
        with told(self._order).open("a", encoding="utf-8") as file:
            file.write(json.dumps([stamp_ns, deed]) + "\n")
        return b""

    def _even(self, now_ns: int) -> int | None:
        """The camera's last instant, wall time in ns; None when its picture was sent before.

        So a reset, which sends a picture of its own, and a late timer don't shift the instants.
        """
        period_ns = round(1e9 / RATE)
        due = (now_ns - self._began_ns) // period_ns
        if due <= self._taken:
            return None
        self._taken = due
        return self._began_ns + due * period_ns

    def _look(self) -> None:
        text = self._order.read_text(encoding="utf-8") if self._order.exists() else ""
        if text and text != self._known:
            seed, length = json.loads(text)
            self._proxy.script = script(seed, length)
        self._known = text


class FrameRobotNode(SimulatedRobotNode):
    """As its base, but for the camera."""

    def _picture_sender(self, topic: Topic) -> Sender:
        return BadLink(self, topic, Path(os.environ[VARIABLE]))


def main() -> int:
    """Run the node; it dies with the runner that started it."""
    parent = os.environ.get(RUNNER_VARIABLE)
    if parent:
        die_with(int(parent))
    return run(FrameRobotNode)


if __name__ == "__main__":
    sys.exit(main())
