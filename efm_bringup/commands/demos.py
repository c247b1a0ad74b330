"""`efm demos`: the demo over many seeds, for the record."""

from __future__ import annotations

import argparse
from pathlib import Path

INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--seeds", default="0-9", help="for example 0-9 or 1,4,7 (default: 0-9)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="run folders' parent")
    parser.add_argument("--record", type=Path, default=Path("docs/record"), help="small files")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))


def run(args: argparse.Namespace) -> int:
    """Run what has no record yet, one after the other; 130 when interrupted."""
    import os

    from efm_bringup.demo_record import keep, page, read_record
    from efm_bringup.signals import StopSignal
    from efm_bringup.step import run_step

    try:
        with StopSignal() as stop:
            for seed in _seeds(args.seeds):
                if not (args.record / f"seed{seed}.json").exists():
                    folder = args.runs / f"seed{seed}"
                    command = ["demo", "--seed", str(seed), "--run-dir", str(folder)]
                    run_step(command, dict(os.environ), stop)
                    print(f"kept {keep(folder, args.record)}", flush=True)
                args.page.write_text(page(read_record(args.record)))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on")
        return INTERRUPTED
    print(f"page: {args.page}")
    return 0


def _seeds(text: str) -> list[int]:
    """"0-2,7" -> [0, 1, 2, 7]. Raises ValueError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            seeds += range(int(first), int(last or first) + 1)
        except ValueError as error:
            raise ValueError(f"--seeds {text!r}: write numbers and ranges like 0-2,7") from error
    return seeds
