"""The whole loop on a simulated fleet: demonstrations, fine-tuning, practice, evaluation, report.

A recipe of phases; each is skipped when the run folder says it is complete, and takes up its own
work where it was cut otherwise.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efm_bringup.demo_fleet import (
    DEMONSTRATING,
    DRIVEN,
    demo_fleet,
    run_plan,
    run_practice,
    running,
)
from efm_bringup.demo_report import write_report
from efm_bringup.demo_state import DemoLog, DemoSettings
from efm_bringup.environment import ros_environment, write_ros_env
from efm_bringup.plans import demonstration_plan, scene_seed
from efm_bringup.signals import StopSignal
from efm_bringup.step import run_step
from efm_core.episode import EpisodeRecord
from efm_core.fleet import FleetDescription
from efm_core.registry import Registry
from efm_trainer.evaluate import evaluation_plan

PRACTISING = DRIVEN | {"efm_trainer"}


@dataclass(frozen=True, slots=True)
class Demo:
    """What every phase needs."""

    settings: DemoSettings
    run_dir: Path
    fleet: FleetDescription
    environment: Mapping[str, str]
    log: DemoLog
    stop: StopSignal

    @property
    def robots(self) -> list[str]:
        """Names of the robots."""
        return [robot.name for robot in self.fleet.robots]

    def figures(self, phase: str) -> dict[str, Any]:
        """What a complete phase found."""
        return dict(self.log.state.figures[phase])

    def step(self, name: str, *arguments: str) -> dict[str, Any]:
        """Run `efm ARGUMENTS` in a process of its own and read the figures that it writes."""
        result = self.run_dir / f"{name}.json"
        run_step([*arguments, "--result", str(result)], self.environment, self.stop)
        figures: dict[str, Any] = json.loads(result.read_text())
        return figures


def run_demo(settings: DemoSettings, run_dir: Path, template: Path) -> Path:
    """Run what is left of the demo in `run_dir`; returns the report's path.

    Raises KeyboardInterrupt after SIGINT, SIGTERM or SIGHUP, when all processes have ended;
    calling it again goes on.
    """
    log = DemoLog(run_dir, settings)
    environment, lease = ros_environment()
    os.environ.update(environment)  # this process takes part in the fleet's domain too
    run_dir.mkdir(parents=True, exist_ok=True)
    write_ros_env(run_dir / "ros.env", environment)
    print(
        f"demo in {run_dir}: seed {settings.seed}, ROS_DOMAIN_ID={environment['ROS_DOMAIN_ID']}; "
        f"`source {run_dir / 'ros.env'}` to look on, Ctrl-C interrupts, running it again goes on",
        flush=True,
    )
    fleet = demo_fleet(template, run_dir)
    with StopSignal() as stop, log.running():
        demo = Demo(settings, run_dir, fleet, environment, log, stop)
        for number, (name, phase) in enumerate(PHASES.items(), 1):
            if log.done(name):
                print(f"[{number}/{len(PHASES)}] {name}: done before", flush=True)
                continue
            print(f"[{number}/{len(PHASES)}] {name}", flush=True)
            with log.timed(name):
                figures = phase(demo)
            log.finish(name, figures)
            print(f"  {name}: {log.state.seconds[name]:.0f} s", flush=True)
    if lease is not None:
        lease.close()
    return write_report(log.state, fleet, run_dir)


def begin_anew(run_dir: Path) -> None:
    """Delete a demo's folder. Raises ValueError for a folder that holds something else."""
    if not run_dir.exists():
        return
    if any(run_dir.iterdir()) and not (run_dir / "ros.env").exists():
        raise ValueError(f"{run_dir} does not look like a demo's folder; delete it by hand")
    shutil.rmtree(run_dir)


def demonstrate(demo: Demo) -> dict[str, Any]:
    """Scripted demonstrators teach the robots over ROS 2; every episode becomes a bag."""
    s = demo.settings
    plan = demonstration_plan(demo.robots, s.demonstrations, s.validation, s.seed)
    with running(demo.fleet, DEMONSTRATING, demo.run_dir, demo.environment) as runner:
        run_plan(demo.fleet, plan, runner, demo.stop)
        restarts = runner.restarts
    records = saved_records(demo.fleet.data_dir / plan.data_set)
    succeeded = sum(record.labels.truth is True for record in records)
    print(f"  {len(records)} demonstrations, {succeeded} succeeded")
    return {"episodes": len(records), "succeeded": succeeded, "restarts": restarts}


def fine_tune(demo: Demo) -> dict[str, Any]:
    """Stage 1: next action and steps-to-go from the bags."""
    weights = demo.settings.weights
    return demo.step(
        "fine_tuning", "train", "sft", "--fleet", str(demo.fleet.path), "--data-set", "demo",
        "--run-dir", str(demo.run_dir), "--seed", str(demo.settings.seed),
        "--steps", str(demo.settings.sft_steps),
        *(["--weights", weights] if weights else []),
    )  # fmt: skip


def calibrate(demo: Demo) -> dict[str, Any]:
    """Episodes of the fine-tuned policy, labelled by an oracle, set the detector's threshold."""
    sft = demo.figures("fine-tuning")
    return demo.step(
        "calibration", "calibrate", "--fleet", str(demo.fleet.path), "--policy", sft["policy"],
        "--reward", sft["reward"], "--episodes", str(demo.settings.calibration),
        "--seed", str(demo.settings.seed), "--limit", str(demo.settings.limit), "--keep-default",
    )  # fmt: skip


def practise(demo: Demo) -> dict[str, Any]:
    """Stage 2: the fleet practises by itself; the trainer improves the policy round by round."""
    s, start = demo.settings, demo.figures("calibration")
    job = {
        "name": "practice", "policy": start["policy"], "reward": start["reward"], "seed": s.seed,
        "rounds": s.rounds, "episodes_per_round": s.episodes_per_round, "limit": s.limit,
    }  # fmt: skip
    with running(demo.fleet, PRACTISING, demo.run_dir, demo.environment) as runner:
        run_practice(demo.fleet, job, runner, demo.stop)
        restarts = runner.restarts
    figures: dict[str, Any] = json.loads((demo.run_dir / "practice" / "result.json").read_text())
    return {**figures, "restarts": restarts}


def evaluate(demo: Demo) -> dict[str, Any]:
    """Both policies from the same start states, in one process, through the same bags."""
    start, end = demo.figures("calibration"), demo.figures("practice")
    found = {}
    for name, policy in (("sft", start["policy"]), ("self_improved", end["policy"])):
        found[name] = demo.step(
            f"evaluation_{name}", "evaluate", "--fleet", str(demo.fleet.path),
            "--policy", policy, "--reward", start["reward"],
            "--episodes", str(demo.settings.evaluation), "--seed", str(demo.settings.seed),
            "--limit", str(demo.settings.limit), "--data-set", f"evaluation_{name}",
        )  # fmt: skip
    if found["self_improved"]["success"] >= found["sft"]["success"]:
        Registry(demo.fleet.models_dir).promote(end["policy"])
    return found


def repeat_over_ros(demo: Demo) -> dict[str, Any]:
    """Evaluation episodes over ROS 2, then again in one process: every decision must be equal."""
    s = demo.settings
    if not s.repeated:
        return {"episodes": 0, "agreeing": 0, "same_decisions": 0}
    reward, policy = demo.figures("calibration")["reward"], demo.figures("practice")["policy"]
    seeds = [scene_seed(s.seed, "evaluation", i) for i in range(s.repeated)]
    plan = evaluation_plan(
        f"evaluation-dds-{policy}", seeds, policy, reward, s.limit, draw_seed=s.seed,
        robots=demo.robots, data_set="evaluation_dds",
    )  # fmt: skip
    with running(demo.fleet, DRIVEN, demo.run_dir, demo.environment) as runner:
        run_plan(demo.fleet, plan, runner, demo.stop)
    return demo.step(
        "repetition", "evaluate", "--fleet", str(demo.fleet.path), "--policy", policy,
        "--reward", reward, "--episodes", str(s.repeated), "--seed", str(s.seed),
        "--limit", str(s.limit), "--data-set", plan.data_set, "--repeat", plan.plan_id,
    )  # fmt: skip


def saved_records(data_set: Path) -> list[EpisodeRecord]:
    """The records of all finished episodes of a data set."""
    files = sorted(data_set.glob("*/episode.json"))
    return [
        EpisodeRecord.model_validate_json(file.read_text())
        for file in files
        if file.parent.suffix != ".partial"
    ]


PHASES: dict[str, Callable[[Demo], dict[str, Any]]] = {
    "demonstrations": demonstrate,
    "fine-tuning": fine_tune,
    "calibration": calibrate,
    "practice": practise,
    "evaluation": evaluate,
    "repetition": repeat_over_ros,
}
