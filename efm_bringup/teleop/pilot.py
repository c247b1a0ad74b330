"""A person at one robot, as ROS sees it: twists out, takeover and orders as service calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from efm_bringup.teleop.drive import Drive, Twist
from efm_bringup.teleop.orders import Order
from efm_core import messages
from efm_core.fleet import RobotDescription
from efm_core.topics import EE_POSE, EPISODE_STATUS, TELEOP_TWIST
from efm_ros.channels import Sender, receive

PERIOD_SECONDS = 0.02
Velocity = Callable[[float], "NDArray[np.float64] | None"]


class Pilot:
    """Drives the robot in whose namespace `node` is.

    velocity: steady s -> what the person asks for, (6,) in m/s and rad/s, None for nothing.
    holding_takes_over: whether asking for motion takes over an autonomous episode, and the next
    episode is the policy's again unless it still does (a dead man's button); else only the order
    TAKE_OVER does. pace: see `Drive`.
    """

    def __init__(
        self,
        node: Node,
        robot: RobotDescription,
        velocity: Velocity,
        holding_takes_over: bool = True,
        pace: float = 1.0,
    ) -> None:
        self._node, self._frame = node, robot.space.frame
        self._velocity = velocity
        self._holding_takes_over = holding_takes_over
        self.drive = Drive(robot.space.rate, pace)
        self._twist = Sender(node, TELEOP_TWIST)
        self._takeover = node.create_client(SetBool, "teleop/takeover")
        self._asked: Future | None = None
        self._services: dict[Order, Client] = {
            order: node.create_client(Trigger, f"episode/{order.value}")
            for order in Order
            if not order.is_takeover
        }
        self._given: tuple[str, set[Order]] = ("", set())
        receive(node, EPISODE_STATUS, self._on_status)
        receive(node, EE_POSE, self._on_pose)
        node.create_timer(PERIOD_SECONDS, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # ---- motion ------------------------------------------------------------------------------

    def _on_status(self, message: Any) -> None:
        if self.drive.on_status(messages.read_status(message)) and self.drive.taken_over:
            holds = self._velocity(time.monotonic()) is not None
            if not (self._holding_takes_over and holds):
                self._ask_guard(False)
        self._tick()

    def _on_pose(self, message: Any) -> None:
        again = self.drive.on_observation(messages.stamp_of(message))
        if again is not None:
            self._send(again)
        else:
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        velocity, drive = self._velocity(now), self.drive
        wants = self._holding_takes_over and velocity is not None and drive.autonomous
        if wants and not drive.taken_over:
            self._ask_guard(True)
        command = drive.command(velocity, now, self._node.get_clock().now().nanoseconds)
        if command is not None:
            self._send(command)

    def _send(self, command: Twist) -> None:
        linear, angular = command.velocity[:3].tolist(), command.velocity[3:].tolist()
        self._twist.send(messages.twist(command.stamp_ns, self._frame, linear, angular))

    # ---- takeover ----------------------------------------------------------------------------

    def _ask_guard(self, active: bool) -> None:
        """One call at a time: the last answer heard is the guard's state."""
        if self._asked is not None and not self._asked.done():
            return
        if not self._takeover.service_is_ready():
            self._warn("no guard answers teleop/takeover; is it up?")
            return
        self._asked = self._takeover.call_async(SetBool.Request(data=active))
        self._asked.add_done_callback(lambda future: self._guard_answered(future, active))

    def _guard_answered(self, future: Future, active: bool) -> None:
        answer = future.result()
        if answer is not None and answer.success:
            self.drive.taken_over = active
            self._node.get_logger().info("taken over" if active else "given back to the policy")
            self._tick()

    # ---- orders ------------------------------------------------------------------------------

    def order(self, order: Order) -> None:
        """Ask for `order`; the answer is logged."""
        if order.is_takeover:
            self._ask_guard(order is Order.TAKE_OVER)
            return
        episode = self.drive.status.get("episode_id", "")
        if self._given[0] != episode:
            self._given = (episode, set())
        if order.is_once and order in self._given[1]:
            return
        client = self._services[order]
        if not client.service_is_ready():
            self._warn(f"no episode manager answers episode/{order.value}; is it up?")
            return
        future = client.call_async(Trigger.Request())
        future.add_done_callback(lambda done: self._answered(done, order, episode))
        if order.is_once:
            self._given[1].add(order)

    def _answered(self, future: Future, order: Order, episode: str) -> None:
        answer = future.result()
        if answer is None:
            return
        text = f"{order.value}: {answer.message}"
        if answer.success:
            self._node.get_logger().info(text)
            return
        self._warn(text)
        if self._given[0] == episode:
            self._given[1].discard(order)  # refused: it may be asked for again

    def _warn(self, text: str) -> None:
        self._node.get_logger().warning(text, throttle_duration_sec=1.0)
