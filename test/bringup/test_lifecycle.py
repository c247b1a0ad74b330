"""A fleet's processes under the runner: brought up in order, and again when one is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")
pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from rclpy.context import Context
from rclpy.node import Node

from efm_bringup.bring_up import ROLES
from efm_bringup.environment import ros_environment
from efm_bringup.orchestrator import DIAGNOSTICS
from efm_bringup.runner import Runner
from efm_core import messages
from efm_core.fleet import load_fleet
from efm_core.fleet_processes import processes
from efm_ros.channels import receive
from efm_ros.dds import apply_dds_profile
from efm_ros.executor import DrainingExecutor
from efm_ros.managed import HEARTBEAT

ROOT = Path(__file__).resolve().parents[2]
LOST_SECONDS = 1.0


@dataclass(frozen=True)
class Report:
    """What the orchestrator said of the robot, and when that was heard (steady s)."""

    at: float
    says: str
    level: int
    values: dict[str, str]

    def active(self) -> set[str]:
        return {role for role in ROLES if self.values.get(role) == "active"}


class Watcher:
    """Hears what the fleet's nodes and the orchestrator say, and looks after the processes.

    Order is taken from the orchestrator's reports, which have one writer: a node's own heartbeats
    are heard from when this process has discovered it, which may be later than the orchestrator's.
    """

    def __init__(self, domain: int, runner: Runner) -> None:
        apply_dds_profile()
        self.runner = runner
        self.context = Context()
        self.context.init(domain_id=domain)
        self.node = Node("watcher", context=self.context)
        self.executor = DrainingExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.states: dict[str, str] = {}
        self.processes: dict[str, str] = {}
        self.reports: list[Report] = []
        receive(self.node, HEARTBEAT, self._on_heartbeat)
        receive(self.node, DIAGNOSTICS, self._on_diagnostics)

    def _on_heartbeat(self, message: Any) -> None:
        for entry in message.status:
            values = {pair.key: pair.value for pair in entry.values}
            role = entry.name.rpartition("/")[2]
            self.states[role], self.processes[role] = values["state"], values["process"]

    def _on_diagnostics(self, message: Any) -> None:
        status = message.status[0]
        if status.name == "/robot1/bring_up":
            values = messages.read_status(message)
            self.reports.append(Report(time.monotonic(), status.message, int(status.level), values))

    def until(self, condition: Callable[[], object], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.reports[-1:], self.states)
            self.runner.poll()
            self.executor.spin_once(timeout_sec=0.05)

    def is_up(self) -> bool:
        """Said by the orchestrator, and by every node itself."""
        reported = bool(self.reports) and self.reports[-1].says == "up"
        return reported and self.states == dict.fromkeys(ROLES, "active")

    def changes(self, since: float) -> Iterator[tuple[str, str, float]]:
        """(role, "active" or "down", time) as reported, in their order."""
        earlier = [report for report in self.reports if report.at <= since]
        known = earlier[-1].active() if earlier else set()
        for report in self.reports:
            if report.at > since:
                for role in sorted(report.active() ^ known, key=ROLES.index):
                    yield role, "active" if role in report.active() else "down", report.at
                known = report.active()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture(scope="module")
def watcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watcher]:
    folder = tmp_path_factory.mktemp("lifecycle")
    content = yaml.safe_load((ROOT / "config" / "fleet.yaml").read_text())
    content |= {"robots": content["robots"][:1], "data_dir": str(folder / "data")}
    content |= {"models_dir": str(folder / "models"), "reserve_mb": 0.0}
    # A busy machine takes its time to import torch; here the robot waits for its policy.
    content |= {"parameters": {"fleet": {"wait_s": 120.0}}}
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump(content))
    environment, lease = ros_environment(
        {k: v for k, v in os.environ.items() if k != "ROS_DOMAIN_ID"}
    )
    with Runner(processes(load_fleet(path), folder), folder, environment) as runner:
        made = Watcher(int(environment["ROS_DOMAIN_ID"]), runner)
        made.until(made.is_up, 90.0)
        yield made
        made.close()
    if lease is not None:
        lease.close()


def activated(watcher: Watcher, since: float) -> list[str]:
    return [role for role, what, _ in watcher.changes(since) if what == "active"]


def test_the_robot_came_up_in_order(watcher: Watcher) -> None:
    assert activated(watcher, 0.0) == list(ROLES)
    report = watcher.reports[-1]
    assert report.active() == set(ROLES)
    assert (report.values["goal"], report.values["downs"], report.level) == ("up", "0", 0)


@pytest.mark.parametrize(("process", "roles"), [
    ("robot1_guard", ("guard",)), ("robot1_manager", ("episode_manager",)),
    ("inference", ("policy", "reward")),
])  # fmt: skip
def test_a_killed_process_brings_the_robot_down_and_up_in_order(
    watcher: Watcher, process: str, roles: tuple[str, ...]
) -> None:
    watcher.until(watcher.is_up, 30.0)
    killed, downs = time.monotonic(), int(watcher.reports[-1].values["downs"])
    before = dict(watcher.processes)
    os.kill(watcher.runner.pids[process], signal.SIGKILL)
    watcher.until(lambda: watcher.processes[roles[-1]] != before[roles[-1]], 60.0)
    watcher.until(watcher.is_up, 60.0)
    others = [role for role in ROLES if role not in roles]
    down = [(role, at) for role, what, at in watcher.changes(killed)
            if what == "down" and role in others]  # fmt: skip
    assert [role for role, _ in down] == others[::-1]
    # The last sign of life came up to a heartbeat before the kill.
    assert down[-1][1] - killed < LOST_SECONDS + 1.0
    assert activated(watcher, killed) == list(ROLES)
    new = {role for role in ROLES if watcher.processes[role] != before[role]}
    assert new == set(roles)
    assert int(watcher.reports[-1].values["downs"]) == downs + 1


def test_without_the_orchestrator_the_robot_stays_up(watcher: Watcher) -> None:
    watcher.until(watcher.is_up, 30.0)
    before, fleet = dict(watcher.processes), watcher.runner.pids["fleet"]
    os.kill(fleet, signal.SIGKILL)
    # A last report of the killed one may be under way: it counts the downs of the tests above.
    watcher.until(lambda: watcher.is_up() and watcher.reports[-1].values["downs"] == "0", 30.0)
    assert watcher.processes == before
