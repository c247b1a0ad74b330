"""The orchestrator: brings every robot of a fleet up in order, and watches that it stays so.

All rules are `efm_bringup.bring_up.BringUp`'s. Runner and launch files start processes and start
them again; transitions come from here alone, over the standard services, so that a fleet behaves
the same however its processes were started.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future

from efm_bringup.bring_up import ROLES, BringUp, Request
from efm_core import messages
from efm_core.topics import STATUS, Topic
from efm_ros.channels import Sender
from efm_ros.convert import message_class
from efm_ros.executor import set_lazy
from efm_ros.managed import HEARTBEAT
from efm_ros.parameters import FLEET, ParameterSpec, declare, described_fleet
from efm_ros.status import ERROR, OK, WARNING

DIAGNOSTICS = Topic("/diagnostics", STATUS)
LOOK_SECONDS = 0.1
REPORT_SECONDS = 1.0


def _known(roles: tuple[str, ...]) -> None:
    unknown = [role for role in roles if role not in ROLES]
    if unknown or not roles:
        raise ValueError(f"use some of {', '.join(ROLES)}")


PARAMETERS = (
    FLEET,
    ParameterSpec("robots", (), "names of the robots brought up; none: all of the fleet"),
    ParameterSpec(
        "roles", ROLES, "managed nodes of every robot, in the order in which they are activated",
        check=_known,
    ),
    ParameterSpec("lost_s", 1.0, "a node that was not heard for this long is lost", "s", 0.5, 60.0),
    ParameterSpec(
        "configure_s", 30.0, "as lost_s, for a node that is being configured: it may be busy", "s",
        1.0, 3600.0,
    ),
    ParameterSpec(
        "wait_s", 10.0, "a robot comes up without policy and reward when they are not heard for "
        "this long; they join when they come", "s", 0.0, 3600.0,
    ),
    ParameterSpec(
        "answer_s", 0.5, "a transition that did not begin for this long is asked for again", "s",
        0.1, 60.0,
    ),
    ParameterSpec(
        "retry_s", 1.0, "pause after a transition that failed; doubled with each further failure, "
        "to 30 s", "s", 0.1, 30.0,
    ),
)  # fmt: skip

_LIMITS = ("lost_s", "configure_s", "wait_s", "answer_s", "retry_s")
_NUMBERS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
}


class OrchestratorNode(Node):
    """`/orchestrator`, one per fleet; parameters: `PARAMETERS`."""

    def __init__(self, **options: Any) -> None:
        """Raises ValueError naming the parameter or the field of the fleet file that is no good."""
        super().__init__("orchestrator", **options)
        values = declare(self, PARAMETERS)
        fleet = described_fleet(values)
        robots = [fleet.robot(name).name for name in values["robots"]]
        robots = robots or [robot.name for robot in fleet.robots]
        limits = {name: values[name] for name in _LIMITS}
        self.robots = {name: BringUp(values["roles"], **limits) for name in robots}
        self._changers = {
            (robot, role): self.create_client(ChangeState, f"/{robot}/{role}/change_state")
            for robot in robots
            for role in values["roles"]
        }
        self._asked: dict[tuple[str, str], Future] = {}
        self._lost_s: float = values["lost_s"]
        self._looked_s = time.monotonic()
        self._said: dict[str, tuple[str, ...]] = {}
        self._diagnostics = Sender(self, DIAGNOSTICS)
        self._heartbeats = self.create_subscription(
            message_class(HEARTBEAT.type), HEARTBEAT.name, self._on_heartbeat,
            QoSProfile(depth=20 + 8 * len(robots)), raw=True,
        )  # fmt: skip
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(LOOK_SECONDS, self._look, clock=steady)
        self.create_timer(REPORT_SECONDS, self._report_all, clock=steady)

    # ---- what is heard -----------------------------------------------------------------------

    def _on_heartbeat(self, data: bytes) -> None:
        now, heard = time.monotonic(), set()
        for entry in messages.deserialize(data, HEARTBEAT.type).status:
            robot, _, role = entry.name.strip("/").rpartition("/")
            bring_up = self.robots.get(robot)
            if bring_up is not None:
                values = {pair.key: pair.value for pair in entry.values}
                bring_up.hear(role, values["state"], values["process"], values["reason"], now)
                heard.add(robot)
        for robot in heard:
            self._act(robot, now)

    def _look(self) -> None:
        """What is due by time; after a pause of this process nobody counts as lost."""
        now = time.monotonic()
        held_up, self._looked_s = now - self._looked_s > self._lost_s / 2, now
        for robot, bring_up in self.robots.items():
            if held_up:
                bring_up.excuse(now)
            self._act(robot, now)

    # ---- what is done ------------------------------------------------------------------------

    def _act(self, robot: str, now: float) -> None:
        bring_up = self.robots[robot]
        for request in bring_up.step(now):
            self._ask(robot, request)
        said = (bring_up.summary, *(m.state for m in bring_up.members.values()))
        before = self._said.get(robot, ("",))
        if said != before:
            self._said[robot] = said
            if said[0] != before[0]:
                self.get_logger().info(f"{robot}: {said[0]}")
            self._report(robot)
            # Once all robots are up nothing is urgent: heartbeats wake this process no more.
            all_up = all(other.is_up for other in self.robots.values())
            set_lazy(self, self._heartbeats, all_up)

    def _ask(self, robot: str, request: Request) -> None:
        key = (robot, request.role)
        client: Client = self._changers[key]
        if not client.service_is_ready():
            self.robots[robot].not_sent(request.role)
            return
        before = self._asked.get(key)
        if before is not None and not before.done():  # its node was killed, or never heard it
            client.remove_pending_request(before)
        wanted = Transition(id=_NUMBERS[request.transition])
        self._asked[key] = client.call_async(ChangeState.Request(transition=wanted))
        self._asked[key].add_done_callback(partial(self._answered, robot, request.role))

    def _answered(self, robot: str, role: str, future: Future) -> None:
        answer = future.result()
        if answer is not None and not answer.success:
            self.robots[robot].failed(role, time.monotonic())

    # ---- what is reported --------------------------------------------------------------------

    def _report_all(self) -> None:
        for robot in self.robots:
            self._report(robot)

    def _report(self, robot: str) -> None:
        bring_up = self.robots[robot]
        values = {"goal": bring_up.goal, "why": bring_up.why, "downs": str(bring_up.downs)}
        values |= {role: m.state or "not heard" for role, m in bring_up.members.items()}
        troubled = bring_up.goal == "held" or any(m.reason for m in bring_up.members.values())
        level = OK if bring_up.is_whole else ERROR if troubled else WARNING
        stamp_ns = self.get_clock().now().nanoseconds
        name = f"/{robot}/bring_up"
        self._diagnostics.send(
            messages.status(stamp_ns, name, values, level, bring_up.summary)
        )
