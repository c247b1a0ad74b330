"""`efm train sft` and `efm train self-improve`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efm_core.fleet import FleetDescription
    from efm_core.plan import EpisodePlan
    from efm_trainer.episode_data import EpisodeData
    from efm_trainer.progress import Progress

INTERRUPTED, SKIPPED = 130, 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    sft = actions.add_parser("sft", help="learn from demonstrations: next action, steps-to-go")
    sft.add_argument("--steps", type=int, help="optimiser steps (default: the trainer's)")
    sft.add_argument("--weights", type=Path, help="backbone weights (default: the shipped ones)")
    improve = actions.add_parser("self-improve", help="practise on simulated robots and improve")
    improve.add_argument("--policy", required=True, help="version or alias to start from")
    improve.add_argument("--reward", required=True, help="calibrated reward version")
    improve.add_argument("--rounds", type=int, default=24)
    improve.add_argument("--episodes", type=int, default=48, help="per round, over all robots")
    improve.add_argument("--limit", type=int, default=60, help="control ticks per episode")
    improve.add_argument("--temperature", type=float, default=1.0)
    improve.add_argument(
        "--algorithm", choices=("reinforce", "reinforce_baseline", "clipped_ratio"),
        help="reinforce is the paper's form (default: the trainer's)",
    )  # fmt: skip
    improve.add_argument(
        "--running", action="store_true",
        help="let the running fleet practise (ROS_DOMAIN_ID) instead of worlds in this process",
    )  # fmt: skip
    for action, data_set in ((sft, "demo"), (improve, "practice")):
        action.add_argument("--fleet", type=Path, help="fleet description (default: shipped)")
        action.add_argument("--data-set", default=data_set, help="folder below the data_dir")
        action.add_argument("--run-dir", type=Path, default=Path("runs/train"), help="resumable")
        action.add_argument("--name", default=data_set.replace("demo", "sft"), help="of versions")
        action.add_argument("--seed", type=int, default=0)
        action.add_argument("--result", type=Path, help="write the figures to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Carry out one stage; 3 when episodes were skipped, 130 when interrupted."""
    from efm_bringup.installed import share
    from efm_bringup.signals import StopSignal
    from efm_core.fleet import load_fleet
    from efm_trainer.progress import TrainingCancelledError

    fleet = load_fleet(args.fleet or share("config/fleet.yaml"))
    with StopSignal() as stop:
        try:
            work = _fine_tune if args.action == "sft" else _improve
            figures = work(args, fleet, lambda: stop.received)
        except TrainingCancelledError as error:
            print(f"  {error}; the same command goes on with it")
            return INTERRUPTED
    if args.result:
        args.result.write_text(json.dumps(figures, indent=1) + "\n")
    for reason in figures.get("skipped", []):
        print(f"  skipped {reason}")
    return SKIPPED if figures.get("skipped") else 0


def _fine_tune(args: argparse.Namespace, fleet: FleetDescription, cancelled: Any) -> dict[str, Any]:
    from efm_bringup.workplace import workplace
    from efm_trainer.jobs import SftJob, fine_tune_job
    from efm_trainer.sft_config import SftConfig

    _one_thread()
    given = {} if args.steps is None else {"steps": args.steps}
    job = SftJob(
        data_set=args.data_set, name=args.name, weights=args.weights,
        config=SftConfig(seed=args.seed, **given),
    )  # fmt: skip
    place = workplace(fleet, args.run_dir)
    figures = fine_tune_job(place, job, _teller("fine-tuning"), cancelled)
    if place.registry.alias("champion") is None:
        place.registry.promote(figures["policy"], "champion")
    losses = ", ".join(f"{role} {loss:.3f}" for role, loss in figures["losses"].items())
    print(
        f"  {figures['policy']} and {figures['reward']} from {figures['train_episodes']} episodes; "
        f"validation loss in nats: {losses}"
    )
    return figures


def _improve(args: argparse.Namespace, fleet: FleetDescription, cancelled: Any) -> dict[str, Any]:
    from efm_core.registry import Registry

    policy = Registry(fleet.models_dir).resolve(args.policy)
    fields: dict[str, Any] = {
        "policy": policy, "reward": args.reward, "name": args.name, "data_set": args.data_set,
        "rounds": args.rounds, "episodes_per_round": args.episodes, "limit": args.limit,
        "seed": args.seed, "temperature": args.temperature,
    }  # fmt: skip
    if args.algorithm:
        from efm_trainer.improve import ImproveSettings

        fields["improve"] = ImproveSettings.named(args.algorithm).model_dump()
    if args.running:
        return _improve_running(fleet, fields, args.run_dir)
    from efm_bringup.workplace import workplace
    from efm_trainer.jobs import ImproveJob, improve_job

    _one_thread()
    robots = tuple(robot.name for robot in fleet.robots)
    place = workplace(fleet, args.run_dir)

    def collect(plan: EpisodePlan) -> Sequence[EpisodeData]:
        return _practise_here(fleet, plan, place.camera_names)

    job = ImproveJob.model_validate(fields)
    figures = improve_job(place, job, robots, collect, _teller("practice"), cancelled)
    print(f"  {figures['policy']} after {figures['rounds_done']} rounds")
    return figures


def _improve_running(
    fleet: FleetDescription, fields: dict[str, Any], run_dir: Path
) -> dict[str, Any]:
    from efm_bringup.trainer_client import TrainerClient

    line = _round_line(fields["rounds"])
    with TrainerClient() as client:
        client.improve(fields, line)
        version = client.status["version"]
    print(f"  {version}; figures in the fleet's run folder, {fields['name']}/result.json")
    return {"policy": version, "reward": fields["reward"]}


def _practise_here(
    fleet: FleetDescription, plan: EpisodePlan, cameras: tuple[str, ...]
) -> Sequence[EpisodeData]:
    """One round in this process, through the same bags as over ROS."""
    from efm_bringup.rollouts import drop_plan, in_process, load_engine
    from efm_trainer.improve_run import saved_episodes

    data_set = fleet.data_dir / plan.data_set
    drop_plan(data_set, plan.plan_id)
    engine = load_engine(fleet, plan.policy_version, plan.reward_version)
    with in_process(fleet) as robots:
        robots.practise(plan, engine)
    episodes, skipped = saved_episodes(data_set, plan, cameras)
    for entry in skipped:
        print(f"  skipped {entry.path}: {entry.reason}")
    return episodes


def _teller(title: str) -> Any:
    from efm_bringup.progress_line import ProgressLine

    line = ProgressLine(f"  {title}: percent")

    def tell(progress: Progress, version: str) -> None:
        line.show(round(100 * progress.done), 100, version)

    return tell


def _round_line(rounds: int) -> Any:
    from efm_bringup.progress_line import ProgressLine

    line = ProgressLine("  practice: round")

    def show(status: dict[str, str]) -> None:
        if status.get("progress"):
            line.show(round(float(status["progress"]) * rounds), rounds, status.get("version", ""))

    return show


def _one_thread() -> None:
    # Exact resume needs a fixed number, and two threads are slower on a shared machine.
    import torch

    torch.set_num_threads(1)
