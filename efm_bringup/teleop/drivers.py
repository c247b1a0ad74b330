"""Keys of a terminal that drive a robot, for `efm record --drive` and `efm teleop`."""

from __future__ import annotations

import time

from rclpy.node import Node

from efm_bringup.teleop.keyboard import SPEED, KeyMotion
from efm_bringup.teleop.orders import Order
from efm_bringup.teleop.pilot import Pilot
from efm_core.fleet import RobotDescription


class KeyboardDriver:
    """Drives `robot`, in whose namespace `node` is, at `speed` (m/s).

    A motion key never takes over an autonomous episode; the order TAKE_OVER does.
    """

    def __init__(self, node: Node, robot: RobotDescription, speed: float = SPEED) -> None:
        self._motion = KeyMotion(speed)
        self._pilot = Pilot(node, robot, self._motion.velocity, holding_takes_over=False)

    @property
    def taken_over(self) -> bool:
        """Whether the robot is taken over from its policy."""
        return self._pilot.drive.taken_over

    def press(self, key: str, order: Order | None) -> bool:
        """A key and its order; whether that was all: motion, taking over, giving back."""
        if order is not None and order.is_takeover:
            self._pilot.order(order)
            return True
        return self._motion.press(key, time.monotonic())
