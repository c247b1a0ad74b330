"""A simulated robot whose camera fails on purpose, run as a module of its own.

Only `efm faults camera` starts it, in the place of `efm_sim_robot`. Arm and joints go on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal, cast

from rclpy.node import Node

from efm_bringup.child import RUNNER_VARIABLE, die_with
from efm_core import messages
from efm_core.topics import Topic
from efm_ros.channels import Sender
from efm_ros.entrypoint import run
from efm_sim.node import SimulatedRobotNode

VARIABLE = "EFM_CAMERA_ORDER"
"""Environment variable: file whose content is a `Manner`; without the file the camera works."""

Manner = Literal["replay", "stuck", "silence"]
"""The last good picture again with new stamps, or with its old stamp; or nothing at all."""

_STAMP = slice(4, 12)
"""Where a header's stamp is in CDR bytes, after the four of the encapsulation."""


class FailingCamera(Sender):
    """Sends pictures, or what the file says."""

    def __init__(self, node: Node, topic: Topic, order: Path) -> None:
        super().__init__(node, topic)
        self._order = order
        self._good = b""

    def send(self, message: Any) -> bytes:
        """As its base; returns what was sent, b"" for nothing."""
        manner = self._manner()
        data = spoil(messages.serialize(message, self.topic.type), self._good, manner)
        if manner is None:
            self._good = data
        if data:
            self.send_bytes(data)
        return data

    def _manner(self) -> Manner | None:
        try:
            return cast(Manner, self._order.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None


def spoil(data: bytes, good: bytes, manner: Manner | None) -> bytes:
    """What a failing camera sends for a picture `data` when `good` was its last good one, CDR."""
    if manner is None or not good:
        return data
    if manner == "silence":
        return b""
    if manner == "stuck":
        return good
    return good[: _STAMP.start] + data[_STAMP] + good[_STAMP.stop :]


def begin(order: Path, text: str) -> None:
    """From now on the camera fails as `text` says; `order.unlink()` mends it."""
    temporary = order.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(order)


class BlindRobotNode(SimulatedRobotNode):
    """As its base, but for the camera."""

    def _picture_sender(self, topic: Topic) -> Sender:
        return FailingCamera(self, topic, Path(os.environ[VARIABLE]))


def main() -> int:
    """Run the node; it dies with the runner that started it."""
    parent = os.environ.get(RUNNER_VARIABLE)
    if parent:
        die_with(int(parent))
    return run(BlindRobotNode)


if __name__ == "__main__":
    sys.exit(main())
