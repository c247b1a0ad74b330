"""Ctrl-C in every phase of a demo: it ends within seconds, says how to go on, and goes on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from bringup.miniature import command, left_running, own_domain  # noqa: E402

PHASES = ("demonstrations", "fine-tuning", "calibration", "practice", "evaluation", "repetition")
PATIENCE = 20.0
"""Seconds within which everything has ended, on a machine that does other things as well."""


def test_ctrl_c_in_every_phase_loses_nothing(tmp_path: Path):
    run, log = tmp_path / "run", tmp_path / "log"
    with own_domain() as environment:
        for phase in PHASES:
            with log.open("w") as out:
                process = subprocess.Popen(
                    command(run), env=environment, stdout=out, stderr=subprocess.STDOUT
                )
                _wait_for(process, log, rf"\] {phase}\n")
                time.sleep(1.5)  # into the phase: processes are starting or at work
                began = time.monotonic()
                process.send_signal(signal.SIGINT)
                code = process.wait(PATIENCE)
            assert code == 130, log.read_text()
            assert "run it again to go on" in log.read_text()
            assert left_running(tmp_path) == [], f"{phase}: {time.monotonic() - began:.1f} s"
        found = subprocess.run(
            command(run), env=environment, capture_output=True, text=True, timeout=300
        )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    report = json.loads((run / "report.json").read_text())
    assert report["practice_episodes"] == 10
    assert report["demo_episodes"] >= 8  # a demonstration that was cut is kept, and driven again
    assert report["repetition"]["same_decisions"] == 4


def _wait_for(process: subprocess.Popen[bytes], log: Path, pattern: str) -> None:
    end = time.monotonic() + 200.0
    while not re.search(pattern, log.read_text()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
