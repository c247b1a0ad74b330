"""Managed nodes over real DDS: transitions, heartbeats, the safe command, what is freed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from ros.test_guard_node import COMMAND, EPISODE, announce, go, propose, show
from ros.test_policy_nodes import PixelEngine

from efm_bringup.guard_node import HALT_SECONDS, GuardNode
from efm_bringup.inference_host import InferenceHost
from efm_bringup.model_shelf import Loaded, Versions
from efm_core import messages
from efm_core.fleet import CameraDescription
from efm_core.topics import (
    ACTION_CHUNK,
    EE_POSE,
    EPISODE_STATUS,
    EPISODE_TICK,
    GUARD_STATE,
    POLICY_STATUS,
)
from efm_ros.channels import STOPPED
from efm_ros.managed import HEARTBEAT, Heart, ManagedNode

NUMBERS = {
    name: getattr(Transition, f"TRANSITION_{name.upper()}")
    for name in ("configure", "activate", "deactivate", "cleanup", "active_shutdown")
}


class Operator:
    """What `ros2 lifecycle` does."""

    def __init__(self, probe, spin_until) -> None:
        self.probe, self.spin_until = probe, spin_until

    def _call(self, kind, service, request):
        client = self.probe.create_client(kind, service)
        self.spin_until(client.service_is_ready)
        future = client.call_async(request)
        self.spin_until(future.done)
        self.probe.destroy_client(client)
        return future.result()

    def set(self, node: str, transition: str, by_label: bool = False) -> bool:
        wanted = (Transition(label=transition) if by_label
                  else Transition(id=NUMBERS[transition]))  # fmt: skip
        return self._call(
            ChangeState, f"{node}/change_state", ChangeState.Request(transition=wanted)
        ).success

    def get(self, node: str) -> str:
        answer = self._call(GetState, f"{node}/get_state", GetState.Request())
        return answer.current_state.label


@pytest.fixture
def operator(probe, spin_until) -> Operator:
    return Operator(probe, spin_until)


def beats(probe, name: str) -> list[dict[str, str]]:
    """Values of the heartbeats heard of a node, in order."""
    entries = [entry for m in probe.heard[HEARTBEAT.name] for entry in m.status]
    return [{p.key: p.value for p in e.values} for e in entries if e.name == name]


class Slow(ManagedNode):
    """Loads until it is told that it has; may be told to fail."""

    def __init__(self, context, **options) -> None:
        super().__init__("slow", namespace="robot_1", context=context, **options)
        self.calls: list[str] = []
        self.loaded: Future | None = None
        self.fails = self.takes_long = False
        self.manage(Heart(self, 0.25), autostart=False)

    def load(self):
        self.calls.append("load")
        if self.fails:
            raise ValueError("fleet.yaml: robots: missing; add it")
        self.create_service(GetState, "made_by_load", lambda q, a: a)
        self.loaded = Future() if self.takes_long else None
        return self.loaded

    def begin(self):
        self.calls.append("begin")

    def halt(self):
        self.calls.append("halt")

    def release(self):
        self.calls.append("release")


@pytest.fixture
def slow(context, executor, probe):
    probe.hear(HEARTBEAT)
    node = Slow(context)
    executor.add_node(node)
    return node


def test_a_load_is_awaited_while_the_heart_beats(slow, probe, spin_until):
    slow.takes_long = True
    client = probe.create_client(ChangeState, "slow/change_state")
    spin_until(client.service_is_ready)
    wanted = Transition(id=Transition.TRANSITION_CONFIGURE)
    answer = client.call_async(ChangeState.Request(transition=wanted))
    spin_until(lambda: slow.loaded is not None)
    before = len(beats(probe, "/robot_1/slow"))
    spin_until(lambda: len(beats(probe, "/robot_1/slow")) >= before + 3)
    assert beats(probe, "/robot_1/slow")[-1]["state"] == "configuring"
    assert not answer.done()
    slow.loaded.set_result(None)
    spin_until(answer.done)
    assert answer.result().success
    assert slow.state == "inactive"
    spin_until(lambda: beats(probe, "/robot_1/slow")[-1]["state"] == "inactive")


def test_every_transition_and_what_cleanup_frees(slow, operator, spin_until):
    assert operator.set("slow", "configure", by_label=True)
    services = {service.srv_name for service in slow.services}
    assert any("made_by_load" in name for name in services)
    assert not operator.set("slow", "configure")  # not possible from here, and nothing breaks
    assert operator.set("slow", "activate")
    assert operator.get("slow") == "active"
    assert operator.set("slow", "deactivate")
    assert operator.set("slow", "cleanup")
    assert operator.get("slow") == "unconfigured"
    assert slow.calls == ["load", "begin", "halt", "release"]
    services = {service.srv_name for service in slow.services}
    assert not any("made_by_load" in name for name in services)


def test_a_failed_configure_says_why_and_can_be_tried_again(slow, probe, operator, spin_until):
    slow.fails = True
    assert not operator.set("slow", "configure")
    assert operator.get("slow") == "unconfigured"
    spin_until(lambda: "robots: missing" in beats(probe, "/robot_1/slow")[-1]["reason"])
    slow.fails = False
    assert operator.set("slow", "configure")
    assert beats(probe, "/robot_1/slow")[-1]["reason"] == ""


def test_shutdown_of_an_active_node_halts_it_first(slow, operator):
    assert operator.set("slow", "configure")
    assert operator.set("slow", "activate")
    assert operator.set("slow", "active_shutdown")
    assert slow.calls == ["load", "begin", "halt", "release"]
    assert operator.get("slow") == "finalized"


def test_the_heart_beats_four_times_a_second(slow, probe, spin_until):
    spin_until(lambda: len(beats(probe, "/robot_1/slow")) >= 2)
    begin, before = time.monotonic(), len(beats(probe, "/robot_1/slow"))
    spin_until(lambda: len(beats(probe, "/robot_1/slow")) >= before + 8)
    assert 1.5 < time.monotonic() - begin < 3.0
    assert len({b["process"] for b in beats(probe, "/robot_1/slow")}) == 1


# ---- the guard -------------------------------------------------------------------------------


@pytest.fixture
def guard(context, executor, probe, make_fleet, operator, spin_until, request):
    """A guard that was brought up by hand, in a fleet that is not stopped."""
    clock = getattr(request, "param", "lockstep")
    fleet = make_fleet(clock, guard={"workspace": {}, "max_acceleration": 1.0})
    node = GuardNode(
        context=context, namespace="robot_1",
        parameter_overrides=[Parameter("fleet", value=str(fleet.path))],
    )  # fmt: skip
    executor.add_node(node)
    probe.hear(COMMAND, GUARD_STATE)
    assert operator.get("guard") == "unconfigured"
    assert node.count_publishers("/robot_1/guard/state") == 0
    assert operator.set("guard", "configure")
    assert operator.set("guard", "activate")
    inputs = (ACTION_CHUNK, EE_POSE, EPISODE_STATUS, EPISODE_TICK, STOPPED)
    spin_until(lambda: all(probe.sender(topic).subscribers for topic in inputs))
    spin_until(lambda: node.count_subscribers("/robot_1/guard/state"))
    return node


def test_an_inactive_guard_moves_nothing_and_starts_afresh(
    guard, probe, space, operator, spin_until
):
    def tick(number: int) -> None:
        probe.send(STOPPED, messages.boolean(False))
        announce(probe, "running")
        show(probe, number)
        propose(probe, space, number)
        go(probe, number)

    tick(0)
    spin_until(lambda: _speeds(probe)[-1:] > [0.05])
    assert operator.set("guard", "deactivate")
    spin_until(lambda: _speeds(probe)[-1] == 0.0)
    end = time.monotonic() + 0.6  # it goes on saying so for a moment, and then is silent
    spin_until(lambda: time.monotonic() > end)
    before = len(_speeds(probe))
    tick(1)
    end = time.monotonic() + 0.3
    spin_until(lambda: time.monotonic() > end)
    assert len(_speeds(probe)) == before
    assert operator.set("guard", "activate")
    tick(1)
    spin_until(lambda: _speeds(probe)[-1] > 0.05)


def drive(probe, space, spin_until):
    """Bring the arm to 0.19 m/s; the timer goes on driving it."""

    def tell() -> None:
        probe.send(STOPPED, messages.boolean(False))
        announce(probe, "running")
        chunk = messages.action_chunk(time.time_ns(), EPISODE, space, [(0.02, 0.0)])
        probe.send(ACTION_CHUNK, chunk)

    timer = probe.create_timer(0.05, tell)
    spin_until(lambda: _speeds(probe)[-1:] and _speeds(probe)[-1] > 0.19)
    return timer


@pytest.mark.parametrize("guard", ["real"], indirect=True)
def test_a_guard_that_was_not_run_while_braking_still_brings_the_arm_to_a_stand(
    guard, probe, space, operator, spin_until
):
    timer = drive(probe, space, spin_until)
    timer.cancel()
    assert operator.set("guard", "deactivate")
    assert _speeds(probe)[-1] > 0.0
    end = time.monotonic() + 2.0 * HALT_SECONDS
    while time.monotonic() < end:  # nobody runs: neither its timer nor its subscriptions
        time.sleep(0.05)
    spin_until(lambda: _speeds(probe)[-1] == 0.0)


@pytest.mark.parametrize("guard", ["real"], indirect=True)
def test_in_real_time_the_arm_is_brought_to_a_stand_within_its_limits(
    guard, probe, space, operator, spin_until
):
    timer = drive(probe, space, spin_until)
    first = len(_speeds(probe))
    assert operator.set("guard", "deactivate")
    spin_until(lambda: _speeds(probe)[-1] == 0.0)
    timer.cancel()
    speeds = _speeds(probe)[first:]
    braking = speeds[int(np.argmax(speeds)):]  # it may still gain speed until it is told to brake
    assert (np.diff(braking) <= 1e-9).all()  # never faster again, whatever the policy says
    # 0.2 m/s at 0.7 m/s^2 (its share of 1) takes 0.28 s, less one control period (0.1 s) in hand
    assert len(set(braking)) >= 4
    end = time.monotonic() + 0.6
    spin_until(lambda: time.monotonic() > end)
    before = len(_speeds(probe))
    end = time.monotonic() + 0.3
    spin_until(lambda: time.monotonic() > end)
    assert len(_speeds(probe)) == before


def _speeds(probe) -> list[float]:
    return [m.twist.linear.x for m in probe.heard[COMMAND.name]]


# ---- policy and reward -----------------------------------------------------------------------


def test_policy_and_reward_share_one_load_and_free_it_together(
    context, executor, probe, space, operator, spin_until
):
    loads, hold = [], threading.Event()

    def load(versions, robot):
        hold.wait(10.0)
        loads.append(versions)
        return Loaded(PixelEngine(), 0.001)

    node = Node("inference", context=context)
    probe.hear(HEARTBEAT, POLICY_STATUS)
    host = InferenceHost(node, load, lambda: Versions("p1", "r1"), Heart(node, 0.25))
    executor.add_node(node)
    cameras = [CameraDescription(name="front", width=32, height=32)]
    hosted = host.add("robot_1", cameras, space, "lockstep", context)
    for one in hosted:
        executor.add_node(one)
    configure = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    clients = [probe.create_client(ChangeState, f"{role}/change_state")
               for role in ("policy", "reward")]  # fmt: skip
    spin_until(lambda: all(client.service_is_ready() for client in clients))
    answers = [client.call_async(configure) for client in clients]
    spin_until(lambda: [one.state for one in hosted] == ["configuring", "configuring"])
    hold.set()
    spin_until(lambda: all(answer.done() for answer in answers))
    assert loads == [Versions("p1", "r1")]
    assert host.policy("robot_1")[0] == "p1"
    spin_until(lambda: probe.status(POLICY_STATUS).get("state") == "inactive")
    assert operator.set("policy", "activate")
    spin_until(lambda: probe.status(POLICY_STATUS)["state"] == "idle")
    assert probe.status(POLICY_STATUS)["version"] == "p1"
    assert operator.set("policy", "deactivate")
    assert operator.set("policy", "cleanup")
    assert host.shelf.engines == 1  # the reward still needs it
    assert operator.set("reward", "cleanup")
    assert host.shelf.engines == 0
    heard = {entry.name for m in probe.heard[HEARTBEAT.name] for entry in m.status}
    assert heard == {"/robot_1/policy", "/robot_1/reward"}
    host.close()
