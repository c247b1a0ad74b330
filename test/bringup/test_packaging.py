"""The package as others install it: versions, executables, pins, files."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from efm_bringup.executables import EXECUTABLES

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = sorted((ROOT / "requirements").glob("constraints-py3.*.txt"))


def setup_text() -> str:
    return (ROOT / "setup.py").read_text()


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {re.split(r"\[|==", line)[0]: line.split("==")[1] for line in lines}


def test_versions_agree() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    version = package.findtext("version")
    assert f'version="{version}"' in setup_text()
    changelog = (ROOT / "CHANGELOG.rst").read_text()
    newest = re.search(r"^(\d+\.\d+\.\d+) \(\d{4}-\d{2}-\d{2}\)$", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def test_package_xml_is_what_catkin_accepts() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("name") == "efm_bringup"
    assert package.findtext("export/build_type") == "ament_python"
    maintainer = package.find("maintainer")
    assert maintainer is not None
    # catkin_pkg's pattern; a package it rejects silently becomes a plain Python package.
    assert re.fullmatch(r"[-a-zA-Z0-9_%+]+(\.[-a-zA-Z0-9_%+]+)*@[-a-zA-Z0-9%]+(\.[-a-zA-Z0-9%]+)*"
                        r"\.[a-zA-Z]{2,}", maintainer.get("email", ""))  # fmt: skip


@pytest.mark.parametrize("name", sorted(EXECUTABLES))
def test_every_executable_has_its_main_function(name: str) -> None:
    module, function = EXECUTABLES[name].split(":")
    room, *rest = module.split(".")
    base = ROOT / ("sim/efm_sim" if room == "efm_sim" else room)
    tree = ast.parse(base.joinpath(*rest).with_suffix(".py").read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert function in functions


def test_there_are_constraints_for_four_pythons() -> None:
    versions = {re.search(r"py(3\.\d+)", path.name)[1] for path in CONSTRAINTS}  # type: ignore[index]
    assert versions == {"3.10", "3.11", "3.12", "3.13"}


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.stem)
def test_everything_that_is_required_is_pinned(path: Path) -> None:
    pinned = pins(path)
    required = re.findall(r'^\s+"([a-zA-Z0-9_-]+)(?:[><=,.0-9]+)?",$', setup_text(), re.MULTILINE)
    extras = re.findall(r'"([a-zA-Z0-9_-]+)[><=,.0-9]*"', setup_text().split("extras_require")[1]
                        .split("entry_points")[0])  # fmt: skip
    names = {*required, *extras} - {"cpu", "gpu", "lora", "remote", "test"}
    assert {"torch", "pybullet", "onnxruntime", "onnxruntime-gpu", "hypothesis"} <= names
    missing = {name for name in names if name.lower() not in pinned}
    assert not missing
    assert not any("+" in version for version in pinned.values()), "a local version binds to CPU"


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.stem)
def test_every_ros_wheel_is_pinned_to_one_distribution(path: Path) -> None:
    pinned = pins(path)
    wanted = pins(ROOT / "requirements" / "ros-jazzy.txt")
    assert {name: pinned[name] for name in wanted} == wanted
    assert sum(name.startswith("ros-") for name in pinned) >= 70


def test_the_launch_folder_is_no_package() -> None:
    # As a package it would hide ROS 2's own `launch`.
    assert not (ROOT / "launch" / "__init__.py").exists()


def test_readme_names_the_apt_packages_first() -> None:
    first = (ROOT / "README.md").read_text().splitlines()[0]
    for package in ("python3-venv", "make", "git", "libgl1", "libglib2.0-0"):
        assert package in first
