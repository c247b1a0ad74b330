"""The guard as a node: one process per robot, the last before the robot's driver.

All rules are `efm_core.guard.Guard`'s; this node converts, calls, publishes and reports.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from efm_core import messages
from efm_core.actions import ActionSpace
from efm_core.fleet import RobotDescription
from efm_core.guard import Fault, Guard, GuardReport, GuardSettings
from efm_core.topics import (
    ACTION_CHUNK,
    EE_POSE,
    EPISODE_STATUS,
    EPISODE_TICK,
    GUARD_STATE,
    POLICY_STATUS,
    TELEOP_TWIST,
    Topic,
    twist_command,
)
from efm_ros.channels import STOP_REQUEST, STOPPED, Sender, receive
from efm_ros.entrypoint import run
from efm_ros.parameters import fleet_parameter, robot_parameter
from efm_ros.publisher_watch import PublisherWatch, publishing_nodes

_POSE_AXES = {"x": 0, "y": 1, "z": 2}


class GuardNode(Node):
    """Guards one robot in the namespace `/<robot>`; its command group's commands are twists.

    Parameters: `fleet` (path of the fleet file), `robot` (default: the namespace).
    """

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        """Raises ValueError naming the field when the robot can't be commanded by twists."""
        super().__init__("guard", context=context, start_parameter_services=False, **options)
        fleet = fleet_parameter(self)
        robot = robot_parameter(self, fleet)
        settings = robot.guard_settings(fleet.clock)
        self._space = _twist_space(robot)
        self._guard = Guard(settings)
        self._real = settings.clock == "real"
        self._fault: Fault | None = None
        self._pose: tuple[int, NDArray[np.float64]] | None = None
        self._going_ns: int | None = None
        self._frames = {"", self._space.frame, f"{robot.name}/{self._space.frame}"}
        self._command = Sender(self, twist_command(robot.commands[0]))
        self._state = Sender(self, GUARD_STATE)
        self._stop_request = Sender(self, STOP_REQUEST)
        self._listen(settings)
        self.create_service(SetBool, "teleop/takeover", self._on_takeover)
        self.create_service(Trigger, "guard/stop", self._on_stop_service)
        self._watch = PublisherWatch()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(settings.step_period, self._on_timer, clock=steady)
        self.create_timer(1.0, self._check_publishers, clock=steady)

    def _listen(self, settings: GuardSettings) -> None:
        clock = settings.clock
        # Served in this order within one wake-up: a stop before anything that moves, an
        # announcement before the ticks and chunks of its episode.
        listened: dict[Topic, Callable[[Any], None]] = {
            STOP_REQUEST: self._on_stop_request,
            STOPPED: self._on_stopped,
            EPISODE_STATUS: self._on_episode_status,
            EE_POSE: self._on_pose,
            ACTION_CHUNK: self._on_chunk,
            TELEOP_TWIST: self._on_teleop,
            EPISODE_TICK: self._on_tick,
        }
        if self._real:
            listened[POLICY_STATUS] = self._on_policy_status
        # In lockstep nothing moves before the tick, which follows pose and chunk.
        lazy = set() if self._real else {EE_POSE, ACTION_CHUNK}
        for topic, callback in listened.items():
            receive(self, topic, callback, clock, lazy=topic in lazy)
        self._watched = [
            self.resolve_topic_name(topic.name) for topic in listened if topic != STOP_REQUEST
        ]

    # ---- inputs ------------------------------------------------------------------------------

    def _on_chunk(self, message: Any) -> None:
        now, episode = time.monotonic(), message.header.frame_id
        try:
            values = messages.read_action_chunk(message, self._space)
        except ValueError as error:
            self._warn(f"policy/action_chunk refused: {error}")
            self._publish(self._guard.on_bad_chunk(episode, str(error), now))
            return
        stamp_ns = messages.stamp_of(message)
        age = (self._wall_ns() - stamp_ns) / 1e9 if self._real else 0.0
        self._publish(self._guard.on_chunk(stamp_ns, episode, values, now, age))

    def _on_pose(self, message: Any) -> None:
        position = positions(messages.read_position(message), self._space.names)
        stamp_ns = messages.stamp_of(message)
        self._pose = (stamp_ns, position)
        if self._real or stamp_ns == self._going_ns:
            self._publish(self._guard.on_pose(stamp_ns, position, time.monotonic()))

    def _on_episode_status(self, message: Any) -> None:
        values = messages.read_status(message)
        phase = values.get("phase", "idle")
        self._publish(
            self._guard.on_episode_status(
                phase,
                values.get("episode_id", ""),
                time.monotonic(),
                values.get("mode", ""),
            )
        )

    def _on_tick(self, message: Any) -> None:
        """Lockstep: the pose of this stamp makes the guard act, so it is kept back until now.

        Otherwise a chunk could move the robot in the very instant in which the manager sees
        success and wants it still.
        """
        now, stamp_ns = time.monotonic(), messages.stamp_of(message)
        still = messages.read_named_scalars(message).get("still", 0.0) > 0.0
        if not self._real and not still:
            self._going_ns = stamp_ns
            if self._pose is not None and self._pose[0] == stamp_ns:
                self._publish(self._guard.on_pose(*self._pose, now))
        self._publish(self._guard.on_tick(stamp_ns, now))

    def _on_teleop(self, message: Any) -> None:
        if message.header.frame_id not in self._frames:
            self._warn(
                f"teleop/twist refused: header.frame_id is '{message.header.frame_id}', "
                f"expected '{self._space.frame}'"
            )
            return
        velocity = messages.action_from_twist(message, self._space)
        self._publish(
            self._guard.on_teleop(messages.stamp_of(message), velocity, time.monotonic())
        )

    def _on_policy_status(self, message: Any) -> None:
        values = messages.read_status(message)
        self._publish(
            self._guard.on_policy_status(
                values.get("stale") == "1", values.get("frozen") == "1", time.monotonic()
            )
        )

    def _on_stopped(self, message: Any) -> None:
        self._publish(self._guard.on_fleet_stopped(bool(message.data), time.monotonic()))

    def _on_stop_request(self, message: Any) -> None:
        self._publish(self._guard.on_stop(time.monotonic()))

    def _on_takeover(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        self._publish(self._guard.on_takeover(bool(request.data), time.monotonic()))
        response.success = True
        response.message = "taken over" if request.data else "given back"
        return response

    def _on_stop_service(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        self._publish(self._guard.on_stop(time.monotonic()))
        self._stop_request.send(messages.empty())  # the fleet latches it and can clear it
        response.success, response.message = True, "stopped; clear with /fleet/clear_stop"
        return response

    # ---- timers ------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        self._publish(self._guard.step(time.monotonic()))

    def _check_publishers(self) -> None:
        now = time.monotonic()
        for topic in self._watched:
            complaint = self._watch.judge(topic, publishing_nodes(self, topic), now)
            if complaint:
                self._warn(complaint)
                self._publish(self._guard.on_fault(Fault.SECOND_PUBLISHER, complaint, now))

    # ---- output ------------------------------------------------------------------------------

    def _publish(self, report: GuardReport | None) -> None:
        """The command first, then what was done: whoever sees the state has the command."""
        if report is None:
            return
        stamp_ns = self._wall_ns() if report.stamp_ns is None else report.stamp_ns
        sent_ns = self._wall_ns() if self._real else stamp_ns
        self._command.send(messages.twist_from_action(sent_ns, self._space, report.velocity))
        self._state.send(
            messages.guard_state(
                stamp_ns,
                report.executed,
                self._space,
                int(report.source),
                report.modified,
                int(report.fault),
                report.chunk_age,
                report.point_index,
            )
        )
        if report.fault is not self._fault:
            self._log_fault(report)

    def _log_fault(self, report: GuardReport) -> None:
        self._fault = report.fault
        if report.fault is Fault.NONE:
            self.get_logger().info(f"no fault; source {report.source.name.lower()}")
        else:
            self.get_logger().warning(
                f"holding: {report.fault.name.lower()}: {'; '.join(report.reasons)}"
            )

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text, throttle_duration_sec=1.0)

    def _wall_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def _twist_space(robot: RobotDescription) -> ActionSpace:
    """The robot's action space. Raises ValueError when twists can't express it."""
    space = robot.space
    if space.kind != "delta":
        raise ValueError(
            f"robot '{robot.name}': space.kind is '{space.kind}'; the guard node commands twists, "
            "so give the robot a delta action space"
        )
    if len(robot.commands) != 1:
        raise ValueError(
            f"robot '{robot.name}': commands lists {robot.commands}; the guard node serves one "
            "command group, so name one"
        )
    try:
        messages.twist_from_action(0, space, np.zeros(space.size))
    except ValueError as error:
        raise ValueError(f"robot '{robot.name}': space.dims: {error}") from error
    return space


def positions(position: NDArray[np.float64], names: tuple[str, ...]) -> NDArray[np.float64]:
    """Effector position (3,), m -> (D,) in the order of the action dimensions.

    NaN for dimensions that a position says nothing of (rotations).
    """
    return np.array(
        [position[_POSE_AXES[name]] if name in _POSE_AXES else np.nan for name in names]
    )


def main() -> None:
    """Entry point of `efm_guard`."""
    sys.exit(run(GuardNode))
