"""`efm evaluate`: success on fixed start states, by the simulator's truth."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efm_core.fleet import FleetDescription
    from efm_core.plan import EpisodePlan


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--fleet", type=Path, help="simulated fleet (default: the shipped one)")
    parser.add_argument("--policy", default="champion", help="version or alias")
    parser.add_argument("--reward", default="", help="version (default: the policy's)")
    parser.add_argument("--episodes", type=int, default=200, help="start states")
    parser.add_argument("--seed", type=int, default=0, help="of start states and action draws")
    parser.add_argument("--limit", type=int, default=60, help="control ticks per episode")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--data-set", default="evaluation", help="folder below the data_dir")
    parser.add_argument(
        "--repeat",
        metavar="PLAN",
        help="run the episodes of this plan in --data-set again, and compare every decision",
    )
    parser.add_argument("--result", type=Path, help="write the figures to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Roll out, record every episode, print success with its interval."""
    from efm_bringup.installed import share
    from efm_bringup.plans import scene_seed
    from efm_core.checkpoint import verify_checkpoint
    from efm_core.fleet import load_fleet
    from efm_core.registry import Registry
    from efm_trainer.evaluate import evaluation_plan

    fleet = load_fleet(args.fleet or share("config/fleet.yaml"))
    registry = Registry(fleet.models_dir)
    policy = registry.resolve(args.policy)
    reward = args.reward or verify_checkpoint(registry.path(policy)).reward_version
    if not reward:
        raise ValueError(f"version '{policy}' names no reward version; give one with --reward")
    seeds = [scene_seed(args.seed, "evaluation", i) for i in range(args.episodes)]
    plan = evaluation_plan(
        args.repeat or f"evaluation-{policy}", seeds, policy, reward, args.limit,
        args.temperature, args.seed, [robot.name for robot in fleet.robots], args.data_set,
    )  # fmt: skip
    figures = _repeat(fleet, plan) if args.repeat else _evaluate(fleet, plan, len(seeds))
    if args.result:
        args.result.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _evaluate(fleet: FleetDescription, plan: EpisodePlan, count: int) -> dict[str, Any]:
    """Figures of `count` fresh episodes, every one recorded."""
    from efm_bringup.progress_line import ProgressLine
    from efm_bringup.rollouts import drop_plan, in_process, load_engine
    from efm_trainer.evaluate import evaluate

    policy, reward = plan.policy_version, plan.reward_version
    drop_plan(fleet.data_dir / plan.data_set, plan)
    line = ProgressLine(f"  evaluating {policy}: episode")
    done = 0

    def finished(_: object) -> None:
        nonlocal done
        done += 1
        line.show(done, count)

    with in_process(fleet) as robots:
        found = evaluate(
            robots, load_engine(fleet, policy, reward), plan, on_finished=finished
        )
    summary, detector = found.summary(), found.detector()
    low, high = summary["interval"]  # type: ignore[misc]
    print(
        f"  {policy}: {100 * summary['success']:.1f} % "
        f"[{100 * low:.1f}, {100 * high:.1f}] of {summary['episodes']} start states; by itself "
        f"{100 * summary['autonomous_success']:.1f} %; detector precision "
        f"{detector['precision']:.2f}, recall {detector['recall']:.2f}"
    )
    return {
        **summary, "policy": policy, "reward": reward, "detector": detector,
        "outcomes": [bool(outcome) for outcome in found.successes],
    }  # fmt: skip


def _repeat(fleet: FleetDescription, plan: EpisodePlan) -> dict[str, Any]:
    """How many recorded episodes decide the same at every tick when repeated in one process."""
    from efm_bringup.rollouts import in_process, load_engine
    from efm_trainer.repeat import read_recorded, repeat

    recorded = read_recorded(fleet.data_dir / plan.data_set, plan.plan_id)
    with in_process(fleet, record=False) as robots:
        engine = load_engine(fleet, plan.policy_version, plan.reward_version)
        again = repeat(robots, engine, plan, recorded)
    equal = sum(r.same for r in again)
    ended = sum(r.same_end for r in again)
    print(
        f"  {equal} of {len(again)} recorded episodes decide the same at every tick in one "
        f"process, {ended} end the same"
    )
    for repetition in again:
        if not repetition.same:
            print(f"    {repetition}")
    return {"episodes": len(again), "agreeing": ended, "same_decisions": equal}
