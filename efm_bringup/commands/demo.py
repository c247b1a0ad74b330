"""`efm demo`: the whole loop on a simulated fleet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--fleet", type=Path, help="fleet of simulated robots (default: shipped)")
    parser.add_argument("--fresh", action="store_true", help="delete what is there and begin anew")
    parser.add_argument("--demonstrations", type=int, default=80, help="to learn from")
    parser.add_argument("--validation", type=int, default=16, help="to choose the best step by")
    parser.add_argument("--sft-steps", type=int, default=2000, help="of the fine-tuning")
    parser.add_argument("--calibration", type=int, default=48, help="labelled, for the detector")
    parser.add_argument("--rounds", type=int, default=12, help="of practice")
    parser.add_argument("--episodes-per-round", type=int, default=48, help="over all robots")
    parser.add_argument("--evaluation", type=int, default=200, help="start states per policy")
    parser.add_argument("--repeated", type=int, default=20, help="of them again over ROS 2")
    parser.add_argument("--limit", type=int, default=60, help="control ticks per episode")
    parser.add_argument("--weights", default="", help="backbone's folder (default: shipped)")


def run(args: argparse.Namespace) -> int:
    """Run or take up the demo; 130 when interrupted."""
    from efm_bringup.demo import begin_anew, run_demo
    from efm_bringup.demo_state import DemoSettings
    from efm_bringup.installed import share
    from efm_bringup.step import StepFailedError

    settings = DemoSettings(**{name: getattr(args, name) for name in DemoSettings.model_fields})
    if args.fresh:
        begin_anew(args.run_dir)
    try:
        report = run_demo(settings, args.run_dir, args.fleet or share("config/fleet.yaml"))
    except KeyboardInterrupt:
        print(f"\ninterrupted; run it again to go on (state in {args.run_dir})", file=sys.stderr)
        return INTERRUPTED
    except StepFailedError as error:
        print(f"efm demo: {error}; run it again to go on", file=sys.stderr)
        return 1
    print(f"report: {report}")
    return 0
