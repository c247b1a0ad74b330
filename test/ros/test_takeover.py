"""A person takes over in mid-episode, lets go, goes on, and gives the robot back.

Over DDS, with every node of a robot, in lockstep and with the clock.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")
pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from ros import test_loop
from ros.operated import GIVE_BACK, OperatedFleet
from ros.test_loop import COMMAND, heard, plan

from efm_core import messages, topics
from efm_core.bags import check_episode
from efm_core.episode import Mode
from efm_core.limits import dimension_limits
from efm_trainer.data import load_episode
from efm_trainer.samples import labels_of

POLICY, TELEOP = 1, 2
LIMIT = 120
WAIT = 2.5
"""Longer than silence_s: a person's break is nobody's fault."""


@pytest.fixture
def fleet(context, executor, probe, spin_until, space, tmp_path, monkeypatch, request):
    monkeypatch.setattr(test_loop, "SUCCESS_AT", 10_000)  # episodes end by their limit
    clock = getattr(request, "param", "lockstep")
    return OperatedFleet(context, executor, probe, spin_until, space, tmp_path, clock)


def practise_with_a_takeover(fleet, limit=LIMIT):
    """Take over, let go for a while, move again, give back; returns the two episodes' readers."""
    fleet.start("sim", "guard", "manager")
    fleet.take_seat()
    host = fleet.start_models()
    versions = {"policy_version": "p1", "reward_version": "r1"}
    wanted = plan("practice", Mode.PRACTICE, [5, 6], limit=limit, **versions)
    fleet.plans.send(messages.text(wanted.model_dump_json()))
    fleet.spin_until(lambda: fleet.phase == "running" and fleet.acted_by(POLICY) > 5)
    fleet.steer(-1.0, 0.4)
    fleet.spin_until(lambda: fleet.acted_by(TELEOP) > 12)
    fleet.steer(0.0, 0.0, enable=False)
    until = time.monotonic() + (WAIT if fleet.clock == "lockstep" else 0.5)
    fleet.spin_until(lambda: time.monotonic() > until)
    assert fleet.phase == "running"
    before = fleet.acted_by(TELEOP)
    fleet.steer(1.0, -0.4)
    fleet.spin_until(lambda: fleet.acted_by(TELEOP) > before + 6)
    fleet.steer(0.0, 0.0, enable=False)
    policy = fleet.acted_by(POLICY)
    fleet.tap(GIVE_BACK, lambda: fleet.acted_by(POLICY) > policy)
    readers = fleet.run(wanted, 60.0)
    host.close()
    return readers


def sources_of(reader):
    guard = heard(reader, topics.GUARD_STATE)
    ticks = range(reader.record.ticks)
    return [int(messages.read_named_scalars(guard[k])["source"]) for k in ticks]


def stretches(record, ticks):
    """Half-open tick ranges [first, last + 1) of runs of consecutive ticks, as stamps."""
    period = 1e9 / record.rate
    starts = [k for k in ticks if k - 1 not in ticks]
    ends = [k + 1 for k in ticks if k + 1 not in ticks]
    return [
        (record.start_ns + round(a * period), record.start_ns + round(b * period))
        for a, b in zip(starts, ends, strict=True)
    ]


def test_a_takeover_in_lockstep(fleet, space):
    first, second = practise_with_a_takeover(fleet)
    record = first.record
    assert check_episode(first.path) == []
    assert (record.ticks, record.termination_reason) == (LIMIT, "timeout")  # it went on
    sources = sources_of(first)
    assert set(sources) == {POLICY, TELEOP}  # the world waited while nobody held the stick
    assert sources[:3] == sources[-3:] == [POLICY] * 3
    mine = [k for k, source in enumerate(sources) if source == TELEOP]
    assert len(mine) > 18
    found = [(s.start_ns, s.end_ns) for s in record.interventions]
    assert found == stretches(record, mine)
    assert len(found) == 1

    # Over one period the commanded velocity changes by no more than the budget of two.
    speed, acceleration = dimension_limits(space, 0.3, 1.0, {})
    commands = heard(first, COMMAND)
    velocities = np.array(
        [messages.action_from_twist(commands[k], space) for k in range(record.ticks)]
    )
    jumps = np.abs(np.diff(velocities, axis=0, prepend=np.zeros((1, 2))))
    assert (jumps <= 2.0 * acceleration / record.rate + 1e-9).all()
    assert (np.abs(velocities) <= speed + 1e-9).all()
    assert np.linalg.norm(velocities[mine], axis=1).max() <= 0.25 + 1e-9
    pose = heard(first, topics.EE_POSE)
    xy = np.array([messages.read_position(pose[k])[:2] for k in range(record.ticks)])
    # The full stick towards -x, then towards +x: that is where the arm went.
    turn = mine[len(mine) // 2]
    assert xy[turn, 0] < xy[mine[0], 0]
    assert (xy >= [0.2 - 1e-3, -0.2 - 1e-3]).all()

    episode = load_episode(first.path)
    labels = labels_of(episode)
    assert (labels.steps == -1).all()  # an autonomous episode gives no steps-to-go
    executed = np.array(
        [[messages.read_named_scalars(heard(first, topics.GUARD_STATE)[k])[f"executed/{n}"]
          for n in ("x", "y")] for k in mine]
    )  # fmt: skip
    wanted = np.array([space.encode(row[None]).ravel() for row in executed])
    moving = (wanted != space.encode(np.zeros((1, 2))).ravel()).any(axis=1)
    assert moving.sum() > 12
    assert (labels.bins[np.array(mine)[moving]] == wanted[moving]).all()
    others = np.setdiff1d(np.arange(len(episode)), np.array(mine)[moving])
    assert (labels.bins[others] == -1).all()

    assert second.record.interventions == []
    assert set(sources_of(second)) == {POLICY}


@pytest.mark.parametrize("fleet", ["real"], indirect=True)
def test_a_takeover_with_the_clock(fleet, space):
    first, second = practise_with_a_takeover(fleet, limit=60)
    record = first.record
    assert check_episode(first.path) == []
    assert record.termination_reason == "timeout"
    assert len(record.interventions) >= 2  # the guard held while nobody held the stick
    states = [
        (messages.stamp_of(m), messages.read_named_scalars(m))
        for _, kind, _, raw in first.messages(["/robot_1/guard/state"])
        for m in [messages.deserialize(raw, kind)]
    ]
    running = [(s, v) for s, v in states if record.start_ns <= s < record.end_ns]
    teleop = [s for s, v in running if v["source"] == TELEOP]
    assert len(teleop) > 10
    for stamp in teleop:
        assert any(part.start_ns <= stamp < part.end_ns for part in record.interventions)
    after = {v["source"] for s, v in running if s > teleop[-1]}
    assert POLICY in after  # it went on without a reset
    assert second.record.interventions == []

    # Whatever the source, acceleration x (time between two commands + a period) is never exceeded.
    speed, acceleration = dimension_limits(space, 0.3, 1.0, {})
    commands = [
        (stamp, messages.action_from_twist(messages.deserialize(raw, kind), space))
        for _, kind, stamp, raw in first.messages(["/robot_1/command/arm/twist"])
    ]
    for (_, before), (_, after) in itertools.pairwise(commands):
        assert (np.abs(after) <= speed + 1e-9).all()
        assert (np.abs(after - before) <= 2.0 * acceleration / record.rate + 1e-9).all()
