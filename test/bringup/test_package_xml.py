"""package.xml names what the code imports and the messages it speaks, nothing less."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "lz4": "mcap-ros2-support",  # whose own requirements bring mcap and its compressors
    "mcap": "mcap-ros2-support",
    "onnxruntime": "python3-onnxruntime-pip",
    "pybullet": "python3-pybullet-pip",
    "rosbags": "python3-rosbags-pip",
    "tensorboard": "python3-tensorboard-pip",
    "torch": "python3-pytorch-pip",
    "transformers": "python3-transformers-pip",
    "yaml": "python3-yaml",
    "zstandard": "mcap-ros2-support",
}
"""Python module -> rosdep key, where it is not python3-<module> or a ROS package of its name."""
PIP_ONLY = {"safetensors", "peft", "fsspec"}
"""Without a rosdep key: README.md, "On a system ROS 2", has the recipe."""
ELSEWHERE = {"lerobot", "torchcodec"}
"""A rival in a benchmark, in an environment of its own."""


def rooms() -> list[Path]:
    return [*ROOT.glob("efm_*"), ROOT / "sim" / "efm_sim", ROOT / "launch"]


def imported() -> dict[str, str]:
    """Every module imported from elsewhere -> a file that does so."""
    found: dict[str, str] = {}
    for file in (file for room in rooms() for file in sorted(room.rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for top in (name.split(".")[0] for name in names):
                if top not in sys.stdlib_module_names and not top.startswith("efm_"):
                    found.setdefault(top, str(file.relative_to(ROOT)))
    return found


@pytest.fixture(scope="module")
def declared() -> set[str]:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    return {depend.text or "" for depend in package.findall("exec_depend")}


def test_every_import_is_declared(declared: set[str]) -> None:
    found = imported()
    assert {"rclpy", "torch", "lifecycle_msgs", "launch_ros"} <= set(found)
    missing = {
        f"{module} (in {file})"
        for module, file in found.items()
        if module not in PIP_ONLY | ELSEWHERE
        and not {module, KEYS.get(module, f"python3-{module}")} & declared
    }
    assert not missing, f"add to package.xml: {', '.join(sorted(missing))}"


def test_every_message_is_declared(declared: set[str]) -> None:
    texts = (file.read_text() for room in rooms() for file in room.rglob("*.py"))
    packages = {name for text in texts for name in re.findall(r'"([a-z_]+)/(?:msg|srv)/', text)}
    assert {"trajectory_msgs", "visualization_msgs", "diagnostic_msgs"} <= packages
    assert {
        name for name in packages if name.endswith(("_msgs", "_srvs", "_interfaces"))
    } <= declared


def test_what_has_no_rosdep_key_stands_in_the_recipe() -> None:
    setup, readme = ((ROOT / name).read_text() for name in ("setup.py", "README.md"))
    recipe = readme.split("## On a system ROS 2")[1].split("\n## ")[0]
    assert "pip install" in recipe
    for module in PIP_ONLY:
        assert f'"{module}>=' in setup
    assert "safetensors" in recipe
