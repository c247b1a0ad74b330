from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from efm_core.fleet import FleetError, load_fleet, save_fleet
from efm_core.fleet_processes import processes

SHIPPED = Path(__file__).resolve().parents[2] / "config" / "fleet.yaml"


@pytest.fixture
def content() -> dict:
    # robots given by a YAML merge share their parts: copied, each can be changed alone
    return copy.deepcopy(json.loads(json.dumps(yaml.safe_load(SHIPPED.read_text()))))


@pytest.fixture
def load(tmp_path):
    def write_and_load(content):
        path = tmp_path / "fleet.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_fleet(path)

    return write_and_load


def test_the_shipped_fleet():
    fleet = load_fleet(SHIPPED)
    assert [robot.name for robot in fleet.robots] == ["robot1", "robot2"]
    assert fleet.clock == "lockstep"
    robot = fleet.robot("robot2")
    assert (robot.kind, robot.seed) == ("sim", 1000)
    assert [(c.name, c.width, c.height) for c in robot.cameras] == [("front", 64, 64)]
    assert robot.space.names == ("x", "y")
    assert robot.space.high.tolist() == [0.02, 0.02]
    assert (robot.space.rate, robot.space.chunk) == (10.0, 1)
    guard = robot.guard_settings("real")
    assert (guard.clock, guard.space) == ("real", robot.space)
    # full speed on both axes and its reversal in one tick pass the guard unchanged
    assert guard.max_speed >= 2**0.5 * 0.2
    assert guard.max_acceleration >= 2**0.5 * 0.4 / 0.1


def test_the_shipped_world_and_workspace_agree():
    robot = load_fleet(SHIPPED).robot("robot1")
    world, box = robot.world_options(), robot.guard_settings("lockstep").workspace
    assert world["workspace"]["low"] == [box["x"][0], box["y"][0]]
    assert world["workspace"]["high"] == [box["x"][1], box["y"][1]]
    assert (world["image_width"], world["control_hz"], world["max_step_m"]) == (64, 10, 0.02)


@pytest.mark.parametrize("name", ["fleet", "trainer"])
def test_reserved_names_are_refused(load, content, name):
    content["robots"][1]["name"] = name
    with pytest.raises(FleetError, match=rf"robots\[1\]: robot name '{name}' is reserved"):
        load(content)


def test_repeated_names_are_refused(load, content):
    content["robots"][1]["name"] = "robot1"
    with pytest.raises(FleetError, match="'robot1' appears twice"):
        load(content)
    content["robots"][1]["name"] = "robot2"
    content["robots"][0]["cameras"] *= 2
    with pytest.raises(FleetError, match="camera names repeat"):
        load(content)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("robots.0.name", "Robot 1", r"robots\[0\]\.name"),
        ("robots.0.kind", "magic", r"robots\[0\]\.kind"),
        ("robots.0.colour", "red", r"robots\[0\]\.colour: no such field"),
        ("robots.0.cameras", [], r"robots\[0\]\.cameras"),
        ("robots.0.space.dims.1.low", 5.0, r"robots\[0\]\.space\.dims\[1\].*below"),
        ("robots.0.guard.max_speed", -1.0, "max_speed"),
        ("robots.0.guard.workspace", {"z": [0, 1]}, "'z'"),
        ("robots.0.guard.clock", "real", "set elsewhere"),
        ("robots", [], "robots"),
        ("clock", "sundial", "clock"),
    ],
)
def test_errors_name_file_and_field(load, content, path, value, said):
    *parents, last = path.split(".")
    place = content
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    with pytest.raises(FleetError, match=rf"fleet\.yaml: .*{said}"):
        load(content)


def test_a_missing_field_is_named(load, content):
    del content["robots"][0]["space"]
    with pytest.raises(FleetError, match=r"robots\[0\]\.space: is missing"):
        load(content)


def test_files_that_are_no_fleet(tmp_path):
    with pytest.raises(FleetError, match="no such fleet file"):
        load_fleet(tmp_path / "none.yaml")
    for text, said in (("robots: [", "not valid YAML"), ("", "no fields"), ("- 1", "no fields")):
        (tmp_path / "fleet.yaml").write_text(text)
        with pytest.raises(FleetError, match=said):
            load_fleet(tmp_path / "fleet.yaml")


def test_an_unknown_robot_is_refused():
    with pytest.raises(FleetError, match=r"'robot9' is not in .*robot1, robot2"):
        load_fleet(SHIPPED).robot("robot9")


def test_the_processes_of_the_shipped_fleet():
    specs = {spec.name: spec for spec in processes(load_fleet(SHIPPED))}
    roles = ("sim", "guard", "manager", "demonstrator")
    expected = {f"{robot}_{role}" for robot in ("robot1", "robot2") for role in roles}
    assert set(specs) == expected | {"fleet", "inference"}
    assert {specs[f"robot1_{role}"].executable for role in roles} == {
        "efm_sim_robot", "efm_guard", "efm_episode_manager", "efm_demonstrator",
    }  # fmt: skip
    assert "__ns:=/robot2" in specs["robot2_guard"].args
    assert specs["robot2_guard"].robot == "robot2"
    assert 'robot:="robot2"' in specs["robot2_guard"].args
    assert f'fleet:="{SHIPPED}"' in specs["inference"].args
    assert not any(arg.startswith("__ns") for arg in specs["inference"].args)
    assert all(spec.args[0] == "--ros-args" for spec in specs.values())


def test_a_shared_role_is_one_process_with_the_command_lines_of_all(load, content):
    alone = {spec.name: spec for spec in processes(load(content))}
    content["shared"] = ["guard", "sim"]
    specs = {spec.name: spec for spec in processes(load(content))}
    per_robot = ("manager", "demonstrator")
    expected = {f"{robot}_{role}" for robot in ("robot1", "robot2") for role in per_robot}
    assert set(specs) == expected | {"fleet", "inference", "guards", "sims"}
    assert (specs["guards"].executable, specs["guards"].robot) == ("efm_guard", None)
    first, second = alone["robot1_guard"].args, alone["robot2_guard"].args
    assert specs["guards"].args == ("--node", *first, "--", "--node", *second)


@pytest.mark.parametrize(
    ("shared", "said"), [(["driver"], r"shared\[0\]: Input"), (["guard", "guard"], "appears twice")]
)
def test_shared_roles_that_are_none(load, content, shared, said):
    content["shared"] = shared
    with pytest.raises(FleetError, match=said):
        load(content)


def test_every_parameter_is_valid_yaml_of_its_type():
    for spec in processes(load_fleet(SHIPPED)):
        values = [a for flag, a in zip(spec.args[1:], spec.args[2:], strict=False) if flag == "-p"]
        parsed = {name: yaml.safe_load(text) for name, text in (v.split(":=", 1) for v in values)}
        if spec.executable == "efm_sim_robot":
            assert json.loads(parsed["world"])["image_width"] == 64
            assert isinstance(parsed["seed"], int)
        if spec.executable == "efm_episode_manager":
            assert json.loads(parsed["action_space"])["rate"] == 10.0
            assert parsed["cameras"] == ["front"]
            assert isinstance(parsed["reserve_mb"], float)


def test_a_robot_with_its_own_driver_gets_no_simulator(load, content):
    content["robots"][0] |= {"kind": "driver", "demonstrator": False}
    content["trainer"] = True
    specs = processes(load(content))
    names = [spec.name for spec in specs]
    assert "robot1_sim" not in names
    assert "robot1_demonstrator" not in names
    assert names.count("trainer") == 1
    untiring = {s.robot for s in specs if s.name.endswith("manager") and never_pauses(s.args)}
    assert untiring == {"robot2"}  # practice in vain pauses a real robot


def never_pauses(args) -> bool:
    return "failure_breaker:=0" in args


def test_a_fleet_is_saved_whole(tmp_path, load, content):
    content["robots"] = [{**content["robots"][0], "name": f"robot{i}"} for i in range(8)]
    fleet = load(content)
    saved = save_fleet(fleet, tmp_path / "deeper" / "fleet.yaml")
    assert saved.model_dump() == fleet.model_dump()
    assert saved.path == tmp_path / "deeper" / "fleet.yaml"


def test_a_fleet_in_memory_has_no_processes():
    fleet = load_fleet(SHIPPED).model_copy()
    fleet._path = None
    with pytest.raises(FleetError, match="not read from a file"):
        processes(fleet)
