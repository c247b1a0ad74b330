"""Status topics: one DiagnosticStatus, sent on every change and repeated at 4 Hz."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from efm_core import messages
from efm_core.topics import Topic
from efm_ros.channels import Sender

REPEAT_SECONDS = 0.25

OK, WARNING, ERROR = 0, 1, 2
"""Levels of diagnostic_msgs/DiagnosticStatus."""


class StatusSender:
    """Keeps the key-value pairs of a status topic and publishes them.

    `announce` sends at once when something changed; `note` waits for the next repetition, for
    counters that change every tick. Values are written as text: True and False as 1 and 0.
    live: asked for pairs whenever the status is sent, for what is dear to write.
    """

    def __init__(self, node: Node, topic: Topic, name: str, **values: Any) -> None:
        self._node = node
        self._name = name
        self._sender = Sender(node, topic)
        self._values = {key: _text(value) for key, value in values.items()}
        self._level = OK
        self._message = ""
        self.live: Callable[[], Mapping[str, Any]] = dict
        # Steady: a jump of the wall clock must not silence a heartbeat.
        self._timer = node.create_timer(
            REPEAT_SECONDS, self.send, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self.send()

    @property
    def values(self) -> dict[str, str]:
        """A copy of the pairs now in force."""
        return dict(self._values)

    def announce(self, *, level: int = OK, message: str = "", **values: Any) -> None:
        """Change pairs, level and message; publish now if any of them differs."""
        before = (self._values.copy(), self._level, self._message)
        self.note(**values)
        self._level, self._message = level, message
        if before != (self._values, self._level, self._message):
            self.send()

    def note(self, **values: Any) -> None:
        """Change pairs; they go out with the next repetition."""
        self._values.update((key, _text(value)) for key, value in values.items())

    def send(self) -> None:
        """Publish the pairs as they are, stamped with the node's clock."""
        self.note(**self.live())
        stamp_ns = self._node.get_clock().now().nanoseconds
        self._sender.send(
            messages.status(stamp_ns, self._name, self._values, self._level, self._message)
        )


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
