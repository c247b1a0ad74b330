"""`efm bench`: measure one part of the suite."""

from __future__ import annotations

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("what", choices=sorted(_BENCHES), help="the part to measure")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print name and value."""
    figures = _BENCHES[args.what]()
    if args.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        print(f"{name:36} {value:12.4g}")
    return 0


def _simulator() -> dict[str, float]:
    from efm_sim.bench import measure_all

    return measure_all()


_BENCHES = {"simulator": _simulator}
