"""What a robot's drivers may be told: the description of command groups and its errors."""

from __future__ import annotations

import json

import pytest
import yaml

from efm_core import topics
from efm_core.fleet import FleetError, load_fleet, save_fleet
from efm_core.fleet_processes import processes

JOINTS = ("shoulder", "elbow")


def space(kind: str, names, low=-1.0, high=1.0) -> dict:
    dims = [{"name": n, "unit": "rad", "low": low, "high": high} for n in names]
    return {"kind": kind, "rate": 10.0, "chunk": 4, "dims": dims}


def limits(*names, speed=1.0, acceleration=4.0) -> dict:
    return {n: {"max_speed": speed, "max_acceleration": acceleration} for n in names}


def joint_robot(**changes) -> dict:
    group = {"name": "arm", "output": "joint_trajectory", "dims": list(JOINTS)}
    robot = {
        "name": "bench",
        "kind": "driver",
        "cameras": [{"name": "front"}],
        "space": space("absolute", JOINTS),
        "guard": {"limits": limits(*JOINTS)},
        "groups": [group],
    }
    return {**robot, **changes}


@pytest.fixture
def load(tmp_path):
    def write_and_load(*robots):
        path = tmp_path / "lab.yaml"
        content = json.loads(json.dumps({"clock": "real", "robots": list(robots)}))
        path.write_text(yaml.safe_dump(content))
        return load_fleet(path)

    return write_and_load


def group(**fields) -> dict:
    return {"name": "arm", "output": "positions", "dims": list(JOINTS), **fields}


def test_groups_give_topics_remaps_and_a_guard_that_is_fast_enough(load):
    camera, colour = "camera/front/image_raw", "/camera/color/image_raw"
    robot = joint_robot(
        groups=[
            group(name="arm", rate=100.0, dims=["shoulder"], topic="/arm_controller/commands"),
            group(name="hand", output="gripper", dims=["elbow"], joints=["Finger_1"], rate=10.0),
        ],
        topics={"joint_states": "/joint_states", camera: colour},
    )
    fleet = load(robot)
    loaded = fleet.robot("bench")
    assert [g.entry for g in loaded.command_groups] == ["arm:positions", "hand:gripper"]
    assert loaded.command_groups[1].joint_names == ("Finger_1",)
    assert loaded.guard_settings("real").step_period == pytest.approx(0.01)
    assert loaded.remaps == {
        "/bench/joint_states": "/joint_states",
        f"/bench/{camera}": colour,
        "/bench/command/arm/positions": "/arm_controller/commands",
    }
    specs = {spec.name: spec.args for spec in processes(fleet)}
    for name in ("bench_guard", "bench_manager"):
        assert "/bench/joint_states:=/joint_states" in specs[name]
        assert specs[name][specs[name].index("/bench/joint_states:=/joint_states") - 1] == "-r"
    assert 'commands:=["arm:positions", "hand:gripper"]' in specs["bench_manager"]
    saved = save_fleet(fleet, fleet.path.with_name("again.yaml"))
    assert saved.robot("bench") == loaded


def test_a_robot_without_groups_has_a_twist_of_all_its_dimensions(load):
    robot = joint_robot(space=space("delta", "xy", -0.02, 0.02), guard={}, groups=[])
    loaded = load(robot).robot("bench")
    (only,) = loaded.command_groups
    assert (only.name, only.output, only.dims, only.entry) == ("arm", "twist", ("x", "y"), "arm")
    assert loaded.remaps == {}
    assert loaded.guard_settings("real").step_period == 0.02


def test_the_topics_of_commands():
    assert topics.command("arm") == topics.twist_command("arm")
    assert topics.command("left", "joint_trajectory").name == "command/left/joint_trajectory"
    assert topics.command("gripper", "gripper").name == "command/gripper"
    assert topics.command("arm", "positions").type == "std_msgs/msg/Float64MultiArray"
    with pytest.raises(ValueError, match="'smell' is none of twist"):
        topics.command("arm", "smell")


DELTA = space("delta", JOINTS, -0.05, 0.05)
BOX = {"shoulder": [-1.0, 1.0], "elbow": [-1.0, 1.0]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": [group(dims=["shoulder", "wrist"])]}, r"groups\[0\].*'wrist' is no action"),
        (
            {"groups": [group(), group(name="b", dims=["elbow"])]},
            r"groups\[1\] \('b'\)\.dims: 'elbow' is moved by group 'arm' already",
        ),
        ({"groups": [group(dims=["elbow"])]}, "nothing moves the action dimension 'shoulder'"),
        ({"groups": [group(), group()]}, "names repeat"),
        ({"space": DELTA}, r"groups\[0\].*joint_trajectory needs absolute .*space\.kind: absolute"),
        ({"groups": [group(output="twist")]}, r"a twist needs displacements.*'absolute'"),
        ({"guard": {"limits": limits("elbow")}}, r"limits lack .*'shoulder'.*guard\.limits"),
        (
            {"space": DELTA, "groups": [group(output="velocities", watchdog_s=0.2)]},
            r"joint 'shoulder' has no position limits; .*guard\.workspace\.shoulder",
        ),
        ({"groups": [group(output="joint_trajectory", span=0.6)]}, r"groups\[0\]\.span: 0\.6 s is"),
        (
            {"guard": {"limits": limits(*JOINTS, acceleration=1.0)}},
            r"groups\[0\].*span: 'shoulder' takes 1\.020 s to come to rest",  # 1/1 s + a step
        ),
        ({"groups": [group(output="velocities")]}, "velocity forwarding is refused.*watchdog_s"),
        ({"groups": [group(output="velocities", watchdog_s=0.6)]}, "forwarding is refused"),
        ({"groups": [group(output="twist", rate=10.0)]}, "too low for twists; set it to 20"),
        ({"groups": [group(joints=["a"])]}, "joints lists 1 names for 2 dims"),
        ({"groups": [group(joints=["a", "a"])]}, "'a' belongs to group 'arm' already"),
        (
            {
                "groups": [group(rate=100.0)],
                "guard": {"limits": limits(*JOINTS), "step_period": 0.02},
            },
            r"groups\[0\].*rate: 100\.0 Hz is faster than the guard",
        ),
        ({"groups": [group(topic="relative/name")]}, r"groups\[0\]\.topic"),
        ({"groups": [group(output="smell")]}, r"groups\[0\]\.output"),
        ({"topics": {"joint_state": "/joint_states"}}, r"topics\.joint_state: .*no such topic"),
        ({"topics": {"joint_states": "joint_states"}}, r"topics\.joint_states"),
        ({"commands": ["left"]}, "leave it out beside groups"),
        ({"kind": "sim"}, "a simulated robot obeys one group with a twist"),
    ],
)
def test_errors_name_file_robot_field_and_remedy(load, changes, said):
    with pytest.raises(FleetError, match=rf"lab\.yaml: robots\[0\].*{said}"):
        load(joint_robot(**changes))


def test_dimensions_without_a_place_in_a_twist(load):
    guard = {"limits": limits("a", "b", "left_x", "right_x"), "workspace": {"b": [-1, 1]}}
    names = ["left_x", "right_x"]
    robot = joint_robot(
        space=space("delta", names),
        guard={"limits": limits(*names)},
        groups=[{"name": "both", "dims": names}],
    )
    with pytest.raises(FleetError, match="'left_x' has no place of its own in a twist"):
        load(robot)  # both would be its x
    robot["groups"] = [{"name": n[:-2], "dims": [n]} for n in names]
    assert len(load(robot).robot("bench").command_groups) == 2
    robot |= {"space": space("delta", ["a", "b"]), "guard": guard, "groups": [{"name": "arm"}]}
    robot["guard"]["limits"] = limits("a", "b")
    with pytest.raises(FleetError, match="'a' has no place of its own in a twist"):
        load(robot)


def test_velocities_with_a_declared_watchdog(load):
    robot = joint_robot(
        space=DELTA,
        guard={"limits": limits(*JOINTS), "workspace": BOX},
        groups=[group(output="velocities", watchdog_s=0.2)],
    )
    assert load(robot).robot("bench").command_groups[0].entry == "arm:velocities"
