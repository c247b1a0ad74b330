"""What a fleet file may say of resets, and what the guard lets a reset do after a stop."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from efm_core.actions import ActionDim, ActionSpace
from efm_core.fleet import FleetError, load_fleet, save_fleet
from efm_core.fleet_processes import processes
from efm_core.guard import Fault, Guard, GuardSettings, Source
from efm_core.reset_settings import RobotReset, tolerances

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def load(tmp_path):
    """`load(name, reset, **fleet)`: a shipped file with this reset of its first robot."""

    def write(name, reset, **fields):
        content = yaml.safe_load((ROOT / "config" / name).read_text())
        content = copy.deepcopy(json.loads(json.dumps(content))) | fields
        content["robots"][0]["reset"] = reset
        path = tmp_path / "fleet.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_fleet(path)

    return write


def told(fleet, robot):
    """What the robot's episode manager is told."""
    spec = next(s for s in processes(fleet) if s.name == f"{robot}_manager")
    text = next(a for a in spec.args if a.startswith("reset:="))
    return RobotReset.model_validate_json(json.loads(text.removeprefix("reset:=")))


def test_a_simulated_robot_resets_itself_and_at_a_real_one_a_person_is_asked():
    (robot, *_) = load_fleet(ROOT / "config" / "fleet.yaml").robots
    assert robot.reset_method.kind == "simulator"
    (arm,) = load_fleet(ROOT / "config" / "arms" / "xarm.yaml").robots
    assert (arm.reset_method.kind, arm.reset_method.attempts) == ("person", 1)


def test_the_manager_is_told_groups_speeds_and_method(load):
    fleet = load("arms/ros2_control.yaml", {"kind": "reverse", "speed": 0.3})
    found = told(fleet, "arm1")
    assert (found.method.kind, found.method.speed, found.simulated) == ("reverse", 0.3, False)
    assert found.speed == (0.8,) * 6 + (0.1,)  # guard.limits of the file
    assert [group.name for group in found.groups] == ["arm", "gripper"]
    assert told(save_fleet(fleet, fleet.path), "arm1") == found
    simulated = told(load("fleet.yaml", None), "robot1")
    assert simulated.simulated
    # 20 mm per tick at 10 Hz; the guard's share of 0.3 m/s over two axes is 0.212
    assert simulated.speed == pytest.approx((0.2, 0.2))


POSE = {f"joint_{i}": 0.0 for i in range(1, 7)} | {"gripper": 0.04}


@pytest.mark.parametrize(("name", "reset", "said"), [
    ("arms/ros2_control.yaml", {"kind": "pose", "poses": [{"joint_1": 0.0}]},
     r"reset\.poses\[0\] lacks 'joint_2'"),
    ("arms/ros2_control.yaml", {"kind": "pose", "poses": [POSE, POSE | {"joint_2": 1.9}]},
     r"reset\.poses\[1\]: joint_2 = 1\.9 lies outside of the guard's box, -1\.8 to 1\.8"),
    ("arms/ur_servo.yaml", {"kind": "pose", "poses": [{"x": 0.4, "rz": 0.1}]},
     "nobody measures 'rz'"),
    ("arms/ur_servo.yaml", {"kind": "pose", "poses": [{"elbow": 0.4}]}, "'elbow' is no action"),
    ("arms/ur_servo.yaml", {"kind": "reverse", "tolerance": {"q": 0.4}},
     r"reset\.tolerance: 'q' is no action"),
    ("arms/ur_servo.yaml", {"kind": "pose", "poses": []}, "poses"),
    ("arms/ur_servo.yaml", {"kind": "magic"}, "reset"),
    ("arms/ur_servo.yaml", {"kind": "person", "speed": 1.0}, "no such field"),
    ("arms/ur_servo.yaml", {"kind": "none", "asked": {"kind": "none"}}, "asked"),
    ("arms/ur_servo.yaml", {"kind": "none", "asked": {"kind": "pose", "poses": [{"x": 9.0}]}},
     r"reset\.asked\.poses\[0\]: x = 9\.0 lies outside"),
    ("arms/ur_servo.yaml",
     {"kind": "person", "check": {"by": "image", "reference": "a.png", "camera": "side"}},
     "'side' is no camera of this robot; it has front"),
    ("fleet.yaml", {"kind": "pose", "poses": [{"x": 0.3}]}, "set clock: real"),
    ("fleet.yaml", {"kind": "none", "asked": {"kind": "pose", "poses": [{"x": 0.3}]}},
     "set clock: real"),
])  # fmt: skip
def test_what_cannot_work_is_refused_with_its_place(load, name, reset, said):
    with pytest.raises(FleetError, match=said):
        load(name, reset)


def test_tolerances_follow_the_unit():
    dims = [("x", "m", -1.0, 1.0), ("q", "rad", -3.0, 3.0), ("g", "%", 0.0, 100.0)]
    space = ActionSpace(
        dims=tuple(ActionDim(name=n, unit=u, low=a, high=b) for n, u, a, b in dims)
    )
    assert tolerances({}, space).tolist() == [0.01, 0.05, 2.0]
    assert tolerances({"x": 0.002}, space).tolist() == [0.002, 0.05, 2.0]


# ---- the guard -----------------------------------------------------------------------------------

SPACE = ActionSpace(
    dims=tuple(ActionDim(name=n, unit="m", low=-0.02, high=0.02) for n in ("x", "y"))
)


@pytest.fixture
def guard():
    """A guard between two episodes, in real time."""
    made = Guard(GuardSettings(space=SPACE, clock="real"))
    made.on_fleet_stopped(False, 0.0)
    made.on_episode_status("resetting", "", 0.0)
    made.on_pose(0, (0.4, 0.0), 0.0)
    return made


def move(guard, now):
    guard.on_reset(0, (0.1, 0.0), now)
    return guard.step(now).source


def test_a_stop_between_two_episodes_bars_until_the_next_reset_begins(guard):
    assert move(guard, 0.02) is Source.RESET
    guard.on_stop(0.04)
    guard.on_fleet_stopped(True, 0.06)
    guard.on_episode_status("resetting", "", 0.08)  # the manager has not heard of it
    assert move(guard, 0.1) is Source.HOLD
    guard.on_fleet_stopped(False, 0.12)
    guard.on_episode_status("resetting", "", 0.14)
    assert move(guard, 0.16) is Source.HOLD  # clearing alone moves nothing
    guard.on_episode_status("stopped", "", 0.18)
    assert move(guard, 0.2) is Source.HOLD
    guard.on_episode_status("resetting", "", 0.22)  # after episode/start
    guard.on_pose(0, (0.4, 0.0), 0.23)
    assert move(guard, 0.24) is Source.RESET


def test_no_reset_begins_while_the_stop_is_latched(guard):
    guard.on_fleet_stopped(True, 0.02)
    guard.on_episode_status("stopped", "", 0.04)
    guard.on_episode_status("resetting", "", 0.06)
    assert move(guard, 0.08) is Source.HOLD


def test_a_fault_of_one_reset_does_not_bar_the_next(guard):
    assert move(guard, 0.02) is Source.RESET
    guard.on_fault(Fault.TRACKING, "blocked", 0.04)
    assert move(guard, 0.06) is Source.HOLD
    guard.on_episode_status("needs_help", "", 0.08)
    guard.on_episode_status("resetting", "", 0.1)
    assert move(guard, 0.12) is Source.RESET


def test_a_reset_keeps_to_the_limits(guard):
    report = guard.on_reset(0, (5.0, 5.0), 0.02)
    assert np.linalg.norm(report.velocity) <= guard.settings.teleop_speed + 1e-9
