"""The ready configurations of arms against a stand-in for each driver, over real DDS.

The guard is the real process with the real arguments, so that its remaps count too. The stand-in
listens where the driver would and is wherever it was sent.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros.alone import ALONE_ARGS

from efm_bringup.cli import build_parser
from efm_bringup.guard_node import GuardNode
from efm_bringup.listen import publishing_cameras
from efm_core import messages
from efm_core.command_messages import read_numbers
from efm_core.fleet import load_fleet
from efm_core.fleet_processes import processes
from efm_core.guard import Fault, Source
from efm_core.topics import (
    ACTION_CHUNK,
    COMMAND_TYPES,
    EPISODE_STATUS,
    GUARD_STATE,
    STATUS,
    TELEOP_JOINTS,
    Topic,
)
from efm_ros.channels import STOPPED, Sender, receive

ROOT = Path(__file__).resolve().parents[2]
ARMS = ("ros2_control", "ur_servo", "xarm")
EPISODE = "0b5cc1a4-0000-4000-8000-0000000000a1"
GUARD = "from efm_bringup.guard_node import main; main()"
TOOL = np.array([0.45, 0.0, 0.2])


class Driver(Node):
    """Plays the drivers of a robot: obeys the newest command and says where the arm is.

    `heard`: per group (seconds since the epoch of the steady clock, message). `joints`: by name.
    """

    def __init__(self, robot: Any, context: Any) -> None:
        super().__init__("driver", context=context)
        self.groups = {group.name: group for group in robot.command_groups}
        self.heard: dict[str, list[tuple[float, Any]]] = {name: [] for name in self.groups}
        names = [n for g in self.groups.values() if g.output != "twist" for n in g.joint_names]
        self.joints = dict.fromkeys(names, 0.01)
        self.tool = TOOL.copy()
        self.silent = True
        self._joints = Sender(self, Topic("/joint_states", "sensor_msgs/msg/JointState"))
        pose = robot.topics.get("ee_pose")
        self._pose = pose and Sender(self, Topic(pose, "geometry_msgs/msg/PoseStamped"))
        for group in self.groups.values():
            topic = Topic(group.topic, COMMAND_TYPES[group.output])
            receive(self, topic, lambda m, g=group: self._obey(g, m), "real")
        self.create_timer(0.02, self._tell)

    def _tell(self) -> None:
        if self.silent:
            return
        now = time.time_ns()
        order = ["wheel", *sorted(self.joints, reverse=True)]  # no driver keeps to our order
        scalars = {name: self.joints.get(name, 9.0) for name in order}
        self._joints.send(messages.named_scalars(now, "", scalars))
        if self._pose:
            self._pose.send(messages.pose(now, "base", self.tool))

    def _obey(self, group: Any, message: Any) -> None:
        self.heard[group.name].append((time.monotonic(), message))
        if group.output == "twist":
            linear = message.twist.linear
            self.tool += 0.02 * np.array([linear.x, linear.y, linear.z])
            return
        values = message.points[0].positions if group.output == "joint_trajectory" else message.data
        self.joints.update(zip(group.joint_names, np.asarray(values).tolist(), strict=True))


class Lab(Node):
    """Plays fleet, manager and policy of a running episode."""

    def __init__(self, robot: Any, context: Any) -> None:
        super().__init__("lab", namespace=robot.name, context=context)
        self.space = robot.space
        self.target: np.ndarray | None = None
        self.states: list[dict[str, float]] = []
        self.stamps_ns: list[int] = []  # of the states
        self.proposed_ns = 0
        self._senders = {t.name: Sender(self, t) for t in (STOPPED, EPISODE_STATUS, ACTION_CHUNK)}
        receive(self, GUARD_STATE, self._note)
        self.create_timer(0.05, self._announce)
        self.create_timer(0.1, self._decide)

    @property
    def met(self) -> bool:
        """Whether the guard is there."""
        return all(sender.subscribers for sender in self._senders.values())

    def _note(self, message: Any) -> None:
        self.states.append(messages.read_named_scalars(message))
        self.stamps_ns.append(messages.stamp_of(message))

    def _announce(self) -> None:
        self._senders[STOPPED.name].send(messages.boolean(False))
        values = {"phase": "running", "episode_id": EPISODE, "mode": "practice"}
        self._senders[EPISODE_STATUS.name].send(messages.status(0, "lab", values))

    def _decide(self) -> None:
        if self.target is not None:
            values = np.tile(self.target, (self.space.chunk, 1))
            self.proposed_ns = time.time_ns()
            message = messages.action_chunk(self.proposed_ns, EPISODE, self.space, values)
            self._senders[ACTION_CHUNK.name].send(message)


@pytest.fixture(params=ARMS)
def bench(request, tmp_path, domain, context, executor, spin_until):
    """The guard's process of one arm, its stand-in driver and the rest of its fleet."""
    fleet = load_fleet(ROOT / "config" / "arms" / f"{request.param}.yaml")
    (robot,) = fleet.robots
    spec = next(s for s in processes(fleet, tmp_path) if s.name == f"{robot.name}_guard")
    environment = {
        **os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    driver, lab = Driver(robot, context), Lab(robot, context)
    executor.add_node(driver)
    executor.add_node(lab)
    command = [sys.executable, "-c", GUARD, *spec.args, *ALONE_ARGS]
    guard = subprocess.Popen(command, env=environment)
    try:
        spin_until(lambda: lab.met, timeout=60.0)
        yield SimpleNamespace(robot=robot, driver=driver, lab=lab, guard=guard)
    finally:
        guard.send_signal(signal.SIGTERM)
        guard.wait(20)


def settled(bench) -> bool:
    """Whether the guard holds and nothing moves any more."""
    state = bench.lab.states[-1]
    return state["source"] == Source.HOLD and all(
        not np.any(velocity_of(heard[-1][1])) for heard in bench.driver.heard.values()
    )


def velocity_of(message: Any) -> np.ndarray:
    """What a message asks for beyond a position; zero for one that holds positions alone."""
    if hasattr(message, "twist"):
        twist = message.twist
        return np.array([[v.x, v.y, v.z] for v in (twist.linear, twist.angular)])
    if hasattr(message, "points"):
        return np.array([point.velocities for point in message.points])
    return np.zeros(1)


def elapse(spin_until, seconds: float) -> None:
    end = time.monotonic() + seconds
    spin_until(lambda: time.monotonic() > end, timeout=seconds + 5.0)


def test_the_arm_is_moved_within_its_limits_and_held(bench, spin_until):
    robot, driver, lab = bench.robot, bench.driver, bench.lab
    joints = robot.space.kind == "absolute"
    low, high = robot.space.low, robot.space.high
    start = np.clip(0.01, low, high) if joints else np.zeros(robot.space.size)
    step = 0.1 * (high - low) if not joints else np.minimum(0.2, 0.25 * (high - low))
    lab.target = np.clip(start + step, low, high)
    if joints:  # nothing is known of the joints: nothing is sent
        elapse(spin_until, 0.3)
        assert not any(driver.heard.values())
    driver.silent = False
    spin_until(lambda: lab.states and lab.states[-1]["source"] == Source.POLICY)
    begun, counts = time.monotonic(), {n: len(h) for n, h in driver.heard.items()}
    elapse(spin_until, 1.5)
    seconds = time.monotonic() - begun
    for name, group in driver.groups.items():
        rate = (len(driver.heard[name]) - counts[name]) / seconds
        assert rate >= min(20.0, 0.5 * group.rate)  # MoveIt Servo's least, on any busy machine
        steps = 1.0 / robot.guard_settings("real").step_period
        assert rate <= 1.3 * (steps + 50.0)  # and at once at each status, fleet and chunk message
    lab.target = None  # the policy has died
    silence = time.monotonic()
    spin_until(lambda: settled(bench), timeout=5.0)
    # Chunk and grace by the guard's own stamps; then braking, as heard here on a busy CPU.
    stale = next(
        stamp for stamp, state in zip(lab.stamps_ns, lab.states, strict=True)
        if stamp > lab.proposed_ns and state["fault"] == Fault.STALE_CHUNK
    )  # fmt: skip
    assert (stale - lab.proposed_ns) / 1e9 < 0.45 + 0.05 + 0.1
    assert time.monotonic() - silence < 0.45 + 0.05 + 1.5
    assert lab.states[-1]["fault"] == Fault.STALE_CHUNK
    held = {name: len(heard) for name, heard in driver.heard.items()}
    where = dict(driver.joints)
    elapse(spin_until, 0.3)
    assert all(len(driver.heard[name]) > count for name, count in held.items())
    assert driver.joints == where  # holding goes on, and holds
    judge(bench)
    if joints:
        reached = [driver.joints[j] for g in driver.groups.values() for j in g.joint_names]
        np.testing.assert_allclose(reached, start + step, atol=0.01)
    else:
        assert np.linalg.norm(driver.tool - TOOL) > 0.01


def judge(bench) -> None:
    """Every message: type, names, order, limits, and how far it is from the one before."""
    settings = bench.robot.guard_settings("real")
    for name, group in bench.driver.groups.items():
        heard = [message for _, message in bench.driver.heard[name]]
        index = [bench.robot.space.names.index(dim) for dim in group.dims]
        low, high = bench.robot.space.low[index], bench.robot.space.high[index]
        if group.output == "twist":
            judge_twists(heard, settings)
            continue
        speed = np.array([settings.limits[dim].max_speed for dim in group.dims])
        values = [setpoint(message, group) for message in heard]
        for before, after in itertools.pairwise(values):
            # The guard steps every step_period; a late step moves no further than two.
            most = speed * 2.0 * settings.step_period
            gap = 1.0 if group.rate is None else max(1.0, 1.0 / group.rate / settings.step_period)
            assert (np.abs(after - before) <= most * gap + 1e-9).all()
        assert (np.array(values) >= low - 1e-9).all()
        assert (np.array(values) <= high + 1e-9).all()


def setpoint(message: Any, group: Any) -> np.ndarray:
    if group.output != "joint_trajectory":
        assert len(message.data) == len(group.dims)
        return read_numbers(message)
    assert messages.stamp_of(message) == 0
    assert tuple(message.joint_names) == group.joint_names
    last = message.points[-1]
    assert not np.any(last.velocities)
    assert last.time_from_start.sec + last.time_from_start.nanosec / 1e9 <= 0.5
    return np.array(message.points[0].positions)


def judge_twists(heard: list[Any], settings: Any) -> None:
    stamps = [messages.stamp_of(message) for message in heard]
    assert stamps == sorted(stamps)
    assert abs(stamps[-1] - time.time_ns()) < 60e9  # wall time, else Servo takes it for stale
    for message in heard:
        assert message.header.frame_id == "base"
        linear, angular = velocity_of(message)
        assert np.linalg.norm(linear) <= settings.max_speed + 1e-9
        assert np.abs(angular).max() <= settings.limits["rx"].max_speed + 1e-9


@pytest.mark.parametrize("bench", ["xarm"], indirect=True)
def test_a_person_gives_joint_targets(bench, spin_until):
    bench.driver.silent = False
    leader = Sender(bench.lab, TELEOP_JOINTS)
    spin_until(lambda: leader.subscribers)
    values = {"phase": "running", "episode_id": "demo", "mode": "demo"}
    bench.lab._announce = lambda: None
    status = bench.lab._senders[EPISODE_STATUS.name]
    joint = bench.driver.groups["arm"].joint_names[0]

    def lead() -> bool:
        bench.lab._senders[STOPPED.name].send(messages.boolean(False))
        status.send(messages.status(0, "lab", values))
        targets = {**bench.driver.joints, joint: 0.1}
        leader.send(messages.named_scalars(time.time_ns(), "", targets))
        return bench.driver.joints[joint] > 0.09

    spin_until(lead)
    assert any(state["source"] == Source.TELEOP for state in bench.lab.states)


# ---- the how-to pages --------------------------------------------------------------------------


def commands_of(arm: str) -> list[str]:
    """The command lines of a page, in order."""
    text = (ROOT / "docs" / "arms" / f"{arm}.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("arm", ARMS)
def test_the_commands_of_the_page_fit_the_files(arm, tmp_path):
    (tmp_path / "config").symlink_to(ROOT / "config")
    files = set()
    robot = load_fleet(ROOT / "config" / "arms" / f"{arm}.yaml").robots[0]
    for line in commands_of(arm):
        words = shlex.split(line)
        if words[0] == "cp":
            subprocess.run(words, cwd=tmp_path, check=True)
        if words[0] == "efm":
            args = build_parser(words[1]).parse_args(words[1:])
            assert isinstance(args, argparse.Namespace)
            files.add(load_fleet(tmp_path / args.fleet).name)
            assert getattr(args, "drive", None) in (None, robot.name)
    assert files == {arm}
    page = (ROOT / "docs" / "arms" / f"{arm}.md").read_text()
    for group in robot.command_groups:
        assert f"`{group.topic}`" in page
    assert f"`config/arms/{arm}.yaml`" in page


@pytest.mark.parametrize("arm", ["xarm"])
def test_the_fleet_of_the_page_comes_up_and_holds_the_arm(
    arm, tmp_path, domain, context, executor, spin_until
):
    """`cp` and `efm fleet`, word for word: every process, with no model yet."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    lines = [shlex.split(line) for line in commands_of(arm)]
    copy = next(words for words in lines if words[0] == "cp")
    start = next(words for words in lines if words[:2] == ["efm", "fleet"])
    subprocess.run(copy, cwd=tmp_path, check=True)
    robot = load_fleet(tmp_path / copy[-1]).robots[0]
    driver = Driver(robot, context)
    executor.add_node(driver)
    driver.silent = False
    status: list[dict[str, str]] = []
    topic = Topic(f"/{robot.name}/episode/status", STATUS, "latched")
    receive(driver, topic, lambda m: status.append(messages.read_status(m)))
    environment = {
        **os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    module = [sys.executable, "-m", "efm_bringup.cli"]
    fleet = subprocess.Popen([*module, *start[1:]], cwd=tmp_path, env=environment)
    try:
        spin_until(lambda: len(driver.heard["arm"]) > 50 and status, timeout=90.0)
        assert fleet.poll() is None
        # policy (for the reward too) and recorder see the driver's topics, the guard the joints
        picture = robot.topics["camera/front/image_raw"]
        spin_until(lambda: driver.count_subscribers(picture) == 2, timeout=30.0)
        assert driver.count_subscribers("/joint_states") == 3
        assert driver.count_subscribers(driver.groups["arm"].topic) == 2  # and the stand-in
        for _, message in driver.heard["arm"]:  # nobody asked for anything: it stays where it is
            np.testing.assert_allclose(message.points[-1].positions, 0.01, atol=1e-9)
            assert not np.any(velocity_of(message))
    finally:
        fleet.send_signal(signal.SIGINT)
        assert fleet.wait(40) == 0


@pytest.mark.parametrize("arm", ARMS)
def test_the_doctor_listens_to_the_drivers_cameras(arm, domain, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    fleet = load_fleet(ROOT / "config" / "arms" / f"{arm}.yaml")
    topic = fleet.robots[0].topics["camera/front/image_raw"]
    assert publishing_cameras(fleet, 0.01) == {topic: 0}


def test_a_robot_without_groups_must_be_moved_by_twists(context, make_fleet, space):
    guard = {"limits": {n: {"max_speed": 1.0, "max_acceleration": 1.0} for n in space.names}}
    fleet = make_fleet(guard=guard)
    fleet.path.write_text(fleet.path.read_text().replace("kind: delta", "kind: absolute"))
    with pytest.raises(ValueError, match=r"fleet\.yaml: robot 'robot_1': .*a twist needs displ"):
        GuardNode(
            context=context,
            namespace="robot_1",
            parameter_overrides=[Parameter("fleet", value=str(fleet.path))],
        )
