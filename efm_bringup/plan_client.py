"""Gives a fleet an episode plan over DDS and watches until every robot has saved its list."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rclpy.client import Client
from rclpy.context import Context
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from efm_core import messages
from efm_core.plan import EpisodePlan
from efm_core.topics import EPISODE_STATUS, Topic
from efm_ros.channels import PLAN, Sender, receive
from efm_ros.dds import apply_dds_profile
from efm_ros.executor import DrainingExecutor

POLL_SECONDS = 0.2
SERVICE_SECONDS = 2.0
"""Longest wait for a service that was not called before: discovery takes a moment."""


@dataclass(frozen=True, slots=True)
class FleetProgress:
    """How far the robots are with a plan. `needs_help`: robot -> what it says."""

    done: int
    total: int
    heard: int
    needs_help: dict[str, str]

    @property
    def finished(self) -> bool:
        """Whether every listed episode is saved."""
        return self.done >= self.total


class PlanClient:
    """Publishes plans to `robots` in this process's ROS domain; a context manager.

    Only one publisher of plans should be up at a time: the plan is latched, and the newest wins.
    """

    def __init__(self, robots: Sequence[str]) -> None:
        apply_dds_profile()
        self._context = Context()
        # Signals stay with the owner, who ends children in order.
        self._context.init()
        self._node = Node("plan_client", context=self._context)
        self._executor = DrainingExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._plan = Sender(self._node, PLAN)
        self.status: dict[str, dict[str, str]] = {}
        self._services: dict[str, Client] = {}
        self._begun: set[tuple[str, str]] = set()
        for robot in robots:
            topic = Topic(f"/{robot}/{EPISODE_STATUS.name}", EPISODE_STATUS.type, "latched")
            receive(self._node, topic, self._keeper(robot))

    def __enter__(self) -> PlanClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        nodes = self._executor.get_nodes()
        self._executor.shutdown()
        for node in nodes:
            node.destroy_node()
        self._context.try_shutdown()

    def publish(self, plan: EpisodePlan) -> None:
        """Put `plan` in force; managers that come up later get it too (latched)."""
        self._plan.send(messages.text(plan.model_dump_json()))

    def progress(self, plan: EpisodePlan) -> FleetProgress:
        """How far the robots say they are with `plan`; a list finished early is shorter."""
        done, total, heard, needs_help = 0, 0, 0, {}
        for robot, episodes in plan.episodes.items():
            status = self.status.get(robot, {})
            heard += bool(status)
            mine = status.get("plan") == plan.plan_id
            done += int(status.get("plan_done", 0)) if mine else 0
            listed = int(status.get("plan_total", 0)) if mine else len(episodes)
            if mine and listed == len(episodes):
                self._begun.add((plan.plan_id, robot))
            # A shorter list heard before that is what was left of it when it was last finished.
            begun = (plan.plan_id, robot) in self._begun
            total += listed if begun else len(episodes)
            if status.get("phase") == "needs_help":
                needs_help[robot] = status.get("reason", "")
        return FleetProgress(done, total, heard, needs_help)

    def run(
        self,
        plan: EpisodePlan,
        idle: Callable[[FleetProgress], None],
        patience: float = 120.0,
        poll: float = POLL_SECONDS,
    ) -> FleetProgress:
        """Publish `plan` and return when it is finished; `idle` is called every `poll` s.

        Raises TimeoutError when nothing was saved for `patience` s, naming what the robots say.
        """
        self._begun.clear()
        self.publish(plan)
        newest, since = -1, time.monotonic()
        while True:
            progress = self.progress(plan)
            if progress.finished:
                return progress
            if progress.done > newest:
                newest, since = progress.done, time.monotonic()
            elif time.monotonic() - since > patience:
                raise TimeoutError(self._stuck(plan, patience))
            idle(progress)
            self.spin(poll)

    def spin(self, seconds: float) -> None:
        """Hear what comes in the next `seconds` s."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def add_node(self, namespace: str, name: str) -> Node:
        """Another node of this process, served by `spin`; destroyed with the client."""
        node = Node(name, namespace=namespace, context=self._context)
        self._executor.add_node(node)
        return node

    def call(self, robot: str, name: str, answer: Callable[[bool, str], None]) -> None:
        """Call `/<robot>/<name>` (Trigger); `answer` gets success and message by `spin`."""
        service = f"/{robot}/{name}"
        if service not in self._services:
            self._services[service] = self._node.create_client(Trigger, service)
        client = self._services[service]
        if not client.wait_for_service(timeout_sec=SERVICE_SECONDS):
            answer(False, f"nobody offers {service}; is its node up?")
            return

        def done(future: Future) -> None:
            result = future.result()
            if result is not None:
                answer(bool(result.success), str(result.message))

        client.call_async(Trigger.Request()).add_done_callback(done)

    def _keeper(self, robot: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            self.status[robot] = messages.read_status(message)

        return keep

    def _stuck(self, plan: EpisodePlan, patience: float) -> str:
        says = []
        for robot in plan.episodes:
            status = self.status.get(robot)
            if status is None:
                says.append(f"{robot}: never heard (is its episode manager up, the domain right?)")
            else:
                says.append(f"{robot}: {status.get('phase')} {status.get('reason', '')}".strip())
        return f"plan '{plan.plan_id}': nothing saved for {patience:g} s; {'; '.join(says)}"
