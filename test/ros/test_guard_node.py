"""The guard over real DDS: what it lets through, when it holds, whom it hears."""

from __future__ import annotations

import time

import numpy as np
import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros.alone import ALONE
from std_srvs.srv import SetBool, Trigger

from efm_bringup.guard_node import GuardNode
from efm_core import messages
from efm_core.guard import Fault, Source
from efm_core.topics import (
    ACTION_CHUNK,
    EE_POSE,
    EPISODE_STATUS,
    EPISODE_TICK,
    GUARD_STATE,
    TELEOP_TWIST,
    twist_command,
)
from efm_ros.channels import STOP_REQUEST, STOPPED, Sender
from efm_ros.publisher_watch import UNKNOWN, PublisherWatch

COMMAND = twist_command("arm")
EPISODE = "0b5cc1a4-0000-4000-8000-000000000001"
START, PERIOD = 5_000_000_000, 100_000_000


@pytest.fixture
def start_guard(context, executor, probe, make_fleet, spin_until):
    """`start_guard(clock, **robot fields)`: a guard that hears a fleet that is not stopped."""

    def start(clock: str = "lockstep", **fields) -> GuardNode:
        fleet = make_fleet(clock, **fields)
        node = GuardNode(
            context=context,
            namespace="robot_1",
            parameter_overrides=[Parameter("fleet", value=str(fleet.path)), ALONE],
        )
        executor.add_node(node)
        probe.hear(COMMAND, GUARD_STATE, STOP_REQUEST)
        inputs = (ACTION_CHUNK, EE_POSE, EPISODE_STATUS, EPISODE_TICK, TELEOP_TWIST, STOPPED)
        spin_until(lambda: all(probe.sender(topic).subscribers for topic in inputs))
        spin_until(lambda: node.count_subscribers("/robot_1/guard/state"))
        probe.send(STOPPED, messages.boolean(False))
        return node

    return start


def announce(probe, phase: str, mode: str = "practice") -> None:
    values = {"phase": phase, "episode_id": EPISODE, "mode": mode}
    probe.send(EPISODE_STATUS, messages.status(0, "episode_manager", values))


def show(probe, tick: int, xy=(0.0, 0.0)) -> None:
    pose = messages.pose(START + tick * PERIOD, "base", (*xy, 0.02), (0.0, 0.0, 0.0, 1.0))
    probe.send(EE_POSE, pose)


def go(probe, tick: int, still: bool = False) -> None:
    scalars = {"tick": float(tick), "still": float(still)}
    probe.send(EPISODE_TICK, messages.named_scalars(START + tick * PERIOD, EPISODE, scalars))


def propose(probe, space, tick: int, values=(0.01, -0.005), episode: str = EPISODE) -> None:
    stamp_ns = START + tick * PERIOD
    probe.send(ACTION_CHUNK, messages.action_chunk(stamp_ns, episode, space, [values]))


def test_a_chunk_becomes_a_command_with_its_stamp(start_guard, probe, space, spin_until):
    start_guard()
    announce(probe, "running")
    show(probe, 0)
    propose(probe, space, 0)
    go(probe, 0)
    spin_until(lambda: START in probe.stamps(GUARD_STATE))
    twist = next(m for m in probe.heard[COMMAND.name] if messages.stamp_of(m) == START)
    velocity = messages.action_from_twist(twist, space)
    np.testing.assert_allclose(velocity, [0.1, -0.05])  # displacement per tick x 10 Hz
    state = probe.scalars(GUARD_STATE, START)
    assert state["source"] == Source.POLICY
    assert state["modified"] == 0.0
    assert messages.read_executed(state, space) == pytest.approx([0.01, -0.005])


def test_the_command_arrives_before_the_state(start_guard, probe, space, spin_until):
    start_guard()
    announce(probe, "running")
    for tick in range(5):
        show(probe, tick)
        propose(probe, space, tick, (0.001, 0.0))
        go(probe, tick)
        stamp = START + tick * PERIOD
        spin_until(lambda s=stamp: s in probe.stamps(GUARD_STATE))
        assert stamp in probe.stamps(COMMAND)


def test_chunks_of_another_episode_move_nothing(start_guard, probe, space, spin_until):
    start_guard()
    announce(probe, "running")
    show(probe, 0)
    propose(probe, space, 0, episode="0b5cc1a4-0000-4000-8000-00000000000f")
    propose(probe, space, 0, (0.002, 0.0))
    go(probe, 0)
    spin_until(lambda: START in probe.stamps(GUARD_STATE))
    assert messages.read_executed(probe.scalars(GUARD_STATE, START), space)[0] == 0.002


def test_a_chunk_with_the_wrong_dimensions_is_refused(start_guard, probe, space, spin_until):
    start_guard()
    announce(probe, "running")
    show(probe, 0)
    message = messages.action_chunk(START, EPISODE, space, [(0.01, 0.01)])
    message.joint_names = ["x", "z"]

    def faulted() -> bool:  # the third in a row is a fault
        probe.send(ACTION_CHUNK, message)
        heard = map(messages.read_named_scalars, probe.heard[GUARD_STATE.name])
        return any(state["fault"] == Fault.POLICY for state in heard)

    spin_until(faulted)


def test_nothing_moves_before_the_managers_tick(start_guard, probe, space, spin_until):
    start_guard()
    announce(probe, "running")
    show(probe, 0)
    propose(probe, space, 0)
    probe.send(EPISODE_STATUS, messages.status(0, "m", {"phase": "ending", "episode_id": EPISODE}))
    go(probe, 0, still=True)  # success was seen in the very observation that the chunk answers
    spin_until(lambda: START in probe.stamps(GUARD_STATE))
    assert probe.scalars(GUARD_STATE, START)["source"] == Source.HOLD


def test_a_lost_tick_that_is_sent_again_is_answered_from_the_cache(
    start_guard, probe, space, spin_until
):
    start_guard()
    announce(probe, "running")
    for _ in range(2):
        show(probe, 0)
        propose(probe, space, 0)
        go(probe, 0)
        spin_until(lambda: START in probe.stamps(GUARD_STATE))
    spin_until(lambda: probe.stamps(COMMAND).count(START) >= 2)
    answers = [m for m in probe.heard[COMMAND.name] if messages.stamp_of(m) == START]
    assert {m.twist.linear.x for m in answers} == {0.1}


def test_every_tick_of_the_ending_is_answered_by_standing_still(start_guard, probe, spin_until):
    start_guard()
    announce(probe, "running")
    announce(probe, "ending")
    for tick in range(4):
        stamp = START + tick * PERIOD
        go(probe, tick, still=True)
        spin_until(lambda s=stamp: s in probe.stamps(GUARD_STATE))
        state = probe.scalars(GUARD_STATE, stamp)
        assert (state["source"], state["executed/x"], state["executed/y"]) == (0.0, 0.0, 0.0)


def test_teleoperation_moves_the_robot_in_a_demonstration(start_guard, probe, space, spin_until):
    start_guard()
    announce(probe, "running", mode="demo")
    show(probe, 0)
    probe.send(TELEOP_TWIST, messages.twist(START, "base", (0.05, 0.0, 0.0)))
    go(probe, 0)
    spin_until(lambda: START in probe.stamps(GUARD_STATE))
    state = probe.scalars(GUARD_STATE, START)
    assert state["source"] == Source.TELEOP
    assert state["executed/x"] == pytest.approx(0.005)


def test_a_twist_in_another_frame_is_refused(start_guard, probe, spin_until):
    start_guard()
    announce(probe, "running", mode="demo")
    show(probe, 0)
    probe.send(TELEOP_TWIST, messages.twist(START, "camera", (0.05, 0.0, 0.0)))
    probe.send(TELEOP_TWIST, messages.twist(START, "base", (0.02, 0.0, 0.0)))
    go(probe, 0)
    spin_until(lambda: START in probe.stamps(GUARD_STATE))
    assert probe.scalars(GUARD_STATE, START)["executed/x"] == pytest.approx(0.002)


def test_takeover_and_stop_are_services(start_guard, probe, space, spin_until):
    start_guard()
    announce(probe, "running")
    takeover = probe.create_client(SetBool, "teleop/takeover")
    stop = probe.create_client(Trigger, "guard/stop")
    spin_until(lambda: takeover.service_is_ready() and stop.service_is_ready())
    taken = takeover.call_async(SetBool.Request(data=True))
    spin_until(taken.done)
    assert taken.result().message == "taken over"
    stopping = stop.call_async(Trigger.Request())
    spin_until(stopping.done)
    assert stopping.result().success
    spin_until(lambda: probe.heard[STOP_REQUEST.name])  # the fleet is told
    show(probe, 0)
    propose(probe, space, 0)
    go(probe, 0)
    held = len(probe.heard[GUARD_STATE.name])
    spin_until(lambda: len(probe.heard[GUARD_STATE.name]) > held + 2)
    assert START not in probe.stamps(GUARD_STATE)
    assert messages.read_named_scalars(probe.heard[GUARD_STATE.name][-1])["fault"] == Fault.STOPPED


def test_a_stop_request_holds_at_once(start_guard, probe, space, spin_until):
    start_guard("real", guard={"workspace": {}})
    announce(probe, "running")
    stamp_ns = time.time_ns()
    probe.send(ACTION_CHUNK, messages.action_chunk(stamp_ns, EPISODE, space, [(0.01, 0.0)]))
    spin_until(lambda: stamp_ns in probe.stamps(GUARD_STATE))
    probe.send(STOP_REQUEST, messages.empty())
    asked = time.monotonic()

    def stopped() -> bool:
        state = messages.read_named_scalars(probe.heard[GUARD_STATE.name][-1])
        return state["fault"] == Fault.STOPPED

    spin_until(stopped)
    assert time.monotonic() - asked < 0.1


def test_silence_of_the_manager_holds_within_half_a_second(start_guard, probe, space, spin_until):
    start_guard("real", guard={"workspace": {}})
    announce(probe, "running")
    last_word = time.monotonic()

    def feed() -> bool:
        probe.send(STOPPED, messages.boolean(False))
        state = messages.read_named_scalars(probe.heard[GUARD_STATE.name][-1])
        return state["fault"] == Fault.STALE_STATUS

    spin_until(lambda: probe.heard[GUARD_STATE.name])
    spin_until(feed, timeout=2.0)
    assert 0.4 < time.monotonic() - last_word < 0.7


def test_a_second_policy_is_a_fault(start_guard, probe, context, executor, spin_until):
    start_guard()
    announce(probe, "running")
    intruder = Node("intruder", namespace="robot_1", context=context)
    executor.add_node(intruder)
    Sender(intruder, ACTION_CHUNK)

    def faulted() -> bool:
        announce(probe, "running")
        probe.send(STOPPED, messages.boolean(False))
        heard = probe.heard[GUARD_STATE.name]
        return bool(heard) and (
            messages.read_named_scalars(heard[-1])["fault"] == Fault.SECOND_PUBLISHER
        )

    spin_until(faulted, timeout=4.0)


def test_who_may_share_a_topic():
    watch = PublisherWatch(grace=7.0)
    assert watch.judge("t", ["/r/policy"], 0.0) == ""
    assert "/other/policy" in watch.judge("t", ["/r/policy", "/other/policy"], 1.0)
    assert watch.judge("t", ["/r/policy", "/r/policy"], 1.5) == ""  # killed and restarted
    assert watch.judge("t", ["/r/policy", f"/{UNKNOWN}"], 2.0) == ""
    assert "2 publishers" in watch.judge("t", ["/r/policy", "/r/policy"], 8.5)
    assert watch.judge("t", ["/r/policy"], 9.0) == ""


@pytest.mark.parametrize(
    ("namespace", "match"),
    [("robot_9", "robot 'robot_9' is not in"), ("", "robot '' is not in")],
)
def test_an_unknown_robot_is_named(context, make_fleet, namespace, match):
    fleet = make_fleet()
    with pytest.raises(ValueError, match=match):
        GuardNode(
            context=context,
            namespace=namespace,
            parameter_overrides=[Parameter("fleet", value=str(fleet.path))],
        )


def test_an_absent_fleet_file_is_named(context):
    with pytest.raises(ValueError, match="parameter 'fleet' is empty"):
        GuardNode(context=context, namespace="robot_1")
