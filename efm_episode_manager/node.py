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
from rcl_interfaces.msg import Parameter, ParameterDescriptor, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node
from rclpy.subscription import Subscription
from std_srvs.srv import Trigger

from efm_core import topics
from efm_core.actions import ActionSpace
from efm_core.topics import Topic
from efm_episode_manager.conductor import Conductor
from efm_episode_manager.hearing import Hearing
from efm_episode_manager.ownership import RobotLock
from efm_episode_manager.recorder import recorded_topics
from efm_episode_manager.recovery import recover_own
from efm_episode_manager.scribe import Job
from efm_episode_manager.services import NAMES, OperatorServices
from efm_episode_manager.session import Session
from efm_episode_manager.settings import ManagerSettings
from efm_ros.channels import PLAN, STOPPED, Sender, receive, receive_bytes
from efm_ros.entrypoint import run
from efm_ros.executor import set_lazy

_POLL_SECONDS = 0.05
_STATUS_SECONDS = 0.1
_HURRY_SECONDS = 0.002
_STEADY = Clock(clock_type=ClockType.STEADY_TIME)
_OWN = (topics.INSTRUCTION, topics.EPISODE_STATUS, topics.EPISODE_TICK)
"""Topics that the manager publishes: it records what it sends and does not listen to itself."""


class EpisodeManagerNode(Node):
    """Executes its robot's list of the plan on /fleet/plan; see the package's other modules."""

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        """Raises ValueError naming a parameter that is not understood, or a second manager."""
        super().__init__("episode_manager", context=context, **options)
        settings = self._settings()
        self._lock = RobotLock(settings.data_dir, settings.robot)
        for path in recover_own(settings.data_dir, settings.robot):
            self.get_logger().warning(f"recovered the interrupted episode {path}")
        self._outside = _RosOutside(self)
        self.conductor = Conductor(settings, self._outside)
        self._outside.conductor = self.conductor
        self._listen(settings)
        services = OperatorServices(self.conductor)
        for name in NAMES:
            self.create_service(
                Trigger, f"episode/{name}", partial(_serve, getattr(services, name))
            )
        self.create_timer(_POLL_SECONDS, self.conductor.poll, clock=_STEADY)
        core = self.conductor.core
        self.create_timer(_STATUS_SECONDS, core.publish_status, clock=_STEADY)
        core.publish_status()

    def _settings(self) -> ManagerSettings:
        robot = self.get_namespace().strip("/")
        values: dict[str, Any] = {}
        for name, default, description in _PARAMETERS:
            descriptor = ParameterDescriptor(description=description, read_only=True)
            values[name] = self.declare_parameter(name, default, descriptor).value
        self._robot_node = str(values.pop("robot_node"))
        space_text = values.pop("action_space")
        values["cameras"] = tuple(name for name in values["cameras"] if name)
        values["commands"] = tuple(name for name in values["commands"] if name)
        values["instructions"] = tuple(text for text in values["instructions"] if text)
        values["reserve_bytes"] = int(float(values.pop("reserve_mb")) * 1e6)
        try:
            space = ActionSpace.model_validate_json(space_text)
            return ManagerSettings(
                robot=values.pop("robot") or robot, space=space, efm_version=_efm_version(),
                ros_version=os.environ.get("ROS_DISTRO", "jazzy"), **values,
            )  # fmt: skip
        except ValidationError as error:
            raise ValueError(f"episode manager of '{robot}': {error}") from error

    def _listen(self, settings: ManagerSettings) -> None:
        self.hearing = Hearing(self.conductor)
        own = {topic.name for topic in _OWN}
        for topic in recorded_topics(settings.cameras, settings.commands):
            if topic.name not in own:
                take = partial(self._hear, topic.name)
                made = receive_bytes(self, topic, take, settings.clock, "recorder")
                if topic.qos != "latched":
                    self._outside.per_tick[topic.name] = made
        receive(self, PLAN, lambda message: self.conductor.set_plan(message.data))
        receive(self, STOPPED, lambda message: self.conductor.set_fleet_stopped(message.data))
        self._outside.open_reset(f"{self._robot_node}/set_parameters")

    def _hear(self, name: str, data: bytes) -> None:
        self.hearing.hear(name, data, time.time_ns())

    def destroy_node(self) -> None:
        """Wait for a bag that is being finished, then let go of the robot."""
        self._outside.close()
        self.conductor.course.shut_down()
        super().destroy_node()
        self._lock.release()


class _RosOutside:
    """`conductor.Outside` over ROS: publishers, the robot's reset, a worker for saving."""

    def __init__(self, node: Node) -> None:
        self.conductor: Conductor | None = None
        self._node = node
        self._senders = {topic.name: Sender(node, topic) for topic in _OWN}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saving")
        self._saving: deque[tuple[Session, Future[Path | None]]] = deque()
        self._saved = node.create_guard_condition(self._report_saved)
        self.per_tick: dict[str, Subscription] = {}
        self._hurry = node.create_timer(_HURRY_SECONDS, self._take_all, clock=_STEADY)
        self._hurry.cancel()

    def open_reset(self, parameter_service: str) -> None:
        """Make the clients of the robot's reset."""
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
        self._parameters.call_async(request).add_done_callback(self._scene_answered)

    def _scene_answered(self, future: Any) -> None:
        assert self.conductor is not None
        result = future.result().results[0]
        if result.successful:
            self._reset.call_async(Trigger.Request()).add_done_callback(self._reset_answered)
        else:
            self.conductor.course.reset_refused(f"the robot refused the scene: {result.reason}")

    def _reset_answered(self, future: Any) -> None:
        assert self.conductor is not None
        answer = future.result()
        if not answer.success:
            self.conductor.course.reset_refused(f"the robot refused to reset: {answer.message}")

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


_PARAMETERS: tuple[tuple[str, Any, str], ...] = (
    ("robot", "", "the robot's name; empty: the node's namespace"),
    ("fleet", "", "the fleet's name, written into every record"),
    ("data_dir", "data", "directory that the data sets are written below"),
    ("clock", "lockstep", "lockstep: virtual stamps, the world waits for ticks; real: wall time"),
    ("cameras", ["front"], "names of the cameras to record"),
    ("commands", ["arm"], "command groups with a twist topic to record"),
    ("action_space", "", "JSON of efm_core.actions.ActionSpace"),
    ("robot_node", "robot", "name of the node whose parameter `scene` describes a reset"),
    ("operator_source", "person", "who labels by episode/success and failure: person or oracle"),
    ("instructions", [""], "drawn from where neither plan nor reset gives an instruction"),
    ("reserve_mb", 1000.0, "free disk space below which no episode starts, MB"),
    ("silence_s", 2.0, "a node that is silent for this long ends the episode, s"),
    ("stall_s", 10.0, "lockstep: no tick for this long ends the episode, s"),
    ("ready_s", 60.0, "longest wait for checkpoints and first answers, s"),
    ("reset_s", 30.0, "longest time for one reset, s"),
    ("reset_tries", 3, "failed resets before help is called"),
    ("breaker", 20, "faults in a row that stop the robot"),
    ("still_ticks", 4, "ticks recorded with the arm held after a success"),
)


def main() -> None:
    """Entry point of `efm_episode_manager`."""
    sys.exit(run(EpisodeManagerNode))
