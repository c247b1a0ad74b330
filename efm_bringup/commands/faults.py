"""`efm faults`: break one part of a simulated fleet in mid-episode, again and again, and count."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efm_bringup.faults.causes import KILLED, OTHERS

if TYPE_CHECKING:
    from efm_bringup.faults.results import Round, Trial
    from efm_bringup.faults.series import Series


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    about = [f"{c.name}: {c.about}" for c in KILLED.values()]
    about += [f"{name}: {text}" for name, text in OTHERS.items()]
    parser.add_argument(
        "cause", choices=("all", *KILLED, *OTHERS), help=f"what to break; {'; '.join(about)}"
    )
    parser.add_argument("--rounds", type=int, default=20, help="rounds of every trial")
    parser.add_argument("--stops", type=int, help="rounds of stop (default: as --rounds)")
    parser.add_argument("--writes", type=int, help="rounds of writer (default: as --rounds)")
    parser.add_argument("--resets", type=int, help="rounds of resets (default: as --rounds)")
    parser.add_argument("--clock", choices=("real", "lockstep", "both"), default="real")
    parser.add_argument(
        "--signal", choices=("KILL", "STOP"), default="KILL",
        help="KILL: the process dies; STOP: it hangs for 3 s",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--fleet", type=Path, help="its first robot is used (default: shipped)")
    parser.add_argument(
        "--run-dir", type=Path, default=Path("runs/faults"),
        help="rounds, logs and episodes; running again goes on",
    )  # fmt: skip
    parser.add_argument(
        "--docs", type=Path, help="write faults/*.json and faults.md with the table below this"
    )


def run(args: argparse.Namespace) -> int:
    """Run what is missing and print the table; 1 when a round did not pass."""
    from efm_bringup.faults.results import of_trial
    from efm_bringup.faults.series import Series, trials
    from efm_bringup.installed import share
    from efm_bringup.signals import StopSignal

    if not args.verbose:  # every round recovers something, and says so
        logging.getLogger("efm_core.bags").setLevel(logging.ERROR)
    template = args.fleet or share("config/fleet.yaml")
    wanted = trials(args.cause, args.clock, args.signal)
    rounds = {trial.cause: args.rounds for trial in wanted}
    rounds |= {"stop": args.stops or args.rounds, "writer": args.writes or args.rounds}
    rounds["resets"] = args.resets or args.rounds
    if args.cause == "all":
        rounds["endurance"] = 1  # of ten minutes
    with StopSignal() as stop, Series(template, args.run_dir, args.seed, stop) as series:
        _run_missing(series, wanted, rounds)
    everything = series.log.read()
    summaries = [
        _summary(trial, of_trial(everything, trial, args.seed), args.seed) for trial in wanted
    ]
    _report(summaries, args.docs)
    return int(any(s["passed"] < s["rounds"] for s in summaries))


def _run_missing(series: Series, wanted: Sequence[Trial], rounds: dict[str, int]) -> None:
    from efm_bringup.progress_line import ProgressLine

    left = series.missing(wanted, rounds)
    total = sum(rounds[trial.cause] for trial in wanted)
    line = ProgressLine("round")
    done = total - len(left)
    line.show(done, total, f"in {series.folder}")
    for finished in series.run(left):
        done += 1
        _say(finished)
        line.show(done, total, finished.trial.name)


def _say(done: Round) -> None:
    for problem in done.problems:
        print(f"{done.trial.name} {done.number}: {problem}", file=sys.stderr, flush=True)


def _summary(trial: Trial, rounds: Sequence[Round], seed: int) -> dict[str, Any]:
    from efm_bringup.faults.results import summary

    words = ["efm", "faults", trial.cause, "--rounds", str(len(rounds)), "--seed", str(seed)]
    if trial.cause in KILLED:
        words += ["--clock", trial.clock, "--signal", trial.signal]
    elif trial.cause in ("stop", "resets"):
        words += ["--clock", trial.clock]
    return summary(trial, rounds, shlex.join(words))


def _report(summaries: Sequence[dict[str, Any]], docs: Path | None) -> None:
    from efm_bringup.faults.results import Trial, table, write_table

    print(table(summaries), end="")
    for found in summaries:
        for problem, count in found["problems"].items():
            name = Trial(found["cause"], found["clock"], found["signal"]).name
            print(f"{name}: {count} times: {problem}")
    if docs is None:
        return
    (docs / "faults").mkdir(parents=True, exist_ok=True)
    for found in summaries:
        name = Trial(found["cause"], found["clock"], found["signal"]).name
        (docs / "faults" / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    write_table(docs)
