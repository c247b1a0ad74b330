"""Fixtures for tests over real DDS: a context per test, a free domain, no sleeps."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from rclpy.context import Context  # noqa: E402
from rclpy.node import Node  # noqa: E402

from efm_core import messages  # noqa: E402
from efm_core.actions import ActionDim, ActionSpace  # noqa: E402
from efm_core.fleet import (  # noqa: E402
    CameraDescription,
    FleetDescription,
    RobotDescription,
    save_fleet,
)
from efm_core.topics import Topic  # noqa: E402
from efm_ros.channels import Sender, receive  # noqa: E402
from efm_ros.dds import apply_dds_profile  # noqa: E402
from efm_ros.executor import DrainingExecutor  # noqa: E402

SpinUntil = Callable[..., None]


def free_domain() -> int:
    """A domain in 42..99 whose first discovery port (RTPS: 7410 + 250 x domain) is unused."""
    candidates = list(range(42, 100))
    random.SystemRandom().shuffle(candidates)
    for domain in candidates:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * domain))
            except OSError:
                continue
            return domain
    raise RuntimeError("every ROS domain in 42..99 is in use on this machine; end some of them")


@pytest.fixture(scope="session")
def domain() -> int:
    """The ROS domain of this test session."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    apply_dds_profile()
    return free_domain()


@pytest.fixture
def context(domain: int) -> Iterator[Context]:
    """An rclpy context of its own, shut down after the test."""
    made = Context()
    rclpy.init(args=[], context=made, domain_id=domain)
    yield made
    made.try_shutdown()


@pytest.fixture
def executor(context: Context) -> Iterator[DrainingExecutor]:
    """The executor of this test; its nodes are destroyed after the test."""
    made = DrainingExecutor(context=context)
    yield made
    nodes = made.get_nodes()
    made.shutdown()
    for node in nodes:
        node.destroy_node()


@pytest.fixture
def spin_until(executor: DrainingExecutor) -> SpinUntil:
    """`spin_until(condition, timeout=20.0)`: spin until it holds; fails the test otherwise."""

    def spin(condition: Callable[[], object], timeout: float = 20.0) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"condition did not hold within {timeout} s: {condition}")
            executor.spin_once(timeout_sec=0.02)

    return spin


@pytest.fixture
def space() -> ActionSpace:
    """A planar effector: displacements in m per tick at 10 Hz, 5 mm resolution."""
    dims = tuple(ActionDim(name=n, unit="m", low=-0.02, high=0.02, bins=9) for n in ("x", "y"))
    return ActionSpace(dims=dims, rate=10.0)


@pytest.fixture
def make_fleet(tmp_path: Path, space: ActionSpace) -> Callable[..., FleetDescription]:
    """`make_fleet(clock, robots, **fields)`: a fleet file with robots of that action space."""

    def make(
        clock: str = "lockstep", robots: tuple[str, ...] = ("robot_1",), **fields: Any
    ) -> FleetDescription:
        made = [
            RobotDescription(
                name=name,
                kind="driver",
                cameras=(CameraDescription(name="front", width=32, height=32),),
                space=space,
                **fields,
            )
            for name in robots
        ]
        fleet = FleetDescription(
            clock=clock, robots=made, models_dir=tmp_path / "models", data_dir=tmp_path / "data"
        )
        return save_fleet(fleet, tmp_path / "fleet.yaml")

    return make


class Probe(Node):
    """Plays everything round the node under test: sends any topic, keeps what it hears."""

    def __init__(self, context: Context, robot: str = "robot_1") -> None:
        super().__init__("probe", namespace=robot, context=context)
        self.heard: dict[str, list[Any]] = {}
        self._senders: dict[str, Sender] = {}

    def hear(self, *topics: Topic) -> None:
        """Keep the messages of these topics in `heard[topic.name]`."""
        for topic in topics:
            self.heard[topic.name] = []
            receive(self, topic, self.heard[topic.name].append)

    def sender(self, topic: Topic) -> Sender:
        """The sender of `topic`, made on first use."""
        if topic.name not in self._senders:
            self._senders[topic.name] = Sender(self, topic)
        return self._senders[topic.name]

    def send(self, topic: Topic, message: Any) -> None:
        """Publish a typestore message."""
        self.sender(topic).send(message)

    def stamps(self, topic: Topic) -> list[int]:
        """Header stamps of what was heard, ns."""
        return [messages.stamp_of(m) for m in self.heard[topic.name]]

    def scalars(self, topic: Topic, stamp_ns: int) -> dict[str, float]:
        """The named scalars heard with that stamp (the last such message)."""
        found = [m for m in self.heard[topic.name] if messages.stamp_of(m) == stamp_ns]
        return messages.read_named_scalars(found[-1])

    def status(self, topic: Topic) -> dict[str, str]:
        """The pairs of the newest status heard; {} before the first."""
        heard = self.heard[topic.name]
        return messages.read_status(heard[-1]) if heard else {}


@pytest.fixture
def probe(context: Context, executor: DrainingExecutor) -> Probe:
    """A probe in the namespace of robot_1."""
    made = Probe(context)
    executor.add_node(made)
    return made
