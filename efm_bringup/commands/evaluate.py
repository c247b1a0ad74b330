"""`efm evaluate`: success on fixed start states, by the simulator's truth."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--fleet", type=Path, help="simulated fleet (default: the shipped one)")
    parser.add_argument("--policy", default="champion", help="version or alias")
    parser.add_argument("--reward", default="", help="version (default: the policy's)")
    parser.add_argument("--episodes", type=int, default=200, help="start states")
    parser.add_argument("--seed", type=int, default=0, help="of start states and action draws")
    parser.add_argument("--limit", type=int, default=40, help="control ticks per episode")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--data-set", default="evaluation", help="folder below the data_dir")
    parser.add_argument("--result", type=Path, help="write the figures to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Roll out, record every episode, print success with its interval."""
    from efm_bringup.installed import share
    from efm_bringup.plans import scene_seed
    from efm_bringup.progress_line import ProgressLine
    from efm_bringup.rollouts import drop_plan, in_process, load_engine
    from efm_core.checkpoint import verify_checkpoint
    from efm_core.fleet import load_fleet
    from efm_core.registry import Registry
    from efm_trainer.evaluate import evaluate, evaluation_plan

    fleet = load_fleet(args.fleet or share("config/fleet.yaml"))
    registry = Registry(fleet.models_dir)
    policy = registry.resolve(args.policy)
    reward = args.reward or verify_checkpoint(registry.path(policy)).reward_version
    if not reward:
        raise ValueError(f"version '{policy}' names no reward version; give one with --reward")
    seeds = [scene_seed(args.seed, "evaluation", i) for i in range(args.episodes)]
    plan = evaluation_plan(
        f"evaluation-{policy}", seeds, policy, reward, args.limit, args.temperature, args.seed,
        [robot.name for robot in fleet.robots], args.data_set,
    )  # fmt: skip
    drop_plan(fleet.data_dir / args.data_set, plan.plan_id)
    line = ProgressLine(f"  evaluating {policy}: episode")
    done = 0

    def finished(_: object) -> None:
        nonlocal done
        done += 1
        line.show(done, len(seeds))

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
    if args.result:
        figures = {
            **summary, "policy": policy, "reward": reward, "detector": detector,
            "outcomes": [bool(outcome) for outcome in found.successes],
        }  # fmt: skip
        args.result.write_text(json.dumps(figures, indent=1) + "\n")
    return 0
