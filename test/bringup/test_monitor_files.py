"""The viewers' files name topics that exist, with their types and a fitting quality of service."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from bringup import launch_recorder

from efm_bringup import cli
from efm_bringup.executables import EXECUTABLES
from efm_bringup.monitor.foxglove import foxglove_layout, foxglove_text
from efm_bringup.monitor.layout import fixed_frame, places
from efm_bringup.monitor.rviz import IMAGE_CLASS, MARKER_CLASS, rviz_config, rviz_text
from efm_bringup.monitor.viewing import of_size
from efm_core import messages, topics
from efm_core.fleet import CameraDescription, FleetDescription, load_fleet, save_fleet
from efm_core.topics import ROBOT_TOPICS, Topic

ROOT = Path(__file__).resolve().parents[2]
FLEET = load_fleet(ROOT / "config" / "fleet.yaml")
SIZES = (1, 2, 4)
SHOWN_TYPES = {
    MARKER_CLASS: {"visualization_msgs/msg/MarkerArray"},
    IMAGE_CLASS: {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"},
}


def two_cameras() -> FleetDescription:
    cameras = (CameraDescription(name="front"), CameraDescription(name="wrist", compressed=True))
    robots = tuple(robot.model_copy(update={"cameras": cameras}) for robot in FLEET.robots)
    return FLEET.model_copy(update={"robots": robots})


FLEETS = [*(of_size(FLEET, size) for size in SIZES), two_cameras()]
IDS = [*map(str, SIZES), "two cameras"]


def table(fleet: FleetDescription) -> dict[str, Topic]:
    """Every topic of the fleet by its absolute name."""
    found = {}
    for robot in fleet.robots:
        own = [topics.camera(camera.name, camera.compressed) for camera in robot.cameras]
        for topic in (*ROBOT_TOPICS, topics.MARKERS, *own):
            found[f"/{robot.name}/{topic.name}"] = topic
    return found


# ---- RViz ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fleet", FLEETS, ids=IDS)
def test_every_rviz_display_fits_its_topic(fleet: FleetDescription) -> None:
    known, shown = table(fleet), []
    for display in rviz_config(fleet)["Visualization Manager"]["Displays"]:
        if "Topic" not in display:
            continue
        asked = display["Topic"]
        topic = known[asked["Value"]]
        shown.append(asked["Value"])
        assert topic.type in SHOWN_TYPES[display["Class"]]
        # What is offered: reliable everywhere, transient local where latched. Asking for less
        # connects; asking for transient local where it is not offered does not.
        latched = topic.qos == "latched"
        assert asked["Durability Policy"] == ("Transient Local" if latched else "Volatile")
        assert asked["Reliability Policy"] in ("Reliable", "Best Effort")
        assert asked["Depth"] == 1
    wanted = {n for n, t in known.items() if t.qos == "image" or t is topics.MARKERS}
    assert sorted(shown) == sorted(wanted)


@pytest.mark.parametrize("fleet", FLEETS, ids=IDS)
def test_rviz_needs_no_tf(fleet: FleetDescription) -> None:
    options = rviz_config(fleet)["Visualization Manager"]["Global Options"]
    assert {place.frame for place in places(fleet).values()} == {options["Fixed Frame"]}


# ---- Foxglove --------------------------------------------------------------------------------


def leaves(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
        return
    assert node["direction"] in ("row", "column")
    assert 0 < node["splitPercentage"] < 100
    yield from leaves(node["first"])
    yield from leaves(node["second"])


def message_paths(panels: dict[str, dict[str, Any]]) -> Iterator[str]:
    for panel in panels.values():
        yield from panel.get("topics", {})
        yield from (path["value"] for path in panel.get("paths", ()))
        yield from (panel[key] for key in ("path", "topicPath") if key in panel)
        if "imageMode" in panel:
            yield panel["imageMode"]["imageTopic"]


@pytest.mark.parametrize("fleet", FLEETS, ids=IDS)
def test_every_foxglove_path_is_a_topic_and_a_field(fleet: FleetDescription) -> None:
    layout, known = foxglove_layout(fleet), table(fleet)
    types = messages.typestore.types
    for path in message_paths(layout["configById"]):
        name, _, field = path.partition(".")
        kind = types[known[name].type]
        first = re.split(r"[.\[]", field)[0]
        assert not first or first in kind.__dataclass_fields__, path


@pytest.mark.parametrize("fleet", FLEETS, ids=IDS)
def test_every_foxglove_panel_has_one_place(fleet: FleetDescription) -> None:
    layout = foxglove_layout(fleet)
    placed = list(leaves(layout["layout"]))
    assert sorted(placed) == sorted(layout["configById"])
    assert layout["configById"]["3D!fleet"]["followTf"] == fixed_frame(fleet)
    kinds = {panel.split("!")[0] for panel in placed}
    assert kinds == {"3D", "Image", "Plot", "StateTransitions", "Indicator", "RawMessages"}


def test_the_phase_is_looked_up_where_the_manager_writes_it() -> None:
    layout = foxglove_layout(FLEET)
    paths = [p["value"] for p in layout["configById"]["StateTransitions!phase"]["paths"]]
    assert '/robot1/episode/status.status[:].values[:]{key=="phase"}.value' in paths
    sent = messages.status(0, "episode_manager", {"phase": "running"})
    (pair,) = [p for status in sent.status for p in status.values if p.key == "phase"]
    assert pair.value == "running"


# ---- plots -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "type_name"),
    [
        (topics.REWARD_STEPS_TO_GO, "std_msgs/msg/Float32"),
        (topics.REWARD_REWARD, "std_msgs/msg/Float32"),
        (topics.REWARD_SUCCESS, "std_msgs/msg/Bool"),
        (topics.TRUTH_SUCCESS, "std_msgs/msg/Bool"),
    ],
)
def test_plots_are_plain_scalars(topic: Topic, type_name: str) -> None:
    assert (topic.type, topic.qos) == (type_name, "reliable")
    kind = messages.typestore.types[topic.type]
    assert next(iter(kind.__dataclass_fields__)) == "data"
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert f"{topic.name}/data" in page


# ---- files and command -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_shipped_files_are_what_the_generator_writes(size: int) -> None:
    fleet = of_size(FLEET, size)
    rviz, foxglove = ROOT / f"rviz/fleet_{size}.rviz", ROOT / f"rviz/foxglove_{size}.json"
    assert rviz.read_text() == rviz_text(fleet), f"efm monitor rviz --robots {size} --out {rviz}"
    assert foxglove.read_text() == foxglove_text(fleet)


def test_the_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rviz, foxglove = tmp_path / "deeper" / "lab.rviz", tmp_path / "lab.json"
    fleet = str(FLEET.path)
    assert cli.main(["monitor", "rviz", "--fleet", fleet, "--out", str(rviz)]) == 0
    assert yaml.safe_load(rviz.read_text()) == rviz_config(FLEET)
    assert "robot2: base at x 0, y -0.7, z 0 m of frame 'fleet'" in capsys.readouterr().err
    assert cli.main(["monitor", "foxglove", "--robots", "3", "--out", str(foxglove)]) == 0
    assert "Indicator!robot3" in json.loads(foxglove.read_text())["configById"]
    capsys.readouterr()
    assert cli.main(["monitor", "foxglove"]) == 0
    assert json.loads(capsys.readouterr().out) == foxglove_layout(FLEET)


def test_no_robots_and_no_fleet_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["monitor", "rviz", "--robots", "0"]) == cli.BAD_INPUT
    assert "0 robots" in capsys.readouterr().err
    assert cli.main(["monitor", "rviz", "--fleet", "nowhere.yaml"]) == cli.BAD_INPUT
    assert "nowhere.yaml" in capsys.readouterr().err


# ---- launch ----------------------------------------------------------------------------------


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    launch_recorder.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    path = ROOT / "launch" / "monitor.launch.py"
    spec = importlib.util.spec_from_file_location("monitor_launch", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_launch_shows_the_fleet_and_starts_a_monitor(module: ModuleType) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description())
    monitor, rviz = recorded.nodes
    assert monitor["executable"] in EXECUTABLES
    assert f'fleet:="{FLEET.path}"' in monitor["arguments"]
    assert yaml.safe_load(Path(rviz["arguments"][1]).read_text()) == rviz_config(FLEET)
    assert set(recorded.arguments) == {"fleet", "config", "rviz", "log_level", "respawn"}
    assert all(argument.description for argument in recorded.arguments.values())


def test_launch_leaves_a_fleets_own_monitor_alone(module: ModuleType, tmp_path: Path) -> None:
    asked = save_fleet(FLEET.model_copy(update={"monitor": True}), tmp_path / "own.yaml")
    mine = tmp_path / "mine.rviz"
    mine.write_text("Panels: []")
    recorded = launch_recorder.execute(
        module.generate_launch_description(), fleet=str(asked.path), config=str(mine)
    )
    (rviz,) = recorded.nodes
    assert rviz["arguments"] == ["-d", str(mine)]


def test_launch_without_rviz_draws_for_other_viewers(module: ModuleType) -> None:
    recorded = launch_recorder.execute(module.generate_launch_description(), rviz="false")
    assert [node["executable"] for node in recorded.nodes] == ["efm_monitor"]


def test_launch_refuses_a_configuration_that_is_not_there(module: ModuleType) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.rviz"):
        launch_recorder.execute(module.generate_launch_description(), config="none.rviz")
