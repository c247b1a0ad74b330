"""The fleet node over real DDS: stop, clear, versions, status, diagnostics."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from efm_bringup.fleet_node import DIAGNOSTICS, FleetNode
from efm_core import messages
from efm_core.topics import EPISODE_STATUS, Topic
from efm_ros.channels import (
    FLEET_POLICY_VERSION,
    FLEET_STATUS,
    STOP_REQUEST,
    STOPPED,
    Sender,
    receive,
)
from efm_ros.dds import apply_dds_profile
from efm_ros.executor import DrainingExecutor

ROOT = Path(__file__).resolve().parents[2]
Spin = Callable[[Callable[[], Any]], None]


@pytest.fixture
def context() -> Iterator[Context]:
    apply_dds_profile()
    made = Context()
    made.init(domain_id=random.SystemRandom().randint(42, 99))
    yield made
    made.try_shutdown()


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    content = yaml.safe_load((ROOT / "config" / "fleet.yaml").read_text())
    content |= {"data_dir": str(tmp_path / "data"), "models_dir": str(tmp_path / "models")}
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def make(context: Context, fleet_file: Path, tmp_path: Path) -> Iterator[Callable[[], FleetNode]]:
    nodes: list[FleetNode] = []

    def start() -> FleetNode:
        values = {"fleet": str(fleet_file), "run_dir": str(tmp_path)}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        nodes.append(FleetNode(context=context, parameter_overrides=overrides))
        return nodes[-1]

    yield start
    for node in nodes:
        node.destroy_node()


class Outside:
    """Another process's view, in this one: a node that hears what the fleet says."""

    def __init__(self, context: Context) -> None:
        self.node = Node("outside", context=context)
        self.executor = DrainingExecutor(context=context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list[Any]] = {}
        for topic in (STOPPED, FLEET_POLICY_VERSION, FLEET_STATUS, DIAGNOSTICS):
            self.heard[topic.name] = []
            receive(self.node, topic, self.heard[topic.name].append)

    def until(self, condition: Callable[[], Any], timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.executor.spin_once(timeout_sec=0.05)

    def stopped(self) -> list[bool]:
        return [bool(message.data) for message in self.heard[STOPPED.name]]

    def status(self) -> dict[str, str]:
        heard = self.heard[FLEET_STATUS.name]
        return messages.read_status(heard[-1]) if heard else {}

    def call(self, name: str) -> Any:
        client = self.node.create_client(Trigger, name)
        self.until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.until(future.done)
        return future.result()


@pytest.fixture
def outside(context: Context) -> Iterator[Outside]:
    made = Outside(context)
    yield made
    made.executor.shutdown()
    made.node.destroy_node()


def test_stop_is_latched_repeated_and_survives_a_restart(
    make: Callable[[], FleetNode], outside: Outside
) -> None:
    first = make()
    outside.executor.add_node(first)
    outside.until(lambda: outside.stopped())
    assert outside.stopped() == [False] * len(outside.stopped())
    assert outside.call("/fleet/stop").success
    outside.until(lambda: outside.stopped()[-1])
    assert outside.status()["stopped"] == "1"
    outside.executor.remove_node(first)
    first.destroy_node()

    outside.heard[STOPPED.name].clear()
    outside.executor.add_node(make())
    outside.until(lambda: len(outside.stopped()) >= 3)
    assert all(outside.stopped())
    assert outside.call("/fleet/clear_stop").success
    outside.until(lambda: not outside.stopped()[-1])


def test_stopped_is_repeated_at_10_hz(make: Callable[[], FleetNode], outside: Outside) -> None:
    outside.executor.add_node(make())
    outside.until(lambda: outside.stopped())
    begin, before = time.monotonic(), len(outside.stopped())
    outside.until(lambda: len(outside.stopped()) >= before + 10)
    assert 0.7 <= time.monotonic() - begin <= 2.0  # 10 periods of 0.1 s


def test_a_stop_request_on_the_topic_latches(
    make: Callable[[], FleetNode], outside: Outside
) -> None:
    outside.executor.add_node(make())
    sender = Sender(outside.node, STOP_REQUEST)
    outside.until(lambda: sender.subscribers)
    sender.send(messages.empty())
    outside.until(lambda: outside.stopped() and outside.stopped()[-1])
    outside.until(lambda: "stop_request" in outside.status().get("stop_reason", ""))


def test_the_champion_is_announced(
    make: Callable[[], FleetNode], outside: Outside, tmp_path: Path
) -> None:
    outside.executor.add_node(make())
    outside.until(lambda: outside.heard[FLEET_POLICY_VERSION.name])
    assert outside.heard[FLEET_POLICY_VERSION.name][-1].data == ""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "champion").write_text("policy-0001\n")
    outside.until(lambda: outside.heard[FLEET_POLICY_VERSION.name][-1].data == "policy-0001")
    outside.until(lambda: outside.status()["policy_version"] == "policy-0001")


def test_robots_appear_in_status_and_diagnostics(
    make: Callable[[], FleetNode], outside: Outside
) -> None:
    outside.executor.add_node(make())
    topic = Topic("/robot1/episode/status", EPISODE_STATUS.type, "latched")
    sender = Sender(outside.node, topic)
    sender.send(messages.status(1, "episode_manager", {"phase": "running", "tick": "3"}))
    outside.until(lambda: outside.status().get("phase/robot1") == "running")
    assert outside.status()["phase/robot2"] == "silent"

    def seen() -> dict[str, Any]:
        statuses = [message.status[0] for message in outside.heard[DIAGNOSTICS.name]]
        return {status.name: status for status in statuses}

    outside.until(lambda: {topic.name, "/robot2/episode/status"} <= set(seen()))
    assert {pair.key: pair.value for pair in seen()[topic.name].values}["tick"] == "3"
    assert seen()[topic.name].message == "running"  # rqt shows name and message, pairs on a click
    assert "silent" in seen()["/robot2/episode/status"].message


def test_missing_parameters_are_named(context: Context) -> None:
    with pytest.raises(ValueError, match="fleet"):
        FleetNode(context=context)


def test_the_stop_is_in_the_run_folder(
    make: Callable[[], FleetNode], outside: Outside, tmp_path: Path
) -> None:
    outside.executor.add_node(make())
    outside.call("/fleet/stop")
    assert json.loads((tmp_path / "fleet_stopped.json").read_text())["stopped"] is True
