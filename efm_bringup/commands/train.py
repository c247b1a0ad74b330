"""`efm train sft`, `efm train self-improve` and `efm train improve-offline`."""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efm_bringup.commands import improve_offline

if TYPE_CHECKING:
    from efm_core.fleet import FleetDescription
    from efm_trainer.distributed import World
    from efm_trainer.progress import Progress

INTERRUPTED, SKIPPED, FAILED = 130, 3, 2


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    sft = actions.add_parser("sft", help="learn from demonstrations: next action, steps-to-go")
    improve = actions.add_parser("self-improve", help="practise on simulated robots and improve")
    offline = improve_offline.configure(actions)
    _sft_options(sft)
    _improve_options(improve)
    for action, data_set in ((sft, "demo"), (improve, "practice"), (offline, "practice")):
        action.add_argument("--fleet", type=Path, help="fleet description (default: shipped)")
        where = "folder below the data_dir" + (", or url (s3://...)" if action is sft else "")
        action.add_argument("--data-set", default=data_set, help=where)
        action.add_argument("--run-dir", type=Path, default=Path("runs/train"), help="resumable")
        name = "offline" if action is offline else data_set.replace("demo", "sft")
        action.add_argument("--name", default=name, help="of versions")
        action.add_argument("--seed", type=int, default=0)
        action.add_argument("--result", type=Path, help="write the figures to this JSON file")


def _sft_options(sft: argparse.ArgumentParser) -> None:
    sft.add_argument("--steps", type=int, help="optimiser steps (default: the trainer's)")
    sft.add_argument("--weights", type=Path, help="backbone weights (default: the shipped ones)")
    sft.add_argument("--backbone", help="vision-language model: hub id or directory")
    sft.add_argument("--backbone-revision", default="", help="branch, tag or commit of a hub id")
    sft.add_argument("--backbone-dtype", choices=("float32", "bfloat16", "float16"))
    sft.add_argument("--image-size", type=int, help="pixels squared handed to --backbone")
    sft.add_argument("--question", help="what --backbone is told, with {instruction} in it")
    sft.add_argument("--rows-per-pass", type=int, help="observations per pass of --backbone")
    sft.add_argument("--lora", type=int, metavar="RANK", help="train an adapter of --backbone too")
    sft.add_argument(
        "--tokens", action="store_true",
        help="with --lora: answers are tokens of the model's vocabulary (default: linear heads)",
    )  # fmt: skip
    sft.add_argument("--lora-rate", type=float, help="its learning rate (default: the trainer's)")
    sft.add_argument(
        "--activation-checkpointing", action="store_true",
        help="with --lora: less memory for a third more time",
    )  # fmt: skip
    sft.add_argument(
        "--batch", type=int, help="observations per optimiser step, over all processes; even"
    )
    sft.add_argument(
        "--peer-timeout", type=float, default=1800.0, metavar="SECONDS",
        help="several processes (torchrun): how long to wait for one that is alive",
    )  # fmt: skip
    sft.add_argument("--offline", action="store_true", help="never ask the hub for --backbone")


def _improve_options(improve: argparse.ArgumentParser) -> None:
    improve.add_argument("--policy", required=True, help="version or alias to start from")
    improve.add_argument("--reward", required=True, help="calibrated reward version")
    improve.add_argument(
        "--stop", choices=("rounds", "auto"), default="rounds",
        help="auto: end where the detector's word no longer rises (docs/training.md)",
    )  # fmt: skip
    improve.add_argument("--rounds", type=int, help="at most (default: 24, with --stop auto 48)")
    improve.add_argument("--episodes", type=int, default=48, help="per round, over all robots")
    improve.add_argument("--limit", type=int, default=60, help="control ticks per episode")
    improve.add_argument("--temperature", type=float, default=1.0)
    improve.add_argument(
        "--algorithm", choices=("reinforce", "reinforce_baseline", "clipped_ratio"),
        help="reinforce is the paper's form (default: the trainer's)",
    )  # fmt: skip
    improve.add_argument(
        "--reset-free", action="store_true",
        help="begin each episode where the last one left the blocks (docs/resets.md)",
    )  # fmt: skip
    improve.add_argument(
        "--misses", type=int, default=8,
        help="--reset-free: failures in a row after which a robot's scene is made anew; 0: never",
    )  # fmt: skip
    improve.add_argument(
        "--running", action="store_true",
        help="let the running fleet practise (ROS_DOMAIN_ID) instead of worlds in this process",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Carry out one stage; 3 when episodes were skipped, 130 when interrupted.

    One of several processes that torchrun started is done (0) where episodes were skipped: another
    status would be a failure to torchrun.
    """
    from efm_trainer.distributed import join_world
    from efm_trainer.peers import ToldElsewhereError

    if args.action != "sft":
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ValueError(f"{args.action} runs in one process; start it without torchrun")
        return _train(args)
    try:
        with join_world(patience_s=args.peer_timeout) as world:
            return _train(args, world)
    except ToldElsewhereError as error:
        logging.getLogger(__name__).debug("ended with %s", error)
        return FAILED


def _train(args: argparse.Namespace, world: World | None = None) -> int:
    from efm_bringup.installed import share
    from efm_bringup.signals import StopSignal
    from efm_core.fleet import load_fleet
    from efm_trainer.progress import TrainingCancelledError

    speaks = world is None or world.is_main
    if not speaks and not args.verbose:
        logging.getLogger().setLevel(logging.WARNING)  # the main process says the same
    fleet = load_fleet(args.fleet or share("config/fleet.yaml"))
    with StopSignal() as stop:
        try:
            if world is not None:
                figures = _fine_tune(args, fleet, lambda: stop.received, world)
            elif args.action == "improve-offline":
                _one_thread()
                figures = improve_offline.run(args, fleet, _teller("passes"), lambda: stop.received)
            else:
                figures = _improve(args, fleet, lambda: stop.received)
        except TrainingCancelledError as error:
            if speaks:
                again = "begins anew" if args.action == "improve-offline" else "goes on with it"
                print(f"  {error}; the same command {again}")
            return INTERRUPTED
    if speaks and args.result:
        args.result.write_text(json.dumps(figures, indent=1) + "\n")
    for reason in figures.get("skipped", []) if speaks else []:
        print(f"  skipped {reason}")
    alone = world is None or world.size == 1
    return SKIPPED if figures.get("skipped") and alone else 0


def _fine_tune(
    args: argparse.Namespace, fleet: FleetDescription, cancelled: Any, world: World | None = None
) -> dict[str, Any]:
    from efm_bringup.workplace import workplace
    from efm_trainer.distributed import ALONE
    from efm_trainer.jobs import SftJob, fine_tune_job
    from efm_trainer.sft_config import SftConfig

    _one_thread()
    given = {k: v for k, v in (("steps", args.steps), ("batch", args.batch)) if v is not None}
    job = SftJob(
        data_set=args.data_set, name=args.name, weights=args.weights,
        backbone=_backbone(args), lora=_lora(args), tokens=args.tokens,
        config=SftConfig(seed=args.seed, **given),
    )  # fmt: skip
    place = workplace(fleet, args.run_dir)
    world = world or ALONE
    figures = fine_tune_job(place, job, _teller("fine-tuning"), cancelled, world)
    if not world.is_main:
        return figures
    if place.registry.alias("champion") is None:
        place.registry.promote(figures["policy"], "champion")
    losses = ", ".join(f"{role} {loss:.3f}" for role, loss in figures["losses"].items())
    print(
        f"  {figures['policy']} and {figures['reward']} from {figures['train_episodes']} episodes; "
        f"validation loss in nats: {losses}"
    )
    return figures


def _backbone(args: argparse.Namespace) -> Any:
    """The vision-language model asked for, None for the small backbone."""
    given = {
        "source": args.backbone, "revision": args.backbone_revision, "dtype": args.backbone_dtype,
        "image_size": args.image_size, "question": args.question,
        "rows_per_pass": args.rows_per_pass, "local_files_only": args.offline,
    }  # fmt: skip
    if args.backbone is None:
        return None
    from efm_model.vlm_config import BackboneRequest

    return BackboneRequest.model_validate({k: v for k, v in given.items() if v is not None})


def _lora(args: argparse.Namespace) -> Any:
    """How an adapter of the vision-language model learns, None for heads alone."""
    given = {"learning_rate": args.lora_rate, "recompute": args.activation_checkpointing or None}
    given = {name: value for name, value in given.items() if value is not None}
    if args.lora is None:
        if given or args.tokens:
            raise ValueError(
                "--lora-rate, --activation-checkpointing, --tokens need an adapter; add --lora"
            )
        return None
    from efm_trainer.sft_lora import LoraTraining

    return LoraTraining.model_validate({"rank": args.lora, **given})


def _improve(args: argparse.Namespace, fleet: FleetDescription, cancelled: Any) -> dict[str, Any]:
    from efm_core.registry import Registry

    policy = Registry(fleet.models_dir).resolve(args.policy)
    fields: dict[str, Any] = {
        "policy": policy, "reward": args.reward, "name": args.name, "data_set": args.data_set,
        "rounds": args.rounds or (48 if args.stop == "auto" else 24), "stop": args.stop,
        "episodes_per_round": args.episodes, "limit": args.limit,
        "seed": args.seed, "temperature": args.temperature,
    }  # fmt: skip
    if args.reset_free:
        fields |= {"reset_free": True, "misses": args.misses}
    if args.algorithm:
        from efm_trainer.improve import ImproveSettings

        fields["improve"] = ImproveSettings.named(args.algorithm).model_dump()
    if args.running:
        return _improve_running(fleet, fields, args.run_dir)
    from efm_bringup.practice_here import PracticeHere
    from efm_bringup.workplace import workplace
    from efm_trainer.jobs import ImproveJob, improve_job

    _one_thread()
    robots = tuple(robot.name for robot in fleet.robots)
    place, job = workplace(fleet, args.run_dir), ImproveJob.model_validate(fields)
    collect = PracticeHere(fleet, place.camera_names, args.run_dir / job.name, cancelled)
    figures = improve_job(place, job, robots, collect, _teller("practice"), cancelled)
    for entry in collect.skipped:
        print(f"  skipped {entry.path}: {entry.reason}")
    print(f"  {figures['policy']} after {figures['rounds_done']} rounds")
    for why in filter(None, dict.fromkeys((figures["stop"]["reason"], figures["warning"]["text"]))):
        print(f"  {why}")
    return figures


def _improve_running(
    fleet: FleetDescription, fields: dict[str, Any], run_dir: Path
) -> dict[str, Any]:
    from efm_bringup.trainer_client import TrainerClient

    line = _round_line(fields["rounds"])
    with TrainerClient() as client:
        client.improve(fields, line)
        version, reason = client.status["version"], client.status.get("reason", "")
    if reason:
        print(f"  {reason}")
    print(f"  {version}; figures in the fleet's run folder, {fields['name']}/result.json")
    return {"policy": version, "reward": fields["reward"]}


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
