"""The episode manager's node: subscriptions, services and a timer round a `Conductor`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node
from rclpy.subscription import Subscription
from std_srvs.srv import Trigger

from efm_core import topics
from efm_core.reset_settings import moves
from efm_core.topics import Topic
from efm_episode_manager.conductor import Conductor
from efm_episode_manager.hearing import Hearing
from efm_episode_manager.ownership import RobotLock
from efm_episode_manager.parameters import PARAMETERS, changed_settings, settings_from
from efm_episode_manager.recorder import recorded_topics
from efm_episode_manager.recovery import recover_own
from efm_episode_manager.scribe import Job
from efm_episode_manager.services import NAMES, OperatorServices
from efm_episode_manager.session import Session
from efm_episode_manager.settings import ManagerSettings
from efm_ros.channels import PLAN, STOPPED, Sender, receive, receive_bytes
from efm_ros.entrypoint import each, run
from efm_ros.executor import set_lazy
from efm_ros.managed import Heart, ManagedNode
from efm_ros.parameters import declare

_POLL_SECONDS = 0.05
_POLLS_PER_STATUS = 2
_HURRY_SECONDS = {"lockstep": 0.002, "real": 0.02}
_STEADY = Clock(clock_type=ClockType.STEADY_TIME)
_OWN = (topics.INSTRUCTION, topics.EPISODE_STATUS, topics.EPISODE_TICK)
"""Topics that the manager publishes: it records what it sends and does not listen to itself."""


class EpisodeManagerNode(ManagedNode):
    """Executes its robot's list of the plan on /fleet/plan; see the package's other modules.

    Parameters: `efm_episode_manager.parameters.PARAMETERS`.
    """

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        """Raises ValueError naming a parameter that is not understood, or a second manager."""
        super().__init__("episode_manager", context=context, **options)
        values = declare(self, PARAMETERS, self._on_change)
        self._robot_node = values["robot_node"]
        self._settings = self._read(values)
        self._lock = RobotLock(self._settings.data_dir, self._settings.robot)
        self._outside: _RosOutside | None = None
        self.manage(Heart(self, values["heartbeat_s"]), values["autostart"])

    # ---- life cycle --------------------------------------------------------------------------

    def load(self) -> None:
        """Recover what a killed manager left open; make every channel."""
        settings = self._settings
        for path in recover_own(settings.data_dir, settings.robot):
            self.get_logger().warning(f"recovered the interrupted episode {path}")
        self._outside = _RosOutside(self, settings.clock)
        self.conductor = Conductor(settings, self._outside, working=False)
        self._outside.conductor = self.conductor
        self._listen(settings)
        self._outside.wake_by("")  # until an episode begins nothing is urgent
        services = OperatorServices(self.conductor)
        for name in NAMES:
            self.create_service(
                Trigger, f"episode/{name}", partial(_serve, getattr(services, name))
            )
        self._polls = 0
        self.create_timer(_POLL_SECONDS, self._poll, clock=_STEADY)
        self.conductor.core.publish_status()

    def _poll(self) -> None:
        """One timer for both: two of them would wake the process at moments of their own."""
        self.conductor.poll()
        self._polls += 1
        if self._polls % _POLLS_PER_STATUS == 0:
            self.conductor.core.publish_status()

    def begin(self) -> None:
        """Go on with the plan."""
        self.conductor.work()

    def halt(self) -> None:
        """End the episode, which is kept and marked; begin no other."""
        self.conductor.rest()

    def release(self) -> None:
        """Wait for a bag that is being finished; save what is open."""
        outside, self._outside = self._outside, None
        if outside is not None:
            outside.close()
            self.conductor.course.shut_down()

    def _read(self, values: Mapping[str, Any]) -> ManagerSettings:
        namespace = self.get_namespace().strip("/")
        versions = {
            "efm_version": _efm_version(), "ros_version": os.environ.get("ROS_DISTRO", "jazzy"),
        }  # fmt: skip
        try:
            return settings_from({**values, "robot": values["robot"] or namespace, **versions})
        except ValidationError as error:
            raise ValueError(f"episode manager of '{namespace}': {error}") from error

    def _on_change(self, changed: Mapping[str, Any]) -> None:
        self._settings = changed_settings(self._settings, changed)
        if self._outside is not None:
            self.conductor.core.adopt(self._settings)

    def _listen(self, settings: ManagerSettings) -> None:
        assert self._outside is not None
        self.hearing = Hearing(self.conductor)
        own = {topic.name for topic in _OWN}
        for topic in recorded_topics(settings.camera_topics, settings.commands):
            if topic.name not in own:
                take = partial(self._hear, topic.name)
                made = receive_bytes(self, topic, take, settings.clock, "recorder")
                if topic.qos != "latched":
                    self._outside.per_tick[topic.name] = made
        receive(self, PLAN, lambda message: self.conductor.set_plan(message.data))
        receive(self, STOPPED, lambda message: self.conductor.set_fleet_stopped(message.data))
        self._outside.open_reset(
            f"{self._robot_node}/set_parameters", moves(settings.reset.method)
        )

    def _hear(self, name: str, data: bytes, info: Mapping[str, int]) -> None:
        """Stamped with its arrival, for it may have waited here until something woke the node."""
        received_ns = info["received_timestamp"] or time.time_ns()
        self.hearing.hear(name, data, received_ns, info["source_timestamp"])

    def destroy_node(self) -> None:
        """Wait for a bag that is being finished, then let go of the robot."""
        self.release()
        super().destroy_node()
        self._lock.release()


class _RosOutside:
    """`conductor.Outside` over ROS: publishers, the robot's reset, a worker for saving."""

    def __init__(self, node: Node, clock: str) -> None:
        self.conductor: Conductor | None = None
        self._node = node
        self._senders = {topic.name: Sender(node, topic) for topic in _OWN}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saving")
        self._saving: deque[tuple[Session, Future[Path | None]]] = deque()
        self._saved = node.create_guard_condition(self._report_saved)
        self.per_tick: dict[str, Subscription] = {}
        self._hurry = node.create_timer(_HURRY_SECONDS[clock], self._take_all, clock=_STEADY)
        self._hurry.cancel()

    def open_reset(self, parameter_service: str, moving: bool) -> None:
        """Make the clients of the robot's reset, and the way for a motion of our own."""
        if moving:
            topic = topics.RESET_TRAJECTORY
            self._senders[topic.name] = Sender(self._node, topic)
        self._parameters = self._node.create_client(SetParameters, parameter_service)
        self._reset = self._node.create_client(Trigger, "reset")

    def steady_s(self) -> float:
        return time.monotonic()

    def wall_ns(self) -> int:
        return time.time_ns()

    def send(self, topic: Topic, message: Any) -> bytes:
        return self._senders[topic.name].send(message)

    def reset_ready(self) -> bool:
        return bool(self._reset.service_is_ready() and self._parameters.service_is_ready())

    def request_reset(self, scene: Mapping[str, Any]) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=json.dumps(scene))
        request = SetParameters.Request(parameters=[Parameter(name="scene", value=value)])
        answered = partial(self._scene_answered, str(scene["request"]))
        self._parameters.call_async(request).add_done_callback(answered)

    def _scene_answered(self, request: str, future: Any) -> None:
        assert self.conductor is not None
        result = future.result().results[0]
        if result.successful:
            answered = partial(self._reset_answered, request)
            self._reset.call_async(Trigger.Request()).add_done_callback(answered)
        else:
            reason = f"the robot refused the scene: {result.reason}"
            self.conductor.course.reset_refused(reason, request)

    def _reset_answered(self, request: str, future: Any) -> None:
        assert self.conductor is not None
        answer = future.result()
        if not answer.success:
            reason = f"the robot refused to reset: {answer.message}"
            self.conductor.course.reset_refused(reason, request)

    def wake_by(self, topic: str) -> None:
        for name, subscription in self.per_tick.items():
            set_lazy(self._node, subscription, name != topic)

    def hurry(self, on: bool) -> None:
        if on:
            self._hurry.reset()
        else:
            self._hurry.cancel()

    def _take_all(self) -> None:
        """Being woken is enough: the executor takes what the lazy subscriptions hold."""
        assert self.conductor is not None
        self.conductor.course.check_closed()

    def work(self, session: Session, job: Job) -> None:
        future = self._worker.submit(job)
        self._saving.append((session, future))
        future.add_done_callback(lambda _: self._saved.trigger())

    def _report_saved(self) -> None:
        assert self.conductor is not None
        while self._saving and self._saving[0][1].done():
            session, future = self._saving.popleft()
            error = future.exception()
            if error is not None and not isinstance(error, OSError | ValueError):
                raise error
            path = None if error else future.result()
            self.conductor.course.saved(session, path, error)

    def close(self) -> None:
        """Let a running job end."""
        self._worker.shutdown(wait=True)


def _serve(
    method: Callable[[], tuple[bool, str]], _: Trigger.Request, response: Trigger.Response
) -> Trigger.Response:
    response.success, response.message = method()
    return response


def _efm_version() -> str:
    try:
        return version("efm_bringup")
    except PackageNotFoundError:  # a checkout that was never installed
        return ""


def main() -> None:
    """Entry point of `efm_episode_manager`."""
    sys.exit(run(each(EpisodeManagerNode), yields=5))  # more would starve its heartbeat
