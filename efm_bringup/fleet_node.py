"""The fleet node: the latched stop, the policy version in force, one status of all robots.

No torch here: the stop must come up in a second and stay up whatever the models do.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import Trigger

from efm_bringup.orchestrator import DIAGNOSTICS, OrchestratorNode
from efm_bringup.stop_latch import StopLatch
from efm_core import messages
from efm_core.fleet import FleetDescription
from efm_core.registry import Registry
from efm_core.topics import (
    EPISODE_STATUS,
    POLICY_STATUS,
    RESET_STATUS,
    REWARD_STATUS,
    STATUS,
    Topic,
)
from efm_ros.channels import (
    FLEET_POLICY_VERSION,
    FLEET_STATUS,
    STOP_REQUEST,
    STOPPED,
    TRAINER_STATUS,
    Sender,
    receive,
)
from efm_ros.entrypoint import run
from efm_ros.parameters import FLEET, ParameterSpec, declare, described_fleet
from efm_ros.status import ERROR, OK, WARNING, StatusSender

STATE_FILE = "fleet_stopped.json"
STOPPED_SECONDS = 0.1
DIAGNOSTICS_SECONDS = 1.0
PARAMETERS = (
    FLEET,
    ParameterSpec(
        "run_dir", "", "folder of the run, keeps the stop over a restart", required=True
    ),
    ParameterSpec(
        "silent_s", 2.0, "a status topic, repeated at 4 Hz, that was not heard for this long "
        "counts as gone", "s", 0.3, 60.0,
    ),
)  # fmt: skip
_WATCHED = (EPISODE_STATUS, POLICY_STATUS, REWARD_STATUS, RESET_STATUS)
_HEARTBEATS = (EPISODE_STATUS, POLICY_STATUS, REWARD_STATUS)


class FleetNode(Node):
    """Keeps the stop and sums up the robots; parameters: `PARAMETERS`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("fleet", **options)
        values = declare(self, PARAMETERS)
        self._fleet: FleetDescription = described_fleet(values)
        self._silent_s: float = values["silent_s"]
        self._latch = StopLatch(Path(values["run_dir"]) / STATE_FILE)
        self._registry = Registry(self._fleet.models_dir)
        self._seen: dict[str, tuple[float, Any]] = {}  # topic -> (steady s, DiagnosticArray)
        self._version: str | None = None
        self._make_channels()
        self._publish_stopped()
        self._look_at_registry()

    def _make_channels(self) -> None:
        self._stopped = Sender(self, STOPPED)
        self._policy_version = Sender(self, FLEET_POLICY_VERSION)
        self._diagnostics = Sender(self, DIAGNOSTICS)
        self._status = StatusSender(self, FLEET_STATUS, "fleet", **self._summary())
        receive(self, STOP_REQUEST, lambda _: self._stop("asked for on /fleet/stop_request"))
        self.create_service(Trigger, "/fleet/stop", self._on_stop)
        self.create_service(Trigger, "/fleet/clear_stop", self._on_clear)
        topics = [TRAINER_STATUS.name]
        for robot in self._fleet.robots:
            topics += [f"/{robot.name}/{topic.name}" for topic in _WATCHED]
        for name in topics:
            # Lazy: only the newest matters, and only to the timers below.
            receive(self, Topic(name, STATUS, "latched"), self._keeper(name), lazy=True)
        # Steady: a jump of the wall clock must not silence a heartbeat.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(STOPPED_SECONDS, self._publish_stopped, clock=steady)
        self.create_timer(DIAGNOSTICS_SECONDS, self._once_a_second, clock=steady)

    def _keeper(self, name: str) -> Any:
        def keep(message: Any) -> None:
            self._seen[name] = (time.monotonic(), message)

        return keep

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stop("asked for through /fleet/stop")
        response.success, response.message = True, "stopped; /fleet/clear_stop releases it"
        return response

    def _on_clear(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self._latch.clear()
        except OSError as error:
            response.success, response.message = False, f"still stopped: {error}; free the disk"
            return response
        self.get_logger().info("stop cleared: robots move again after episode/start")
        self._publish_stopped()
        self._refresh_status()
        response.success, response.message = True, "cleared; nothing moves until episode/start"
        return response

    def _stop(self, reason: str) -> None:
        if not self._latch.stopped:
            self.get_logger().warning(f"STOP: {reason}")
            self._latch.stop(reason)
            self._publish_stopped()  # the robots first, the disk afterwards
            self._latch.keep()
            self._refresh_status()
        self._publish_stopped()

    def _publish_stopped(self) -> None:
        self._stopped.send(messages.boolean(self._latch.stopped))

    def _once_a_second(self) -> None:
        self._look_at_registry()
        self._refresh_status()
        self._publish_diagnostics()

    def _look_at_registry(self) -> None:
        try:
            version = self._registry.alias("champion") or ""
        except ValueError as error:  # a damaged alias file: what is in force stays
            self.get_logger().error(str(error), throttle_duration_sec=60.0)
            return
        if version != self._version:
            self._version = version
            self._policy_version.send(messages.text(version))
            self.get_logger().info(f"policy version in force: {version or 'none yet'}")

    def _summary(self) -> dict[str, str]:
        """The pairs of /fleet/status; `phase/<robot>` for every robot."""
        pairs = {
            "fleet": self._fleet.name,
            "robots": str(len(self._fleet.robots)),
            "stopped": str(int(self._latch.stopped)),
            "stop_reason": self._latch.reason,
            "policy_version": self._version or "",
        }
        for robot in self._fleet.robots:
            status = self._values(f"/{robot.name}/{EPISODE_STATUS.name}")
            pairs[f"phase/{robot.name}"] = status.get("phase", "silent") if status else "silent"
        return pairs

    def _values(self, topic: str) -> dict[str, str] | None:
        seen = self._seen.get(topic)
        if seen is None or time.monotonic() - seen[0] > self._silent_s:
            return None
        return messages.read_status(seen[1])

    def _refresh_status(self) -> None:
        pairs = self._summary()
        phases = [pairs[f"phase/{robot.name}"] for robot in self._fleet.robots]
        level, message = OK, ""
        if "needs_help" in phases or "silent" in phases:
            level, message = WARNING, "a robot needs help or is silent"
        if self._latch.stopped:
            level, message = ERROR, f"stopped: {self._latch.reason}"
        self._status.announce(level=level, message=message, **pairs)

    def _publish_diagnostics(self) -> None:
        stamp_ns = self.get_clock().now().nanoseconds
        names = [f"/{r.name}/{topic.name}" for r in self._fleet.robots for topic in _HEARTBEATS]
        for name in sorted({*names, *self._seen}):
            values = self._values(name)
            if values is not None:
                status = self._seen[name][1].status[0]
                level = int(status.level)
                # rqt shows a line per status: without a complaint, what it is doing
                text = str(status.message) or values.get("phase") or values.get("state", "")
            elif name in names:
                values, level, text = {}, WARNING, f"silent for over {self._silent_s:g} s"
            else:
                continue
            self._diagnostics.send(messages.status(stamp_ns, name, values, level, text))


def make_nodes() -> list[Node]:
    """The fleet node and, in the same process, the orchestrator."""
    return [FleetNode(), OrchestratorNode()]


def main() -> int:
    """Entry point of `efm_fleet`."""
    return run(make_nodes)
