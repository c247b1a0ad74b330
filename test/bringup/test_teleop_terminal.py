"""`efm record --drive` on a pseudo terminal: a person's keys, a robot's processes, real DDS."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")
pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from efm_bringup.bring_up import WITHOUT_MODELS
from efm_core.bags import check_episode, list_episodes, read_record
from efm_core.episode import Outcome
from efm_core.fleet import FleetDescription, load_fleet
from efm_core.fleet_processes import processes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment() -> dict[str, str]:
    from ros.conftest import free_domain

    dropped = ("LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    values = {k: v for k, v in os.environ.items() if k not in dropped}
    values["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "sim")])
    values["ROS_DOMAIN_ID"] = str(free_domain())
    values["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return values


@pytest.fixture
def fleet(tmp_path: Path, environment: dict[str, str]) -> Iterator[FleetDescription]:
    """One simulated robot without a demonstrator; every process but the inference's."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "config" / "fleet.yaml").read_text())
    robot = {**content["robots"][0], "demonstrator": False, "operator": "person"}
    content |= {"robots": [robot], "data_dir": str(tmp_path / "data"), "reserve_mb": 0.0}
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(content))
    fleet = load_fleet(path)
    running = []
    for spec in processes(fleet, tmp_path / "run"):
        if spec.executable != "efm_inference":
            command = [sys.executable, "-m", "efm_bringup.child", spec.executable, *spec.args]
            if spec.name == "fleet":
                command += ["-p", f"roles:={json.dumps(WITHOUT_MODELS)}"]
            with open(tmp_path / f"{spec.name}.log", "w") as log:
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    yield fleet
    for process in running:
        process.terminate()
    for process in running:
        process.wait(20)


class Typist:
    """A person at a terminal in which `efm` runs."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.other, inner = pty.openpty()
        self.before = termios.tcgetattr(inner)
        self.inner = inner
        self.process = subprocess.Popen(
            [sys.executable, "-m", "efm_bringup.cli", *arguments],
            env=environment, stdin=inner, stdout=inner, stderr=inner,
        )  # fmt: skip
        self.text = ""

    def type(self, keys: str) -> None:
        os.write(self.other, keys.encode())

    def until(self, condition: Callable[[str], object], seconds: float = 60.0) -> None:
        """Read until the text since the last call of this meets `condition`."""
        end, new = time.monotonic() + seconds, ""
        while not condition(new):
            assert time.monotonic() < end, f"not seen: {self.text[-3000:]}"
            if select.select([self.other], [], [], 0.1)[0]:
                got = os.read(self.other, 65536).decode(errors="replace")
                new, self.text = new + got, self.text + got

    def sees(self, pattern: str, seconds: float = 60.0) -> None:
        self.until(lambda new: re.search(pattern, new), seconds)

    def drive(self, ticks: int) -> None:
        """Hold `a` as a terminal repeats it, until the robot has gone on by so many ticks."""
        first = -1

        def gone(new: str) -> bool:
            nonlocal first
            found = re.findall(r"running, tick (\d+)", new)
            first = int(found[0]) if found and first < 0 else first
            self.type("a")
            return bool(found) and int(found[-1]) >= first + ticks

        self.until(gone)

    def leave(self) -> int:
        status = self.process.wait(30)
        assert termios.tcgetattr(self.inner) == self.before  # given back as it was
        return status


def test_a_session_by_keys_alone(fleet: FleetDescription, environment: dict[str, str]) -> None:
    """Three takes wanted: one marked, one redone and judged with y, one ended by finishing."""
    person = Typist(
        ["record", "--fleet", str(fleet.path), "--episodes", "4", "--drive", "robot1", "--pause"],
        environment,
    )
    try:
        person.sees("set the scene, then Enter")
        person.type("\r")
        person.sees("running")
        person.drive(5)
        person.type(" ")
        person.sees("1/4 saved")
        person.sees("set the scene")
        person.type("\r")
        person.sees("running")
        person.drive(3)
        person.type("\x1b[D")  # left: redo, once the scene is set again
        person.sees("1 redone")
        person.sees("set the scene")
        person.type("\r")
        person.sees("running")
        person.drive(3)
        person.type("\x1b[C")  # right: end and save
        person.sees(r"success\? y/n")
        person.type("y")
        person.sees("label_success")
        person.type("\r")
        person.sees("running")
        person.drive(3)
        person.type("n")
        person.sees(r"success\? y/n")
        person.type("n")  # no take runs, so it is an answer
        person.sees("label_failure")
        person.type("x")
        person.sees("1 discarded")
        person.type("q")
        person.sees("saved below")
        assert person.leave() == 0
    finally:
        person.process.kill()
    folders = list_episodes(fleet.data_dir / "demo")
    records = [read_record(folder) for folder in folders]
    assert [(r.index, r.outcome, r.labels.operator) for r in records] == [
        (0, Outcome.SUCCESS, True), (1, Outcome.UNKNOWN, True),
    ]  # fmt: skip
    assert all(check_episode(folder) == [] for folder in folders)
    assert re.search(r"front \d+(\.\d)? Hz", person.text)
    assert "GB free" in person.text
    assert "3 takes, 1 discarded again; saved below" in person.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(
    number: signal.Signals, tmp_path: Path, environment: dict[str, str]
) -> None:
    person = Typist(["teleop", "--robot", "robot1", "--keyboard"], environment)
    try:
        person.sees("robot1: never heard")
        assert termios.tcgetattr(person.inner) != person.before
        person.process.send_signal(number)
        assert person.leave() == 130
    finally:
        person.process.kill()
