"""`efm doctor`: what is missing or wrong, and how to mend it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

_MARKS = {"ok": "ok     ", "warning": "WARNING", "error": "ERROR  "}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--fleet", type=Path, help="fleet file to check (default: the shipped one)")
    parser.add_argument("--json", action="store_true", help="print findings as JSON lines")
    parser.add_argument(
        "--parameters", action="store_true", help="print every node's parameters as a page instead"
    )


def run(args: argparse.Namespace) -> int:
    """Print every finding with its remedy; 1 when an error was found."""
    if args.parameters:
        from efm_bringup.parameter_page import page

        print(page(), end="")
        return 0
    from efm_bringup import doctor
    from efm_bringup.installed import share

    errors = 0
    for finding in doctor.examine(args.fleet or share("config/fleet.yaml")):
        errors += finding.level == "error"
        if args.json:
            print(json.dumps(asdict(finding)), flush=True)
            continue
        print(f"{_MARKS[finding.level]} {finding.subject}: {finding.text}", flush=True)
        if finding.remedy:
            print(f"        -> {finding.remedy}", flush=True)
    if not args.json:
        print("nothing is missing" if not errors else f"{errors} to mend")
    return 1 if errors else 0
