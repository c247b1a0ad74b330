"""The monitor as a node: one process draws every robot of the fleet on its `monitor/markers`.

It looks on and nothing waits for it. Messages never wake it: a timer takes what has come, and
draws at most `rate` times a second, and only while somebody is subscribed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node

from efm_bringup.monitor.layout import Place, places
from efm_bringup.monitor.picture import RobotPicture
from efm_core import messages
from efm_core.fleet import RobotDescription
from efm_core.markers import marker_array
from efm_core.topics import (
    ACTION_CHUNK,
    EE_POSE,
    EPISODE_STATUS,
    GUARD_STATE,
    INSTRUCTION,
    MARKERS,
    REWARD_STATE,
    Topic,
)
from efm_ros.channels import Sender, receive_bytes
from efm_ros.entrypoint import run
from efm_ros.parameters import FLEET, ParameterSpec, declare, described_fleet

PARAMETERS = (
    FLEET,
    ParameterSpec("rate", 5.0, "pictures of each robot per second at most", "Hz", 0.2, 30.0),
)

LOOKS_PER_PICTURE = 4
"""Messages are taken this often between two pictures, before their queues run over."""
REPEAT_SECONDS = 1.0
LIFETIME_SECONDS = 3.0
"""A viewer drops markers that were not sent again for this long: a dead monitor shows nothing."""


NEWEST_ONLY = frozenset({GUARD_STATE, ACTION_CHUNK})
"""Of these the newest is read when a picture is due, and no other."""

Reader = Callable[[bytes], None]


@dataclass(slots=True)
class _Canvas:
    frame: str
    picture: RobotPicture
    sender: Sender
    unread: dict[Reader, bytes] = field(default_factory=dict)
    age: int = 0  # looks since the last picture


class MonitorNode(Node):
    """Draws every robot of a fleet; parameters: `PARAMETERS`."""

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        """Raises ValueError (FleetError) naming the parameter that can't be used."""
        super().__init__("monitor", context=context, **options)
        values = declare(self, PARAMETERS)
        fleet, rate = described_fleet(values), values["rate"]
        place = places(fleet)
        self._canvases = [self._canvas(robot, place[robot.name]) for robot in fleet.robots]
        self._looks_to_repeat = round(REPEAT_SECONDS * rate * LOOKS_PER_PICTURE)
        period = 1.0 / (rate * LOOKS_PER_PICTURE)
        self.create_timer(period, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _canvas(self, robot: RobotDescription, place: Place) -> _Canvas:
        picture = RobotPicture(robot, place)
        heard: dict[Topic, Callable[[Any], None]] = {
            EPISODE_STATUS: lambda m: picture.on_status(messages.read_status(m)),
            INSTRUCTION: lambda m: picture.on_instruction(m.data),
            EE_POSE: lambda m: picture.on_pose(messages.stamp_of(m), messages.read_position(m)),
            REWARD_STATE: lambda m: picture.on_reward(
                messages.stamp_of(m), messages.read_named_scalars(m)
            ),
            GUARD_STATE: lambda m: picture.on_guard(messages.read_named_scalars(m)),
            ACTION_CHUNK: lambda m: picture.on_chunk(
                messages.stamp_of(m), m.header.frame_id, messages.read_action_chunk(m, robot.space)
            ),
        }
        sender = Sender(self, replace(MARKERS, name=f"/{robot.name}/{MARKERS.name}"))
        canvas = _Canvas(place.frame, picture, sender)
        for topic, callback in heard.items():
            own = replace(topic, name=f"/{robot.name}/{topic.name}")
            read = self._reader(own, callback)
            take = partial(canvas.unread.__setitem__, read) if topic in NEWEST_ONLY else read
            receive_bytes(self, own, take, role="recorder", lazy=True)
        return canvas

    def _reader(self, topic: Topic, callback: Callable[[Any], None]) -> Reader:
        def read(data: bytes) -> None:
            try:
                callback(messages.deserialize(data, topic.type))
            except ValueError as error:  # a foreign publisher: the rest of the picture stays good
                self.get_logger().warning(
                    f"{topic.name} not drawn: {error}", throttle_duration_sec=10.0
                )

        return read

    def _look(self) -> None:
        for canvas in self._canvases:
            canvas.age += 1
            due = canvas.age >= LOOKS_PER_PICTURE and canvas.picture.changed
            if (due or canvas.age >= self._looks_to_repeat) and canvas.sender.subscribers:
                self._draw(canvas)

    def _draw(self, canvas: _Canvas) -> None:
        while canvas.unread:
            read, data = canvas.unread.popitem()
            read(data)
        shapes = canvas.picture.shapes()
        canvas.sender.send(marker_array(canvas.frame, shapes, LIFETIME_SECONDS))
        canvas.picture.changed, canvas.age = False, 0


def main() -> None:
    """Entry point of `efm_monitor`."""
    sys.exit(run(MonitorNode, yields=10))
