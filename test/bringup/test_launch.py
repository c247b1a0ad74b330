"""launch/fleet.launch.py asks for exactly the processes of the fleet description."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from bringup import launch_recorder

from efm_bringup.executables import EXECUTABLES
from efm_core.fleet import load_fleet, processes

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "launch" / "fleet.launch.py"


def load_launch_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fleet_launch", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    launch_recorder.install(monkeypatch)
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    return load_launch_file()


def test_without_arguments_the_shipped_two_robot_simulation_starts(module: ModuleType) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description())
    fleet = load_fleet(ROOT / "config" / "fleet.yaml")
    assert len(fleet.robots) == 2
    wanted = [(p.executable, list(p.args)) for p in processes(fleet)]
    assert [(n["executable"], n["arguments"]) for n in recorded.nodes] == wanted
    assert all(n["package"] == "efm_bringup" for n in recorded.nodes)
    assert all(n["executable"] in EXECUTABLES for n in recorded.nodes)


def test_every_argument_is_described(module: ModuleType) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description())
    assert set(recorded.arguments) == {"fleet", "rviz"}
    assert all(argument.description for argument in recorded.arguments.values())


def test_the_dds_profile_is_set(module: ModuleType) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description())
    assert Path(recorded.variables["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()


def test_rviz_starts_on_request_alone(module: ModuleType) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description(), rviz="true")
    (rviz,) = [n for n in recorded.nodes if n["package"] == "rviz2"]
    file = Path(rviz["arguments"][1])
    assert yaml.safe_load(file.read_text())["Visualization Manager"]["Displays"]


def test_another_fleet_file_is_taken(module: ModuleType, tmp_path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load((ROOT / "config" / "fleet.yaml").read_text())
    content["robots"] = content["robots"][:1]
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(content))
    recorded = launch_recorder.execute(module.generate_launch_description(), fleet=str(path))
    assert len(recorded.nodes) == len(processes(load_fleet(path)))


def test_the_real_launch_accepts_the_file() -> None:
    actions = pytest.importorskip("launch.actions", reason="launch comes with a system ROS only")
    description = load_launch_file().generate_launch_description()
    assert any(isinstance(e, actions.OpaqueFunction) for e in description.entities)
