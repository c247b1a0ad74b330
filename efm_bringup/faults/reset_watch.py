"""Hears what every robot's episode manager says, and plays the person who comes to help."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rclpy.context import Context
from rclpy.node import Node
from std_srvs.srv import Trigger

from efm_core import messages, topics
from efm_core.plan import EpisodePlan
from efm_core.topics import Topic
from efm_ros.channels import PLAN, Sender, receive
from efm_ros.dds import apply_dds_profile
from efm_ros.executor import DrainingExecutor


@dataclass(frozen=True, slots=True)
class Said:
    """A change of a robot's phase, or of how many episodes are saved; at: steady s."""

    at: float
    robot: str
    phase: str
    done: int


class ResetWatch:
    """A context manager with a thread of its own.

    `status`: robot -> pairs of its newest episode/status. `said`: every change, oldest first.
    `plan_id`: of the plan whose episodes count.
    """

    def __init__(self, robots: Sequence[str], plan: str) -> None:
        apply_dds_profile()
        self.status: dict[str, dict[str, str]] = {robot: {} for robot in robots}
        self.said: list[Said] = []
        self.plan_id = plan
        self._context = Context()
        self._context.init()
        self._node = Node("reset_watch", context=self._context)
        self._executor = DrainingExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._plan = Sender(self._node, PLAN)
        self._helps = {
            robot: self._node.create_client(Trigger, f"/{robot}/episode/reset_done")
            for robot in robots
        }
        for robot in robots:
            topic = topics.EPISODE_STATUS
            absolute = Topic(f"/{robot}/{topic.name}", topic.type, topic.qos)
            receive(self._node, absolute, self._keeper(robot))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="reset watch", daemon=True)

    def __enter__(self) -> ResetWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._executor.wake()
        self._thread.join()  # nothing that is waited on may be taken away
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while not self._ending.is_set():
            self._executor.spin_once(timeout_sec=0.5)

    def _keeper(self, robot: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            values = messages.read_status(message)
            self.status[robot] = values
            now = Said(time.monotonic(), robot, values.get("phase", ""), self.done(robot))
            last = next((s for s in reversed(self.said) if s.robot == robot), None)
            if last is None or (last.phase, last.done) != (now.phase, now.done):
                self.said.append(now)

        return keep

    @property
    def ready(self) -> bool:
        """Whether every manager has spoken and can be helped."""
        return all(self.status.values()) and all(c.service_is_ready() for c in self._helps.values())

    def publish(self, plan: EpisodePlan) -> None:
        """Put the plan in force."""
        self._plan.send(messages.text(plan.model_dump_json()))

    def help(self, robot: str) -> Any:
        """A person has put the robot right; returns the future of the answer."""
        return self._helps[robot].call_async(Trigger.Request())

    def done(self, robot: str) -> int:
        """How many of the plan's episodes are saved, as the robot's manager says."""
        values = self.status[robot]
        return int(values.get("plan_done", 0)) if values.get("plan") == self.plan_id else 0

    def phase(self, robot: str) -> str:
        """The robot's newest phase, "" before the first."""
        return self.status[robot].get("phase", "")
