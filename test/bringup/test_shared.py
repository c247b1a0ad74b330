"""Robots that share processes: the same episodes, and all of them come back when one is killed."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")
pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from efm_bringup.bench import material
from efm_bringup.bench.fleet_run import run_fleet
from efm_bringup.plan_client import FleetProgress
from efm_core.episode import Mode, Outcome

TICKS = 25
EACH = 3


def test_episodes_of_two_robots_whose_managers_are_killed(tmp_path: Path) -> None:
    fleet = material.bench_fleet(tmp_path, 2, shared=("sim", "guard", "manager"))
    material.write_checkpoints(fleet, seed=0)
    robots = [robot.name for robot in fleet.robots]
    plan = material.plan(Mode.PRACTICE, robots, EACH, TICKS, seed=0)
    killed: list[int] = []

    def watch(progress: FleetProgress) -> None:
        if progress.done >= 1 and not killed:
            pids = json.loads((tmp_path / "run" / "pids.json").read_text())
            assert set(pids) == {"fleet", "sims", "guards", "managers", "inference"}
            killed.append(pids["managers"])
            os.kill(pids["managers"], signal.SIGKILL)

    run = run_fleet(fleet, plan, tmp_path / "run", watch)
    assert (len(killed), run.restarts) == (1, 1)
    assert Counter(record.robot for record in run.records) == dict.fromkeys(robots, EACH)
    cut = [record for record in run.records if record.recovered]
    assert Counter(record.robot for record in cut) <= Counter(robots)
    for record in run.records:  # one that had ended when its manager died keeps its outcome
        whole = record.ticks == TICKS and record.outcome is not Outcome.INTERRUPTED
        assert whole or (record.recovered and record.outcome is Outcome.INTERRUPTED)
