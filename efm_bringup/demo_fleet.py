"""The demo's fleet: its description below the run folder, and parts of it running."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from efm_bringup.bring_up import WITHOUT_MODELS
from efm_bringup.plan_client import FleetProgress, PlanClient
from efm_bringup.progress_line import ProgressLine
from efm_bringup.runner import Runner
from efm_bringup.signals import StopSignal
from efm_bringup.trainer_client import TrainerClient
from efm_core.fleet import FleetDescription, load_fleet, save_fleet
from efm_core.fleet_processes import processes
from efm_core.plan import EpisodePlan

FLEET_FILE = "fleet.yaml"
DEMONSTRATING = frozenset({"efm_fleet", "efm_sim_robot", "efm_guard", "efm_episode_manager",
                           "efm_demonstrator"})  # fmt: skip
"""Executables that demonstrations need: no network runs."""
DRIVEN = (DEMONSTRATING - {"efm_demonstrator"}) | {"efm_inference"}
"""Executables that episodes under a policy need."""


def demo_fleet(template: Path, run_dir: Path) -> FleetDescription:
    """The fleet of `template` with data, models and trainer of this run; written to the run.

    Raises FleetError, also for a robot that can't demonstrate or isn't simulated.
    """
    fleet = load_fleet(template)
    for robot in fleet.robots:
        if robot.kind != "sim" or not robot.demonstrator:
            raise ValueError(
                f"{template}: robot '{robot.name}' needs kind: sim and demonstrator: true for the "
                "demo; use `efm fleet`, `efm record` and `efm train` with real robots"
            )
    own = {
        "data_dir": (run_dir / "data").absolute(),
        "models_dir": (run_dir / "models").absolute(),
        "trainer": True,
    }
    return save_fleet(fleet.model_copy(update=own), run_dir / FLEET_FILE)


@contextmanager
def running(
    fleet: FleetDescription,
    executables: Collection[str],
    run_dir: Path,
    environment: Mapping[str, str],
) -> Iterator[Runner]:
    """Those processes of the fleet whose executable is among `executables`, until the end."""
    specs = [spec for spec in processes(fleet, run_dir) if spec.executable in executables]
    if "efm_inference" not in executables:
        roles = ("-p", f"roles:={json.dumps(WITHOUT_MODELS)}")
        specs = [replace(s, args=s.args + roles) if s.name == "fleet" else s for s in specs]
    with Runner(specs, run_dir, environment) as runner:
        yield runner


def run_plan(fleet: FleetDescription, plan: EpisodePlan, runner: Runner, stop: StopSignal) -> None:
    """Give the running fleet `plan` and wait until every episode is saved.

    Raises KeyboardInterrupt when `stop` was received, TimeoutError when nothing moves any more,
    ValueError when a process refused its input.
    """
    line = ProgressLine(f"  {plan.plan_id}: episode")

    def idle(progress: FleetProgress) -> None:
        _look_after(runner, stop)
        note = "; ".join(f"{robot} needs help: {why}" for robot, why in progress.needs_help.items())
        line.show(progress.done, progress.total, note)

    with PlanClient([robot.name for robot in fleet.robots]) as client:
        end = client.run(plan, idle)
    line.show(end.done, end.total)


def run_practice(
    fleet: FleetDescription, job: Mapping[str, Any], runner: Runner, stop: StopSignal
) -> None:
    """Have the running fleet's trainer carry out an ImproveJob (its JSON fields) to the end.

    Raises as `run_plan` does.
    """
    each = int(job["episodes_per_round"])
    total = each * int(job["rounds"])
    line = ProgressLine("  practice: episode")

    def idle(status: dict[str, str]) -> None:
        _look_after(runner, stop)
        if status.get("state") == "improve":
            done = client.episodes_saved(str(job["name"]), each)
            line.show(min(done, total - 1), total, status.get("version", ""))

    with TrainerClient([robot.name for robot in fleet.robots]) as client:
        client.improve(job, idle)
    line.show(total, total)


def _look_after(runner: Runner, stop: StopSignal) -> None:
    if stop.received:
        raise KeyboardInterrupt
    runner.poll()
    if runner.refused:
        name = runner.refused[0]
        raise ValueError(f"{name} refused its input; see {runner.log_path(name)}")
