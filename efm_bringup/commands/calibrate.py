"""`efm calibrate`: fit the success detector on labelled episodes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efm_core.fleet import FleetDescription
    from efm_core.plan import EpisodePlan
    from efm_trainer.calibrate import Calibration


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--fleet", type=Path, help="fleet description (default: the shipped one)")
    parser.add_argument("--reward", required=True, help="reward version to calibrate")
    parser.add_argument("--policy", help="roll it out first, an oracle labels (simulated fleets)")
    parser.add_argument("--episodes", type=int, default=96, help="to roll out and label")
    parser.add_argument("--limit", type=int, default=60, help="control ticks per episode")
    parser.add_argument("--temperature", type=float, default=0.8, help="of the roll-outs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-set", default="calibration", help="labelled episodes")
    parser.add_argument("--precision", type=float, default=0.9, help="wanted at least")
    parser.add_argument(
        "--keep-default", action="store_true",
        help="with too few labels of a kind keep the default detector instead of failing",
    )  # fmt: skip
    parser.add_argument("--result", type=Path, help="write the figures to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Make a calibrated reward version, print precision and recall; 3 when bags were skipped."""
    from efm_bringup.installed import share
    from efm_core.fleet import load_fleet
    from efm_core.registry import Registry
    from efm_trainer.calibrate import CalibrationConfig, TooFewLabelsError
    from efm_trainer.calibrate_run import run_calibration

    fleet = load_fleet(args.fleet or share("config/fleet.yaml"))
    if args.policy:
        _roll_out(args, fleet)
    try:
        version, found, skipped = run_calibration(
            Registry(fleet.models_dir), fleet.data_dir / args.data_set, args.reward,
            CalibrationConfig(precision=args.precision),
            cameras=tuple(camera.name for camera in fleet.robots[0].cameras),
        )  # fmt: skip
    except TooFewLabelsError as error:
        if not args.keep_default:
            raise
        print(f"  NOT CALIBRATED, default detector: {error}")
        _write(args, _uncalibrated(args))
        return 0
    print(f"  {version}: {_sentence(found)}")
    for entry in skipped:
        print(f"  skipped {entry.path}: {entry.reason}")
    _write(args, _figures(args, version, found))
    return 3 if skipped else 0


def _sentence(found: Calibration) -> str:
    quality, settings = found.quality, found.settings
    return (
        f"d <= {settings.threshold:g} steps for {settings.hold} ticks; precision "
        f"{quality.precision:.2f} {_interval(quality.precision_interval)}, recall "
        f"{quality.recall:.2f} {_interval(quality.recall_interval)} on {len(found.episode_ids)} "
        f"labelled episodes{'' if found.reached else '; the WANTED PRECISION WAS NOT REACHED'}"
    )


def _figures(args: argparse.Namespace, version: str, found: Calibration) -> dict[str, Any]:
    quality = found.quality
    return {
        "policy": args.policy or "", "reward": version, "precision": quality.precision,
        "recall": quality.recall, "precision_interval": list(quality.precision_interval),
        "recall_interval": list(quality.recall_interval), "reached": found.reached,
        "settings": found.settings.model_dump(), "labels": len(found.episode_ids),
    }  # fmt: skip


def _uncalibrated(args: argparse.Namespace) -> dict[str, Any]:
    from efm_core.detector import DetectorSettings

    return {
        "policy": args.policy or "", "reward": args.reward, "precision": 0.0, "recall": 0.0,
        "precision_interval": [0.0, 1.0], "recall_interval": [0.0, 1.0], "reached": False,
        "settings": DetectorSettings().model_dump(), "labels": args.episodes,
    }  # fmt: skip


def _write(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    if args.result:
        args.result.write_text(json.dumps(figures, indent=1) + "\n")


def _roll_out(args: argparse.Namespace, fleet: FleetDescription) -> None:
    from efm_bringup.progress_line import ProgressLine
    from efm_bringup.rollouts import drop_plan, in_process, load_engine

    plan = _plan(args, [robot.name for robot in fleet.robots])
    drop_plan(fleet.data_dir / args.data_set, plan)
    line = ProgressLine("  calibration: episode")
    done = 0

    def finished(_: object) -> None:
        nonlocal done
        done += 1
        line.show(done, args.episodes)

    engine = load_engine(fleet, args.policy, args.reward)
    with in_process(fleet) as robots:
        robots.practise(plan, engine, oracle=True, on_finished=finished)


def _plan(args: argparse.Namespace, robots: list[str]) -> EpisodePlan:
    from efm_bringup.plans import scene_seed, shared_out
    from efm_core.episode import Mode
    from efm_core.plan import EpisodePlan, PlannedEpisode

    episodes = [
        PlannedEpisode(
            index=i, scene={"seed": scene_seed(args.seed, "calibration", i)}, limit=args.limit,
            split="none",
        )
        for i in range(args.episodes)
    ]  # fmt: skip
    return EpisodePlan(
        plan_id=f"calibration-{args.policy}-{args.seed}", mode=Mode.CALIBRATION,
        policy_version=args.policy, reward_version=args.reward, temperature=args.temperature,
        seed=args.seed, end_on_success=False, data_set=args.data_set,
        episodes=shared_out(episodes, robots),
    )  # fmt: skip


def _interval(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:.2f}, {bounds[1]:.2f}]"
