"""What the pages tell a reader to type exists: commands, launch arguments, topics, YAML."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bringup import launch_recorder
from pydantic import TypeAdapter

from efm_bringup.cli import build_parser
from efm_bringup.executables import EXECUTABLES
from efm_bringup.parameter_page import NODES, table
from efm_core import topics
from efm_core.camera_description import CameraDescription
from efm_core.fleet import RobotDescription
from efm_core.reset_settings import AnyReset

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PAGES = [page for page in PAGES if page.name != "log.md"]  # a diary: its commands are of their day
ROBOTS = ("robot1", "arm1", "ur5e", "xarm6")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)


def typed(page: Path) -> list[list[str]]:
    """The words of every line of a bash block or of an indented one that is a command."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    indented = r"^(?: {4,}|\$ )(?:\$ )?((?:efm|ros2)[a-z_]* .*)$"
    lines += re.findall(indented, page.read_text(), re.MULTILINE)
    return words_of(lines)


def mentioned(page: Path) -> list[list[str]]:
    """The words of every `command` in running text."""
    return words_of(re.findall(r"`((?:efm|ros2)[a-z_]* [^`|]*)`", page.read_text()))


def words_of(lines: list[str]) -> list[list[str]]:
    found = (shlex.split(line, comments=True) for line in lines if not re.search(r"<.+>", line))
    return [list(itertools.takewhile(is_literal, words)) for words in found if words]


def is_literal(word: str) -> bool:
    """No placeholder: WHAT, CAUSE, [--option], "a / b", nor a redirection; signals are literal."""
    return not re.fullmatch(r"(?!KILL|STOP)[A-Z]+|/|[\[(|>].*|.*\.\.\.", word)


def said(kind: str, where: Callable[[Path], list[list[str]]]) -> list[Any]:
    """Every command of that kind, with the page as the test's name."""
    return [
        pytest.param(words, id=f"{page.stem}: {' '.join(words)[:60]}")
        for page in PAGES
        for words in where(page)
        if " ".join(words).startswith(f"{kind} ")
    ]


@pytest.mark.parametrize("words", said("efm", typed))
def test_efm_commands_parse(words: list[str]) -> None:
    build_parser(words[1]).parse_args(words[1:])


@pytest.mark.parametrize("words", said("efm", mentioned))
def test_efm_commands_in_the_text_exist(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Often without what they need: the command must be there, and have the options."""
    bare = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    with pytest.raises(SystemExit) as ended:
        build_parser(words[1]).parse_args([*bare[1:], "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [word for word in words if word.startswith("-") and word not in shown] == []


@pytest.mark.parametrize(
    "words", [*said("ros2 launch efm_bringup", typed), *said("ros2 launch efm_bringup", mentioned)]
)
def test_launch_files_have_the_arguments(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    launch_recorder.install(monkeypatch)
    spec = importlib.util.spec_from_file_location("page_launch", ROOT / "launch" / words[3])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entities = module.generate_launch_description().entities
    known = {e.name: e for e in entities if isinstance(e, launch_recorder.Declared)}
    for word in words[4:]:
        name, separator, value = word.strip("[]").partition(":=")
        assert separator or word == "--show-args"
        if separator:
            assert name in known
            assert not known[name].choices or value in known[name].choices


@pytest.mark.parametrize("executable", sorted(EXECUTABLES))
def test_nodes_have_the_parameters(executable: str) -> None:
    known = {spec.name for node in NODES if node.executable == executable for spec in table(node)}
    for page in PAGES:
        for words in (words for words in typed(page) if words[0] == executable):
            given = {w.split(":=")[0] for flag, w in itertools.pairwise(words) if flag == "-p"}
            assert given <= known, f"{page.name}: {' '.join(words)}"


@pytest.mark.parametrize("words", said("ros2 topic", typed))
def test_topics_exist(words: list[str]) -> None:
    robot, _, name = words[3].lstrip("/").partition("/")
    if robot not in ROBOTS:  # a driver's: held by test/ros/test_arms.py
        return
    assert name in {topic.name for topic in topics.ROBOT_TOPICS}


@pytest.mark.parametrize("page", ["resets", "cameras", "teleoperation"])
def test_fleet_snippets_are_valid(page: str) -> None:
    fields = RobotDescription.model_fields
    for block in blocks(ROOT / "docs" / f"{page}.md", "yaml"):
        content = yaml.safe_load(block)
        for robot in content.get("robots", [content]):
            assert set(robot) <= set(fields), block
            if "reset" in robot:
                TypeAdapter(AnyReset).validate_python(robot["reset"])
            TypeAdapter(list[CameraDescription]).validate_python(robot.get("cameras", []))
