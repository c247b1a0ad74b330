"""`efm report`: write a demo's report again from what is on disk."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("run_dir", type=Path, nargs="?", default=Path("runs/demo"))


def run(args: argparse.Namespace) -> int:
    """Write the report; 2 when the run is not complete."""
    from efm_bringup.demo import PHASES
    from efm_bringup.demo_fleet import FLEET_FILE
    from efm_bringup.demo_report import write_report
    from efm_bringup.demo_state import STATE_FILE, DemoState
    from efm_core.fleet import load_fleet

    path = args.run_dir / STATE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run `efm demo` or name the run's folder")
    state = DemoState.model_validate_json(path.read_text())
    missing = [phase for phase in PHASES if phase not in state.done]
    if missing:
        raise ValueError(f"{args.run_dir}: {', '.join(missing)} not complete; run `efm demo` again")
    report = write_report(state, load_fleet(args.run_dir / FLEET_FILE), args.run_dir)
    print(f"report: {report}")
    return 0
