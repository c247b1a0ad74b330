"""launch/record.launch.py: a joystick driver and a teleoperation node per robot asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from bringup import launch_recorder

from efm_bringup.executables import EXECUTABLES

ROOT = Path(__file__).resolve().parents[2]


def load_launch_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "record_launch", ROOT / "launch" / "record.launch.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    launch_recorder.install(monkeypatch)
    return load_launch_file()


@pytest.fixture
def fleet(tmp_path: Path) -> str:
    content: dict[str, Any] = yaml.safe_load((ROOT / "config" / "fleet.yaml").read_text())
    for robot in content["robots"]:
        robot["demonstrator"] = False
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_every_argument_is_described(module: ModuleType, fleet: str) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description(), fleet=fleet)
    wanted = {"fleet", "robots", "devices", "speed", "log_level", "respawn"}
    assert set(recorded.arguments) == wanted
    assert all(argument.description for argument in recorded.arguments.values())


def test_the_first_robot_and_joystick_by_default(module: ModuleType, fleet: str) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description(), fleet=fleet)
    joy, teleop = recorded.nodes
    assert (joy["package"], joy["executable"], joy["namespace"]) == ("joy", "joy_node", "robot1")
    assert joy["parameters"][0]["device_id"] == 0
    assert joy["parameters"][0]["autorepeat_rate"] > 1.0 / 0.3  # else a still stick is silence
    assert (teleop["executable"], teleop["namespace"]) == ("efm_teleop", "robot1")
    assert teleop["executable"] in EXECUTABLES
    assert teleop["parameters"] == [{"fleet": fleet, "robot": "robot1", "speed": 0.2}]


def test_two_robots_with_their_joysticks(module: ModuleType, fleet: str) -> None:
    recorded = launch_recorder.execute(
        module.generate_launch_description(), fleet=fleet, robots="robot2, robot1", devices="3,1"
    )
    pairs = [
        (n["namespace"], n["parameters"][0]["device_id"])
        for n in recorded.nodes
        if n["package"] == "joy"
    ]
    assert pairs == [("robot2", 3), ("robot1", 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"robots": "robot9"}, "robot 'robot9' is not in"),
        ({"robots": "robot1", "devices": "0,1"}, "give 1 numbers"),
        ({"fleet": str(ROOT / "config" / "fleet.yaml")}, "scripted demonstrator"),
    ],
)
def test_what_does_not_fit_is_refused(
    module: ModuleType, fleet: str, arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        launch_recorder.execute(
            module.generate_launch_description(), **{"fleet": fleet, **arguments}
        )


def test_the_real_launch_accepts_the_file() -> None:
    actions = pytest.importorskip("launch.actions", reason="launch comes with a system ROS only")
    description = load_launch_file().generate_launch_description()
    assert any(isinstance(e, actions.OpaqueFunction) for e in description.entities)
