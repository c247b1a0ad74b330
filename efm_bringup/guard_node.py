"""The guard as a node: one process per robot, the last before the robot's driver.

All rules are `efm_core.guard.Guard`'s; this node converts, calls, publishes and reports. Only while
it is active anything moves: deactivated, it brings the robot to a stand and falls silent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from std_srvs.srv import SetBool, Trigger

from efm_bringup.guard_output import GuardOutput
from efm_bringup.manual_commands import ManualCommands
from efm_core import messages
from efm_core.command_groups import check_groups
from efm_core.guard import Fault, Guard, GuardReport, GuardSettings
from efm_core.topics import (
    ACTION_CHUNK,
    EE_POSE,
    EPISODE_STATUS,
    EPISODE_TICK,
    JOINT_STATES,
    POLICY_STATUS,
    RESET_TRAJECTORY,
    TELEOP_JOINTS,
    TELEOP_TWIST,
    Topic,
)
from efm_core.whereabouts import Whereabouts
from efm_ros.channels import STOP_REQUEST, STOPPED, Sender, receive, receive_aged
from efm_ros.entrypoint import each, run
from efm_ros.managed import MANAGED, Heart, ManagedNode
from efm_ros.parameters import (
    FLEET,
    ROBOT,
    ParameterSpec,
    declare,
    described_fleet,
    described_robot,
)
from efm_ros.publisher_watch import GRACE_SECONDS, PublisherWatch, publishing_nodes

PARAMETERS = (
    *MANAGED,
    FLEET,
    ROBOT,
    ParameterSpec(
        "overlap_s", GRACE_SECONDS, "a publisher that died and came back may be seen twice for "
        "this long before it counts as a second one", "s", 1.0, 60.0,
    ),
)  # fmt: skip

Act = Callable[[int, ArrayLike, float], "GuardReport | None"]
HALT_SECONDS = 0.25
"""A deactivated guard goes on for this long after the robot stands: every driver hears of it."""


class GuardNode(ManagedNode):
    """Guards one robot in the namespace `/<robot>` and commands the drivers of all its groups.

    Parameters: `PARAMETERS`; what it enforces stands in the fleet file.
    """

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        """Raises ValueError naming the field when the fleet file can't be used."""
        super().__init__("guard", context=context, **options)
        values = declare(self, PARAMETERS)
        fleet = described_fleet(values)
        robot = described_robot(self, fleet, values)
        settings = robot.guard_settings(fleet.clock)
        groups = robot.command_groups
        try:
            check_groups(groups, robot.guard_settings("real"))
        except ValueError as error:
            raise ValueError(f"{fleet.path}: robot '{robot.name}': {error}") from error
        self._settings, self._groups = settings, groups
        self._space = robot.space
        self._real = settings.clock == "real"
        self._manual = ManualCommands(robot.space, groups, robot.name)
        self._watch = PublisherWatch(values["overlap_s"])
        self._begin_anew()
        self.manage(Heart(self, values["heartbeat_s"]), values["autostart"])

    # ---- life cycle --------------------------------------------------------------------------

    def load(self) -> None:
        """Make every channel."""
        self._output = GuardOutput(self, self._settings, self._groups)
        self._stop_request = Sender(self, STOP_REQUEST)
        self._listen(self._settings)
        self.create_service(SetBool, "teleop/takeover", self._on_takeover)
        self.create_service(Trigger, "guard/stop", self._on_stop_service)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self._settings.step_period, self._on_timer, clock=steady)
        if self._real:
            # Steps of a fixed period may come just before the end of a chunk, and then late.
            self._run_out = self.create_timer(
                self._guard.runs_out, self._on_run_out, clock=steady
            )
        self.create_timer(1.0, self._check_publishers, clock=steady)

    def begin(self) -> None:
        """Let pass what is allowed, remembering nothing of the time before."""
        self._output.begin_anew()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._guard = Guard(self._settings)
        self._whereabouts = Whereabouts(self._groups, self._space)
        self._pose: tuple[int, NDArray[np.float64]] | None = None
        self._going_ns: int | None = None
        self._halt_until = 0.0
        self._told_to_move = False

    def halt(self) -> None:
        """Bring the robot to a stand, within its limits; in lockstep at once."""
        now = time.monotonic()
        self._halt_until = now + HALT_SECONDS
        self._publish(self._guard.on_stop(now))

    @property
    def _speaks(self) -> bool:
        # A process that was not run for so long has yet to say that the arm shall stand.
        return self.active or self._told_to_move or time.monotonic() < self._halt_until

    def _listen(self, settings: GuardSettings) -> None:
        clock = settings.clock
        # Served in this order within one wake-up: a stop before anything that moves, an
        # announcement before the ticks and chunks of its episode.
        receive(self, STOP_REQUEST, self._on_stop_request, clock)
        receive_aged(self, STOPPED, self._on_stopped, clock, lazy=self._real)
        receive_aged(self, EPISODE_STATUS, self._on_episode_status, clock, lazy=self._real)
        listened: dict[Topic, Callable[[Any], None]] = {
            EE_POSE: self._on_pose,
            ACTION_CHUNK: self._on_chunk,
            TELEOP_TWIST: self._on_teleop,
            EPISODE_TICK: self._on_tick,
        }
        if self._whereabouts.needs_joints:
            listened[JOINT_STATES] = self._on_joint_states
        if self._space.kind == "absolute":
            del listened[TELEOP_TWIST]
            listened[TELEOP_JOINTS] = self._on_teleop_joints
        if self._real:
            listened[POLICY_STATUS] = self._on_policy_status
            listened[RESET_TRAJECTORY] = self._on_reset_motion
        # In lockstep nothing moves before the tick, which follows pose and chunk; in real time
        # the timer takes what it needs at every step. A stop request, and the news of a camera
        # that fell silent, are never kept waiting.
        lazy = {EE_POSE} if self._real else {EE_POSE, ACTION_CHUNK}
        for topic, callback in listened.items():
            receive(self, topic, callback, clock, lazy=topic in lazy)
        # Anybody may ask for a stop, and the drivers of arm and gripper share joint_states.
        watched = {STOPPED, EPISODE_STATUS, *listened} - {JOINT_STATES}
        self._watched = [self.resolve_topic_name(topic.name) for topic in watched]

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
        if self._real:
            self._run_out.reset()

    def _on_pose(self, message: Any) -> None:
        self._place(message, self._whereabouts.on_position(messages.read_position(message)))

    def _on_joint_states(self, message: Any) -> None:
        try:
            scalars = messages.read_named_scalars(message)
        except ValueError as error:
            self._warn(f"joint_states refused: {error}")
            return
        self._place(message, self._whereabouts.on_joints(scalars))

    def _place(self, message: Any, position: NDArray[np.float64] | None) -> None:
        """Every dimension that can be measured has a new position, (D,); None = not yet."""
        if position is None:
            return
        stamp_ns = messages.stamp_of(message)
        self._pose = (stamp_ns, position)
        if self._real or stamp_ns == self._going_ns:
            self._publish(self._guard.on_pose(stamp_ns, position, time.monotonic()))

    def _on_episode_status(self, message: Any, age: float) -> None:
        values = messages.read_status(message)
        phase, episode = values.get("phase", "idle"), values.get("episode_id", "")
        mode, now = values.get("mode", ""), time.monotonic()
        self._publish(self._guard.on_episode_status(phase, episode, now, mode, age))

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

    def _on_manual(
        self, name: str, read: Callable[[Any], ArrayLike], act: Act, message: Any
    ) -> None:
        """A person's command, or a reset's."""
        try:
            values = read(message)
        except ValueError as error:
            self._warn(f"{name} refused: {error}")
            return
        self._publish(act(messages.stamp_of(message), values, time.monotonic()))

    def _on_teleop(self, message: Any) -> None:
        self._on_manual(TELEOP_TWIST.name, self._manual.twist, self._guard.on_teleop, message)

    def _on_teleop_joints(self, message: Any) -> None:
        self._on_manual(TELEOP_JOINTS.name, self._manual.joints, self._guard.on_teleop, message)

    def _on_reset_motion(self, message: Any) -> None:
        read = self._manual.reset_motion
        self._on_manual(RESET_TRAJECTORY.name, read, self._guard.on_reset, message)

    def _on_policy_status(self, message: Any) -> None:
        values = messages.read_status(message)
        self._publish(
            self._guard.on_policy_status(
                values.get("stale") == "1", values.get("frozen") == "1", time.monotonic()
            )
        )

    def _on_stopped(self, message: Any, age: float) -> None:
        self._publish(self._guard.on_fleet_stopped(bool(message.data), time.monotonic(), age))

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
        if not self._speaks:
            return
        self._publish(self._guard.step(time.monotonic()))

    def _on_run_out(self) -> None:
        """No chunk followed the last one."""
        self._run_out.cancel()
        self._on_timer()

    def _check_publishers(self) -> None:
        if not self.active:
            return
        now = time.monotonic()
        for topic in self._watched:
            complaint = self._watch.judge(topic, publishing_nodes(self, topic), now)
            if complaint:
                self._warn(complaint)
                self._publish(self._guard.on_fault(Fault.SECOND_PUBLISHER, complaint, now))

    # ---- output ------------------------------------------------------------------------------

    def _publish(self, report: GuardReport | None) -> None:
        if report is None or not self._speaks:
            return
        self._told_to_move = bool(report.velocity.any())
        if self._told_to_move and not self.active:
            self._halt_until = time.monotonic() + HALT_SECONDS
        self._output.send(report)

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text, throttle_duration_sec=1.0)

    def _wall_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> None:
    """Entry point of `efm_guard`."""
    sys.exit(run(each(GuardNode)))
