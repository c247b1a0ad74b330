"""What reaches the drivers, whatever came in: finite, within the limits, never too fast."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efm_core import messages
from efm_core.actions import ActionDim, ActionSpace
from efm_core.command_groups import CommandGroup, check_groups
from efm_core.command_messages import command_message, read_numbers
from efm_core.commands import CommandMaker
from efm_core.guard import Fault, Guard, GuardSettings, Source
from efm_core.limits import DimLimits
from efm_core.topics import command as command_topic
from efm_core.whereabouts import Whereabouts

JOINTS = ("shoulder", "elbow", "finger")
LOW, HIGH = np.array([-1.0, -0.5, 0.0]), np.array([1.0, 2.0, 0.08])
SPEED, ACCELERATION = np.array([1.0, 0.7, 0.1]), np.array([4.0, 3.0, 0.5])
STEP = 0.02
SLACK = 1e-9


def joint_settings(**changes) -> GuardSettings:
    dims = tuple(
        ActionDim(name=n, unit="rad", low=lo, high=hi)
        for n, lo, hi in zip(JOINTS, LOW, HIGH, strict=True)
    )
    limits = {
        n: DimLimits(max_speed=v, max_acceleration=a)
        for n, v, a in zip(JOINTS, SPEED, ACCELERATION, strict=True)
    }
    space = ActionSpace(dims=dims, kind="absolute", rate=10.0, chunk=4)
    return GuardSettings(**{"space": space, "clock": "real", "limits": limits, **changes})


GROUPS = (
    CommandGroup(name="arm", output="joint_trajectory", dims=("elbow",), span=0.4),
    CommandGroup(name="base", output="positions", dims=("shoulder",)),
    CommandGroup(name="hand", output="gripper", dims=("finger",), rate=20.0),
)


class Bench:
    """A guard in real time, a robot that is where it was sent, and a judge of every command."""

    def __init__(self, guard_settings: GuardSettings, groups=GROUPS, seed: int = 0) -> None:
        check_groups(groups, guard_settings)
        self.space = guard_settings.space
        self.guard = Guard(guard_settings)
        self.maker = CommandMaker(groups, guard_settings)
        self.rng = np.random.default_rng(seed)
        self.now, self.phase, self.episode, self.taken = 50.0, "running", 0, False
        self.robot = (LOW + HIGH) / 2.0
        self.sent: dict[str, tuple[float, np.ndarray]] = {}
        self.count = 0
        self.times: dict[str, list[float]] = {g.name: [] for g in groups}
        self.sources: set[Source] = set()
        self.guard.on_fleet_stopped(False, self.now)
        self.take(self.guard.on_pose(0, self.robot, self.now))

    def take(self, report) -> list:
        if report is None:
            return []
        self.sources.add(report.source)
        made = self.maker.commands(report, self.now)
        for command in made:
            self.judge(command)
        return made

    def judge(self, command) -> None:
        self.count += 1
        self.times[command.group.name].append(self.now)
        index = [JOINTS.index(d) for d in command.group.dims]
        low, high, speed = LOW[index], HIGH[index], SPEED[index]
        values = command.values
        assert values.shape == (len(index),)
        assert np.isfinite(values).all()
        assert (values >= low - SLACK).all()
        assert (values <= high + SLACK).all()
        if command.group.name in self.sent:
            then, before = self.sent[command.group.name]
            assert (np.abs(values - before) <= speed * (self.now - then) + SLACK).all()
        self.sent[command.group.name] = (self.now, values)
        self.robot[index] = values
        if command.group.output == "joint_trajectory":
            judge_trajectory(command, low, high, speed)

    def play(self, steps: int) -> None:
        """Time passes and things happen, in any order."""
        for _ in range(steps):
            self.now += float(self.rng.uniform(0.1, 3.0)) * STEP  # some timer steps are late
            getattr(self, str(self.rng.choice(["status", "pose", "chunk", "chunk", "manual"])))()
            self.take(self.guard.step(self.now))
            if self.rng.random() < 0.05:
                self.happening()

    def status(self) -> None:
        if self.rng.random() < 0.9:
            name = f"episode-{self.episode}"
            self.take(self.guard.on_episode_status(self.phase, name, self.now, "practice"))
            self.take(self.guard.on_fleet_stopped(False, self.now))

    def pose(self) -> None:
        where = self.robot.copy()
        if self.rng.random() < 0.02:
            where[0] = self.rng.choice([np.nan, np.inf])
        self.take(self.guard.on_pose(int(self.now * 1e9), where, self.now))

    def happening(self) -> None:
        kind = self.rng.integers(5)
        if kind == 0:
            self.taken = not self.taken
            self.take(self.guard.on_takeover(self.taken, self.now))
        elif kind == 1:
            self.episode += 1
        elif kind == 2:
            self.phase = str(self.rng.choice(["running", "resetting", "ending", "ready"]))
        elif kind == 3:
            self.take(self.guard.on_stop(self.now))
            for stopped in (True, False):
                self.take(self.guard.on_fleet_stopped(stopped, self.now))
            self.episode += 1
        else:
            self.take(self.guard.on_fault(Fault.SECOND_PUBLISHER, "two", self.now))
            self.episode, self.phase = self.episode + 1, "running"

    def chunk(self) -> None:
        values = self.wild((self.space.chunk, self.space.size))
        age = float(self.rng.choice([0.01, 0.05, 0.3, 5.0, -3.0]))  # stale and future stamps too
        stamp = int((self.now - age) * 1e9)
        name = f"episode-{self.episode + int(self.rng.random() < 0.1)}"
        self.take(self.guard.on_chunk(stamp, name, values, self.now, age))

    def manual(self) -> None:
        send = self.guard.on_teleop if self.rng.random() < 0.7 else self.guard.on_reset
        self.take(send(int(self.now * 1e9), self.wild((self.space.size,)), self.now))

    def wild(self, shape) -> np.ndarray:
        values = self.rng.uniform(LOW - 0.3, HIGH + 0.3, shape)
        chance = self.rng.random()
        if chance < 0.3:
            values[...] = np.where(self.rng.random(shape[-1]) < 0.5, LOW, HIGH)
        elif chance < 0.35:
            values[..., 0] = self.rng.choice([np.nan, np.inf, 1e200])
        return values


def judge_trajectory(command, low, high, speed) -> None:
    """Within the limits as points and as the cubics through them, at rest at the end, short."""
    times = [0.0, *(p.time for p in command.points)]
    assert all(a < b for a, b in itertools.pairwise(times))
    assert times[-1] <= 0.5
    assert not command.points[-1].velocities.any()
    before, s = command.values, np.linspace(0.0, 1.0, 9)[:, None]
    slope = None
    for point, start in zip(command.points, times, strict=False):
        span = point.time - start
        assert (np.abs(point.positions - before) <= speed * span + SLACK).all()
        assert (np.abs(point.velocities) <= speed + SLACK).all()
        if slope is not None:
            h0, h1 = 2 * s**3 - 3 * s**2 + 1, -2 * s**3 + 3 * s**2
            d0, d1 = (s**3 - 2 * s**2 + s) * span, (s**3 - s**2) * span
            path = h0 * before + h1 * point.positions + d0 * slope + d1 * point.velocities
            assert (path >= low - 1e-6).all()
            assert (path <= high + 1e-6).all()
        before, slope = point.positions, point.velocities


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_invalid_joint_command_whatever_comes_in(seed):
    bench = Bench(joint_settings(max_lag=dict.fromkeys(JOINTS, 0.2)), seed=seed)
    bench.status()
    bench.play(50)  # judges every command; how many there are is in the hands of the seed


def test_the_random_play_reaches_every_source():
    bench = Bench(joint_settings(), seed=3)
    bench.status()
    bench.play(1500)
    assert bench.sources == set(Source)
    assert bench.count > 1000


def running(bench: Bench) -> None:
    bench.take(bench.guard.on_episode_status("running", "e", bench.now, "practice"))
    bench.take(bench.guard.on_fleet_stopped(False, bench.now))


def advance(bench: Bench, seconds: float) -> None:
    for _ in range(round(seconds / STEP)):
        bench.now += STEP
        running(bench)
        bench.take(bench.guard.on_pose(0, bench.robot, bench.now))
        bench.take(bench.guard.step(bench.now))


def aim(bench: Bench, target) -> None:
    values = np.tile(target, (4, 1))
    bench.take(bench.guard.on_chunk(int(bench.now * 1e9), "e", values, bench.now))


def test_targets_are_reached_and_held_when_the_policy_stops():
    bench = Bench(joint_settings())
    running(bench)
    target = np.array([0.5, 1.0, 0.01])
    for _ in range(20):
        aim(bench, target)
        advance(bench, 0.1)
    np.testing.assert_allclose(bench.robot, target, atol=1e-3)
    aim(bench, target + 0.3 * np.array([1.0, 1.0, 0.1]))
    advance(bench, 0.9)  # the chunk is good for 0.45 s, then the arm brakes
    held = bench.robot.copy()
    report = bench.guard.step(bench.now)
    assert (report.source, report.fault) == (Source.HOLD, Fault.STALE_CHUNK)
    assert not report.velocity.any()
    advance(bench, 0.5)
    np.testing.assert_array_equal(bench.robot, held)


def test_an_arm_that_is_elsewhere_is_a_fault_and_not_pulled_back():
    bench = Bench(joint_settings(max_lag={"elbow": 0.2}))
    running(bench)
    aim(bench, [0.5, 1.5, 0.05])
    advance(bench, 0.2)
    blocked = bench.robot.copy()
    blocked[1] -= 0.25
    report = bench.guard.on_pose(0, blocked, bench.now)
    assert (report.fault, report.source) == (Fault.TRACKING, Source.HOLD)
    np.testing.assert_array_equal(report.position, blocked)
    assert not report.velocity.any()
    assert bench.guard.on_pose(0, blocked + 0.5, bench.now) is None  # follows without a word
    assert bench.guard.step(bench.now).position[1] == blocked[1] + 0.5


def test_bounds_of_a_jump_at_a_chunk_border():
    bench = Bench(joint_settings(max_jump={"shoulder": 0.1}))
    running(bench)
    advance(bench, 0.1)
    aim(bench, np.add(bench.robot, [0.11, 0.0, 0.0]))
    assert bench.guard.counts["invalid"] == 1
    aim(bench, np.add(bench.robot, [0.09, 0.0, 0.0]))
    assert bench.guard.counts["accepted"] == 1


def test_the_rate_of_each_group():
    bench = Bench(joint_settings())
    running(bench)
    advance(bench, 2.0)
    times = {name: sorted(set(times)) for name, times in bench.times.items()}
    assert np.diff(times["base"]).max() <= STEP + SLACK
    assert np.diff(times["hand"]).max() <= 1 / 20 + SLACK
    assert len(times["hand"]) < len(times["base"])


def test_nothing_is_sent_before_the_joints_are_known():
    guard = Guard(joint_settings())
    guard.on_fleet_stopped(False, 0.0)
    assert guard.on_episode_status("running", "e", 0.0) is None
    assert guard.step(0.1) is None


# ---- twists and grippers -----------------------------------------------------------------------


def delta_settings() -> GuardSettings:
    dims = [ActionDim(name=n, unit="m", low=-0.02, high=0.02) for n in ("x", "z", "rz", "grip")]
    others = {n: DimLimits(max_speed=0.3, max_acceleration=3.0) for n in ("rz", "grip")}
    return GuardSettings(
        space=ActionSpace(dims=tuple(dims), rate=10.0),
        clock="real",
        limits=others,
        workspace={"x": (0.0, 1.0), "grip": (0.0, 0.08)},
    )


DELTA_GROUPS = (
    CommandGroup(name="arm", dims=("x", "z", "rz"), frame="base_link"),
    CommandGroup(name="gripper", output="gripper", dims=("grip",)),
)


@settings(max_examples=30, deadline=None)
@given(data=st.lists(st.tuples(*[st.floats(-0.05, 0.05)] * 4), min_size=5, max_size=20))
def test_a_twist_and_a_gripper_of_one_delta_space(data):
    guard, maker = Guard(delta_settings()), CommandMaker(DELTA_GROUPS, delta_settings())
    where, last = np.array([0.5, np.nan, np.nan, 0.04]), 0.04
    guard.on_fleet_stopped(False, 0.0)
    for i, values in enumerate(data):
        now = 0.05 * (i + 1)
        guard.on_fleet_stopped(False, now)
        guard.on_episode_status("running", "e", now)
        guard.on_pose(i, where, now)
        report = guard.on_chunk(i, "e", [values], now)
        made = {c.group.name: c for c in maker.commands(report, now)}
        twist = made["arm"].values
        assert np.abs(twist[[0, 2]]).max() <= 0.2 + SLACK  # 0.02 m per tick at 10 Hz
        assert not twist[[1, 3, 4]].any()
        (grip,) = made["gripper"].values
        assert 0.0 <= grip <= 0.08
        assert abs(grip - last) <= 0.2 * 0.05 + SLACK
        last = where[3] = grip


def test_a_robot_moves_whose_rotation_and_height_nobody_measures():
    guard = Guard(delta_settings())
    guard.on_fleet_stopped(False, 0.0)
    guard.on_episode_status("running", "e", 0.0)
    guard.on_pose(0, [0.5, np.nan, np.nan, 0.04], 0.0)
    report = guard.on_chunk(1, "e", [[0.001, 0.001, 0.001, 0.0]], 0.0)
    assert report.source is Source.POLICY
    np.testing.assert_array_equal(report.velocity[:3], [0.01] * 3)


# ---- messages ----------------------------------------------------------------------------------


def test_the_messages_for_the_drivers():
    bench = Bench(joint_settings())
    running(bench)
    aim(bench, [0.5, 1.5, 0.05])
    bench.now += STEP
    made = {c.group.name: c for c in bench.take(bench.guard.step(bench.now))}
    for command in made.values():
        kind = command_topic(command.group.name, command.group.output).type
        message = command_message(command, 7)
        again = messages.deserialize(messages.serialize(message, kind), kind)
        if kind.endswith("Float64MultiArray"):
            np.testing.assert_array_equal(read_numbers(again), command.values)
            continue
        assert messages.stamp_of(again) == 0
        assert again.joint_names == ["elbow"]
        assert again.points[-1].velocities.tolist() == [0.0]
        assert again.points[0].time_from_start.nanosec == 20_000_000
        assert again.points[-1].time_from_start.nanosec == 400_000_000


def test_a_twist_bears_the_time_of_sending_and_its_frame():
    maker = CommandMaker(DELTA_GROUPS, delta_settings())
    guard = Guard(delta_settings())
    guard.on_pose(0, [0.5, np.nan, np.nan, 0.04], 0.0)
    made = maker.commands(guard.step(0.0), 0.0)
    message = command_message(made[0], 5_000_000_007)
    assert messages.stamp_of(message) == 5_000_000_007
    assert message.header.frame_id == "base_link"


def test_measurements_are_handed_out_when_all_are_new():
    where = Whereabouts(DELTA_GROUPS, delta_settings().space)
    assert (where.needs_pose, where.needs_joints) == (True, True)
    assert where.on_position([0.1, 0.2, 0.3]) is None
    assert where.on_joints({"wheel": 1.0}) is None
    np.testing.assert_array_equal(where.on_joints({"grip": 0.02}), [0.1, 0.3, np.nan, 0.02])
    assert where.on_joints({"grip": 0.03}) is None  # the pose is old now
    assert where.on_position([np.nan, 0.2, 0.3]) is None
    np.testing.assert_array_equal(where.on_position([0.4, 0, 0.5]), [0.4, 0.5, np.nan, 0.03])


def test_ee_pose_alone_moves_no_joints():
    where = Whereabouts(GROUPS, joint_settings().space)
    assert where.on_position([0.0, 0.0, 0.0]) is None
    assert where.on_joints({"shoulder": 0.1, "elbow": 0.2}) is None
    assert where.on_joints({"finger": 0.0}).tolist() == [0.1, 0.2, 0.0]


@pytest.mark.parametrize("source", ["lockstep", "real"])
def test_velocities_are_the_guards(source):
    dims = (ActionDim(name="j", unit="rad", low=-0.1, high=0.1),)
    settings = GuardSettings(
        space=ActionSpace(dims=dims, rate=10.0),
        clock=source,
        limits={"j": DimLimits(max_speed=0.5, max_acceleration=50.0)},
        workspace={"j": (-1.0, 1.0)},
    )
    group = CommandGroup(name="arm", output="velocities", dims=("j",), watchdog_s=0.1)
    guard, maker = Guard(settings), CommandMaker([group], settings)
    guard.on_fleet_stopped(False, 0.0)
    guard.on_episode_status("running", "e", 0.0)
    guard.on_pose(0, [0.0], 0.0)
    report = guard.on_chunk(0, "e", [[0.09]], 0.0)
    (command,) = maker.commands(report, 0.0)
    assert command.values.tolist() == [0.5]  # 0.9 rad/s was asked for
