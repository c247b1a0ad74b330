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
from efm_core.fleet import load_fleet
from efm_core.fleet_processes import processes

ROOT = Path(__file__).resolve().parents[2]
FILES = ("fleet", "robot", "sim")


def load_launch_file(name: str = "fleet") -> ModuleType:
    file = ROOT / "launch" / f"{name}.launch.py"
    spec = importlib.util.spec_from_file_location(f"{name}_launch", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    launch_recorder.install(monkeypatch)
    monkeypatch.chdir(tmp_path)  # RViz's configuration is written below the working directory
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    return load_launch_file()


def test_without_arguments_the_shipped_two_robot_simulation_starts(module: ModuleType) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description())
    fleet = load_fleet(ROOT / "config" / "fleet.yaml")
    assert len(fleet.robots) == 2
    wanted = [(p.executable, [*p.args, "--log-level", "info"]) for p in processes(fleet)]
    assert [(n["executable"], n["arguments"]) for n in recorded.nodes] == wanted
    assert all(n["package"] == "efm_bringup" for n in recorded.nodes)
    assert all(n["executable"] in EXECUTABLES for n in recorded.nodes)


@pytest.mark.parametrize("name", FILES)
def test_every_argument_is_described(name: str, module: ModuleType) -> None:
    recorded = launch_recorder.execute(load_launch_file(name).generate_launch_description())
    own = {"fleet": {"rviz"}, "robot": {"robot"}, "sim": set()}[name]
    assert set(recorded.arguments) == {"fleet", "log_level", "respawn"} | own
    assert all(argument.description for argument in recorded.arguments.values())


def test_one_robot_starts_by_itself(module: ModuleType) -> None:
    made = load_launch_file("robot").generate_launch_description()
    recorded = launch_recorder.execute(made, robot="robot2", log_level="warn", respawn="false")
    started = [(n["executable"], n["arguments"], n["respawn"]) for n in recorded.nodes]
    executables = [executable for executable, _, _ in started]
    assert sorted(executables) == sorted(
        ["efm_fleet", "efm_sim_robot", "efm_guard", "efm_episode_manager", "efm_demonstrator",
         "efm_inference"]
    )  # fmt: skip
    for executable, arguments, respawn in started:
        assert arguments[-2:] == ["--log-level", "warn"]
        narrowed = 'robots:=["robot2"]' in arguments
        assert narrowed == (executable in ("efm_fleet", "efm_inference"))
        assert respawn is False
    with pytest.raises(ValueError, match="robot 'robot9' is not in"):
        launch_recorder.execute(made, robot="robot9")
    with pytest.raises(ValueError, match="'loud': not one of 'debug', 'info'"):
        launch_recorder.execute(made, log_level="loud")
    with pytest.raises(ValueError, match="argument 'respawn' is 'yes'"):
        launch_recorder.execute(made, respawn="yes")


def test_the_worlds_start_alone(module: ModuleType) -> None:
    made = load_launch_file("sim").generate_launch_description()
    executables = {n["executable"] for n in launch_recorder.execute(made).nodes}
    assert executables == {"efm_sim_robot", "efm_demonstrator"}
    with pytest.raises(ValueError, match="nothing to simulate"):
        launch_recorder.execute(made, fleet=str(ROOT / "config" / "arms" / "xarm.yaml"))


def test_the_dds_profile_is_set(module: ModuleType) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description())
    assert Path(recorded.variables["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()


def test_rviz_starts_on_request_alone(module: ModuleType) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description(), rviz="true")
    (rviz,) = [n for n in recorded.nodes if n["package"] == "rviz2"]
    file = Path(rviz["arguments"][1])
    assert yaml.safe_load(file.read_text())["Visualization Manager"]["Displays"]
    assert [n["executable"] for n in recorded.nodes].count("efm_monitor") == 1


def test_another_fleet_file_is_taken(module: ModuleType, tmp_path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load((ROOT / "config" / "fleet.yaml").read_text())
    content["robots"] = content["robots"][:1]
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(content))
    recorded = launch_recorder.execute(module.generate_launch_description(), fleet=str(path))
    assert len(recorded.nodes) == len(processes(load_fleet(path)))


def test_the_real_launch_accepts_the_file() -> None:
    actions = pytest.importorskip("launch.actions", reason="launch comes with a system ROS only")
    for name in FILES:
        description = load_launch_file(name).generate_launch_description()
        assert any(isinstance(e, actions.OpaqueFunction) for e in description.entities)
