"""Asks the running fleet's trainer to practise, over DDS, and watches until it is done."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.node import Node
from std_srvs.srv import Trigger

from efm_core import messages
from efm_core.topics import EPISODE_STATUS, Topic
from efm_ros.channels import TRAINER_STATUS, receive
from efm_ros.dds import apply_dds_profile
from efm_ros.executor import DrainingExecutor

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
START_SECONDS = 60.0
"""Longest wait for the trainer's services (it imports torch first), and for its answer."""
ANSWER_SECONDS = 5.0
"""After that an answer counts as lost: a service drops it when it does not know the client yet."""
_AT_WORK = ("improve", "done", "failed", "cancelled")


class TrainerClient:
    """One job at a time on `/trainer`; a context manager.

    status: the newest pairs of /trainer/status. robots: the newest of each robot's episode/status.
    """

    def __init__(self, robots: Sequence[str] = ()) -> None:
        apply_dds_profile()
        self._context = Context()
        self._context.init()
        self._node = Node("trainer_client", context=self._context)
        self._executor = DrainingExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._parameters = self._node.create_client(SetParameters, "/trainer/set_parameters")
        self.status: dict[str, str] = {}
        self.robots: dict[str, dict[str, str]] = {}
        receive(self._node, TRAINER_STATUS, self._hear)
        for robot in robots:
            topic = Topic(f"/{robot}/{EPISODE_STATUS.name}", EPISODE_STATUS.type, "latched")
            receive(self._node, topic, self._keeper(robot))

    def __enter__(self) -> TrainerClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def episodes_saved(self, name: str, per_round: int) -> int:
        """Episodes of practice `name` that are on disk, rounds before this one included."""
        number = int(self.status.get("round") or -1)
        if number < 0:
            return 0
        plan = f"{name}-r{number:03d}"
        now = [s for s in self.robots.values() if s.get("plan") == plan]
        return number * per_round + sum(int(s.get("plan_done", 0)) for s in now)

    def improve(self, job: Mapping[str, Any], idle: Callable[[dict[str, str]], None]) -> None:
        """Run an ImproveJob (its JSON fields) to its end; `idle(status)` several times a second.

        A trainer that was restarted is asked again and takes up its own work. Raises ValueError
        with the trainer's reason when it refuses or fails, TimeoutError when it never appears.
        """
        self._ask(job, idle)
        while True:
            idle(self.status)
            self._spin(POLL_SECONDS)
            state = self.status.get("state", "")
            if state == "done":
                return
            if state in ("failed", "cancelled"):
                raise ValueError(f"the trainer {state}: {self.status.get('reason', '')}")
            if state == "idle":  # a new process that knows of no job
                self._ask(job, idle)

    def _ask(self, job: Mapping[str, Any], idle: Callable[[dict[str, str]], None]) -> None:
        trigger = self._node.create_client(Trigger, "/trainer/improve")
        try:
            deadline = time.monotonic() + START_SECONDS
            while not (trigger.service_is_ready() and self._parameters.service_is_ready()):
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"no trainer within {START_SECONDS:g} s; see logs/trainer.log of the run"
                    )
                idle(self.status)
                self._spin(POLL_SECONDS)
            text = ParameterValue(
                type=ParameterType.PARAMETER_STRING, string_value=json.dumps(dict(job))
            )
            request = SetParameters.Request(parameters=[Parameter(name="improve", value=text)])
            given = self._answer(lambda: self._parameters.call_async(request), idle)
            if not given.results[0].successful:
                raise ValueError(f"the trainer refused its settings: {given.results[0].reason}")
            self.status = {}  # what was heard before the start is no news
            answer = self._answer(
                lambda: trigger.call_async(Trigger.Request()), idle,
                lambda: self.status.get("state") in _AT_WORK,
            )  # fmt: skip
            if answer is not None and not answer.success:
                raise ValueError(f"the trainer refused: {answer.message}")
        finally:
            self._node.destroy_client(trigger)

    def _answer(
        self,
        ask: Callable[[], Any],
        idle: Callable[[dict[str, str]], None],
        taken: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Ask until there is an answer; None when `taken()` shows that it was heard all the same.

        Raises TimeoutError after START_SECONDS.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            future, again = ask(), time.monotonic() + ANSWER_SECONDS
            while time.monotonic() < again:
                idle(self.status)
                self._spin(POLL_SECONDS)
                if future.done():
                    return future.result()
                if taken():
                    return None
            _log.warning("the trainer's answer is lost, asking again")
        raise TimeoutError("the trainer doesn't answer; see logs/trainer.log of the run")

    def _spin(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def _keeper(self, robot: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            self.robots[robot] = messages.read_status(message)

        return keep

    def _hear(self, message: Any) -> None:
        self.status = messages.read_status(message)
