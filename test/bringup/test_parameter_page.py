"""docs/parameters.md holds what the nodes declare, and no node declares anything else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")
pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from rcl_interfaces.msg import ParameterType

from efm_bringup import cli
from efm_bringup.executables import EXECUTABLES
from efm_bringup.parameter_page import NODES, page, table
from efm_core.fleet import FleetError, load_fleet
from efm_core.fleet_processes import processes

ROOT = Path(__file__).resolve().parents[2]
ROOMS = [*sorted(ROOT.glob("efm_*")), ROOT / "sim" / "efm_sim"]
TYPES = {
    "bool": ParameterType.PARAMETER_BOOL,
    "integer": ParameterType.PARAMETER_INTEGER,
    "double": ParameterType.PARAMETER_DOUBLE,
}


def test_the_page_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--parameters"]) == 0
    printed = capsys.readouterr().out
    assert printed == page()
    written = (ROOT / "docs" / "parameters.md").read_text()
    assert printed == written, "run: efm doctor --parameters > docs/parameters.md"


def test_every_executable_with_a_node_is_on_the_page() -> None:
    assert {node.executable for node in NODES} == set(EXECUTABLES) - {"efm"}


def test_parameters_are_declared_through_the_tables_alone() -> None:
    """Nothing but efm_ros/parameters.py calls declare_parameter, and each node calls `declare`."""
    for path in (file for room in ROOMS for file in room.rglob("*.py")):
        calls = [
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        ]
        wrong = {"declare_parameter", "declare_parameters"} & set(calls)
        assert not wrong or path.name == "parameters.py", path


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_every_parameter_is_whole(node) -> None:
    specs = table(node)
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.description, spec.name
        assert spec.description == spec.description.strip(), spec.name
        if not spec.required:
            assert spec.problem(spec.declared_default) == "", spec.name
        if spec.type == "double":
            assert spec.low is not None, f"{spec.name} has no range"
        if spec.type in TYPES and spec.low is not None:
            ranges = (*spec.descriptor.floating_point_range, *spec.descriptor.integer_range)
            assert [(r.from_value, r.to_value) for r in ranges] == [(spec.low, spec.high)]
        assert spec.descriptor.read_only is not spec.writable


@pytest.mark.parametrize("name", ["fleet.yaml", *(f"arms/{p.name}" for p in
                                  sorted((ROOT / "config" / "arms").glob("*.yaml")))])  # fmt: skip
def test_what_the_fleet_file_hands_on_is_declared(name: str, tmp_path: Path) -> None:
    """No parameter of a process's command line is unknown to all nodes of that process."""
    declared: dict[str, set[str]] = {}
    for node in NODES:
        declared.setdefault(node.executable, set()).update(s.name for s in table(node))
    for spec in processes(load_fleet(ROOT / "config" / name), tmp_path):
        given = {a.split(":=")[0] for a, b in zip(spec.args[1:], spec.args, strict=False)
                 if b == "-p"}  # fmt: skip
        assert given - {"run_dir", "robot", "fleet"} <= declared[spec.executable], spec.name


def changed_fleet(tmp_path: Path, robot: dict, fleet: dict) -> Path:
    content = yaml.safe_load((ROOT / "config" / "fleet.yaml").read_text())
    content["robots"][0]["parameters"] = robot
    content["parameters"] = fleet
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_parameters_in_the_fleet_file_reach_their_process(tmp_path: Path) -> None:
    path = changed_fleet(
        tmp_path, {"manager": {"operator_s": 1200.0}}, {"fleet": {"lost_s": 1.5}}
    )
    args = {spec.name: spec.args for spec in processes(load_fleet(path), tmp_path)}
    assert "operator_s:=1200.0" in args["robot1_manager"]
    assert "operator_s:=1200.0" not in args["robot2_manager"]
    assert "lost_s:=1.5" in args["fleet"]


@pytest.mark.parametrize(
    ("robot", "fleet", "said"),
    [
        ({"manager": {"clock": "real"}}, {}, r"parameters\.manager\.clock follows from other fi"),
        ({"gard": {"overlap_s": 2.0}}, {}, "parameters.*gard"),
        ({}, {"fleet": {"run_dir": "x"}}, r"parameters\.fleet\.run_dir follows from other fields"),
    ],
)
def test_what_other_fields_say_is_not_said_twice(
    tmp_path: Path, robot: dict, fleet: dict, said: str
) -> None:
    with pytest.raises(FleetError, match=said):
        processes(load_fleet(changed_fleet(tmp_path, robot, fleet)), tmp_path)
