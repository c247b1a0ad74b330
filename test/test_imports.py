"""Who may import what (ARCHITECTURE.md): read from the source, nothing is executed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "efm_core", "efm_model", "efm_ros", "efm_policy_node", "efm_reward_node",
    "efm_episode_manager", "efm_trainer", "efm_sim", "efm_bringup",
}  # fmt: skip
ROS = {"rclpy", "rosbag2_py", "launch", "launch_ros", "ament_index_python"}
HEAVY = {"torch", "onnxruntime", "transformers"}


@dataclass(frozen=True)
class Rule:
    """What a room may import of this suite, and what of the outside it may not."""

    rooms: frozenset[str]
    forbidden: frozenset[str]
    ros_modules: frozenset[str] = frozenset()  # its only modules that may use ROS, if not all


def rule(rooms: str, forbidden: set[str], ros_modules: str = "") -> Rule:
    return Rule(frozenset(rooms.split()), frozenset(forbidden), frozenset(ros_modules.split()))


RULES = {
    "efm_core": rule("", {*ROS - {"rosbag2_py"}, *HEAVY, "pybullet"}),
    "efm_model": rule("efm_core", {*ROS, "pybullet"}),
    "efm_ros": rule("efm_core", {*HEAVY, "pybullet"}),
    "efm_policy_node": rule("efm_core efm_model efm_ros", {"pybullet"}),
    "efm_reward_node": rule("efm_core efm_model efm_ros", {"pybullet"}),
    "efm_episode_manager": rule("efm_core efm_ros", {*HEAVY, "pybullet"}),
    "efm_trainer": rule("efm_core efm_model efm_ros", {"pybullet"}, "node"),
    "efm_sim": rule("efm_core efm_ros", HEAVY, "node demonstrator_node"),
    "efm_bringup": rule(" ".join(ROOMS), set()),
}
TORCH_FREE = {
    "efm_bringup": [
        "cli", "child", "runner", "environment", "executables", "fleet_node", "guard_node",
        "doctor", "demo", "monitor.node", "teleop.node",
    ],
}  # fmt: skip


def folder(room: str) -> Path:
    return ROOT / ("sim/efm_sim" if room == "efm_sim" else room)


def modules(room: str) -> Iterator[Path]:
    yield from sorted(folder(room).rglob("*.py"))


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Full names of the modules that a file imports (relative imports are not used here)."""
    tree = ast.parse(path.read_text(), str(path))
    nodes = tree.body if top_level_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            names.add(node.module or "")
    return names


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_import_only_what_they_may(room: str) -> None:
    allowed = RULES[room]
    for path in modules(room):
        names = tops(imported(path))
        wrong = (names & ROOMS) - allowed.rooms - {room}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"
        outside = names & allowed.forbidden
        assert not outside, f"{path.relative_to(ROOT)} imports {sorted(outside)}"


@pytest.mark.parametrize("room", ["efm_trainer", "efm_sim"])
def test_ros_stays_in_the_node_modules(room: str) -> None:
    for path in modules(room):
        if path.stem in RULES[room].ros_modules:
            continue
        names = tops(imported(path)) & {*ROS, "efm_ros"}
        assert not names, f"{path.relative_to(ROOT)} imports {sorted(names)}: only nodes may"


def test_transformers_is_imported_lazily() -> None:
    for room in ROOMS:
        for path in modules(room):
            assert "transformers" not in tops(imported(path, top_level_only=True)), path


def test_nothing_outside_sim_needs_pybullet() -> None:
    for room in ROOMS - {"efm_sim", "efm_bringup"}:
        for path in modules(room):
            assert "pybullet" not in tops(imported(path)), path


def reachable(name: str, seen: set[str]) -> None:
    """Every module of this suite that importing `name` loads at once, `name` included."""
    parts = name.split(".")
    base = folder(parts[0]).joinpath(*parts[1:])
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if name in seen or not path.is_file():
        return
    seen.add(name)
    for other in imported(path, top_level_only=True):
        if other.split(".")[0] in ROOMS:
            reachable(other, seen)
    for node in ast.parse(path.read_text()).body:  # `from package import module`
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ROOMS:
            for alias in node.names:
                reachable(f"{node.module}.{alias.name}", seen)


@pytest.mark.parametrize("name", TORCH_FREE["efm_bringup"])
def test_light_processes_start_without_torch(name: str) -> None:
    seen: set[str] = set()
    reachable(f"efm_bringup.{name}", seen)
    for module in seen:
        parts = module.split(".")
        base = folder(parts[0]).joinpath(*parts[1:])
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        heavy = tops(imported(path, top_level_only=True)) & {*HEAVY, "pybullet"}
        assert not heavy, f"efm_bringup.{name} loads {sorted(heavy)} through {module}"


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc", "tools"}
    for room in ROOMS:
        for path in modules(room):
            assert not drawers & {*path.relative_to(ROOT).parts, path.stem}, path


def test_the_core_uses_few_packages() -> None:
    allowed = {
        "numpy", "pydantic", "mcap", "rosbags", "safetensors", "yaml", "rosbag2_py",
        "lz4", "zstandard",  # what mcap itself reads compressed chunks with
    }  # fmt: skip
    for path in modules("efm_core"):
        extra = {"cv2"} if path.stem == "camera_pixels" else set()  # JPEG and PNG, when they come
        assert "cv2" not in tops(imported(path, top_level_only=True)), path
        outside = tops(imported(path)) - set(sys.stdlib_module_names) - {"efm_core", *allowed}
        outside -= extra
        assert not outside, f"{path.relative_to(ROOT)} imports {sorted(outside)}"
