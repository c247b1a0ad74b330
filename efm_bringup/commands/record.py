"""`efm record`: have a running fleet record a number of episodes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efm_core.plan import EpisodePlan


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--fleet", type=Path, help="the running fleet's file (default: shipped)")
    parser.add_argument("--episodes", type=int, default=20, help="over all robots")
    parser.add_argument(
        "--mode", choices=("demo", "practice", "evaluation", "calibration"), default="demo",
        help="demo: people or demonstrators drive; the others: the policy does",
    )  # fmt: skip
    parser.add_argument("--data-set", help="folder below the fleet's data_dir (default: the mode)")
    parser.add_argument("--plan", help="name of the list; the same name again goes on with it")
    parser.add_argument("--instruction", help="what to do (default: drawn by robot or manager)")
    parser.add_argument("--seed", type=int, default=0, help="of start scenes and action draws")
    parser.add_argument("--limit", type=int, default=150, help="control ticks per episode")
    parser.add_argument("--policy", default="", help="version (default: the champion)")
    parser.add_argument("--reward", default="", help="version (default: the champion's)")
    parser.add_argument("--temperature", type=float, default=0.5, help="of the policy")
    parser.add_argument("--patience", type=float, default=600.0, help="s without a saved episode")


def run(args: argparse.Namespace) -> int:
    """Publish the plan and wait until it is done; 2 when nothing moves any more."""
    import os

    if "ROS_DOMAIN_ID" not in os.environ:
        raise ValueError(
            "ROS_DOMAIN_ID is not set: `source runs/<name>/ros.env` of the running fleet first"
        )
    from efm_bringup.installed import share
    from efm_bringup.plan_client import FleetProgress, PlanClient
    from efm_bringup.progress_line import ProgressLine
    from efm_core.fleet import load_fleet

    fleet = load_fleet(args.fleet or share("config/fleet.yaml"))
    robots = [robot.name for robot in fleet.robots]
    plan = _plan(args, robots)
    line = ProgressLine(f"{plan.plan_id}: episode")

    def idle(progress: FleetProgress) -> None:
        note = "; ".join(f"{robot} needs help: {why}" for robot, why in progress.needs_help.items())
        line.show(progress.done, progress.total, note)

    with PlanClient(robots) as client:
        end = client.run(plan, idle, args.patience)
    line.show(end.done, end.total)
    print(f"saved below {fleet.data_dir / plan.data_set}")
    return 0


def _plan(args: argparse.Namespace, robots: list[str]) -> EpisodePlan:
    from efm_bringup.plans import scene_seed, shared_out
    from efm_core.episode import Mode
    from efm_core.plan import EpisodePlan, PlannedEpisode

    evaluation = args.mode == "evaluation"
    episodes = [
        PlannedEpisode(
            index=i,
            instruction=args.instruction,
            scene={"seed": scene_seed(args.seed, args.mode, i)},
            limit=args.limit,
            split="none" if evaluation else "train",
        )
        for i in range(args.episodes)
    ]
    return EpisodePlan(
        plan_id=args.plan or f"{args.mode}-{args.seed}-{args.episodes}",
        mode=Mode(args.mode),
        policy_version=args.policy,
        reward_version=args.reward,
        temperature=args.temperature,
        seed=args.seed,
        end_on_success=not evaluation,
        data_set=args.data_set or args.mode,
        episodes=shared_out(episodes, robots),
    )
