"""The `efm` command: one parser, one place where errors become one line and an exit status.

Exit status: 0 done, 1 the check asked for found something wrong, 2 bad input (one line says what
and how to mend it), 3 done but something was skipped, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

BAD_INPUT = 2
INTERRUPTED = 130

COMMANDS = {
    "demo": "the whole loop on a simulated fleet, ends with a report",
    "demos": "the demo over many seeds, for the record",
    "fleet": "start a fleet's processes and keep them running",
    "record": "record a number of episodes on a running fleet",
    "teleop": "drive a robot by joystick or keyboard, take over, label takes",
    "train": "sft: learn from demonstrations; self-improve: practise; improve-offline: from bags",
    "evaluate": "success of a policy on fixed start states, by the simulator's truth",
    "calibrate": "fit the success detector's threshold on labelled episodes",
    "bags": "info, check, recover: look at recorded episodes; cut: make some of other recordings",
    "models": "list, promote, rollback: versions of a model",
    "report": "write report.html from a run's figures",
    "monitor": "write the configurations with which RViz and Foxglove show a fleet",
    "doctor": "say what is missing or wrong on this machine and how to mend it",
    "pretrain": "make the small backbone's weights from rendered scenes",
    "bench": "measure one part of the suite",
    "faults": "break one part of a simulated fleet in mid-episode and count what holds",
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser; options of one command only when `command` names it (imports stay few)."""
    parser = argparse.ArgumentParser(
        prog="efm", description="Self-improving embodied foundation models on ROS 2."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--verbose", "-v", action="store_true", help="log debug messages")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        added = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        if command in (None, name):
            module = importlib.import_module(f"efm_bringup.commands.{name}")
            module.configure(added)
            added.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), "")
    parser = build_parser(command)
    args = parser.parse_args(arguments)
    if args.version:
        print(_version())
        return 0
    if args.command is None:
        parser.print_help()
        return BAD_INPUT
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO,
        format="%(message)s" if not args.verbose else "%(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Small matrices: more threads only get in each other's way, and exact resume needs a fixed
    # number. Before numpy and torch are loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        return int(args.run(args) or 0)
    except KeyboardInterrupt:
        print("efm: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `efm bags info ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_INPUT
    except (ValueError, OSError) as error:
        if args.verbose:
            raise
        print(f"efm {args.command}: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT


def one_line(error: Exception) -> str:
    """An error as one line; a pydantic ValidationError as `field: message` pairs."""
    details = getattr(error, "errors", None)
    if callable(details):
        parts = [
            f"{'.'.join(map(str, detail['loc'])) or 'input'}: "
            f"{detail['msg'].removeprefix('Value error, ')}"
            for detail in details()
        ]
        return "; ".join(parts)
    return " ".join(str(error).split()) or type(error).__name__


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"efm {version('efm_bringup')}"
    except PackageNotFoundError:
        return "efm (not installed: run `make venv`)"


if __name__ == "__main__":
    sys.exit(main())
