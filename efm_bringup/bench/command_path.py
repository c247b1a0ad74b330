"""How long a picture takes to become a command: the whole stack in real time."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efm_bringup.bench import material
from efm_bringup.bench.fleet_run import FleetRun, Watcher, run_fleet
from efm_bringup.bench.inference import answers
from efm_bringup.bench.path_ticks import Tick, read_ticks
from efm_bringup.bench.result import Figure, Finding, Settings, timed
from efm_bringup.bench.timing import Shown, Spread, alternate, spread
from efm_bringup.plan_client import FleetProgress
from efm_core.episode import Mode
from efm_core.fleet import FleetDescription

EPISODE_TICKS = 100
"""Control ticks per episode, 10 s; between episodes robots reset and recorders finish a bag."""
LOCKSTEP_TICKS = 60

MEASURED = (
    "The whole stack as processes of their own under the embedded runner, clock real: per robot a "
    "simulated robot with a 64-pixel camera at 10 Hz, a guard and an episode manager that records "
    "every topic; one inference process with policy and reward for all robots; the fleet node. "
    "Read from the recorded bags, for every picture between the first and the last one that a "
    "command answered in an episode. `path`: from the picture's stamp, taken before the robot "
    "renders it, to the receipt of its command by the recorder, nothing subtracted: rendering, "
    "transport, waiting for a batch, inference and the guard are all in it. `less the model`: "
    "minus the time of one answer of this model by itself, measured in the same run on a batch of "
    "one, so that waiting for a batch and the larger batch count into it. "
    "`to the guard's sending`: without the way from the guard to the recorder. `late`: share of "
    "pictures whose command came later than one period (100 ms) after the stamp, or never. "
    "`missed deadlines`: decisions that the policy itself reports as later than one period. "
    "Baseline of the path: the model alone on a batch of all robots, which no path can undercut."
)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One fleet size's run."""

    robots: int
    run: FleetRun
    ticks: tuple[Tick, ...]
    unanswered: int
    undecided: int
    model: Spread
    model_batch: Spread
    period: float


def measure_command_path(
    robots: Sequence[int] = (1, 4, 8),
    seconds: float = 20.0,
    lockstep: Sequence[int] = (),
    seed: int = 0,
    shown: Shown | None = None,
) -> Finding:
    """Run fleets of `robots` sizes for about `seconds` s each, in real time.

    lockstep: further fleet sizes, whose throughput in lockstep is measured. Raises ValueError
    when a run gave no tick, TimeoutError when a fleet got stuck.
    """
    figures: list[Figure] = []
    parts = _parts(shown, len(robots) + len(lockstep))
    for count, part in zip(robots, parts, strict=False):
        figures += _path_figures(_real_time(count, seconds, seed, part))
    for count, part in zip(lockstep, parts[len(robots) :], strict=True):
        figures += _lockstep(count, seconds, seed, part)
    settings: Settings = {"seconds": seconds, "seed": seed, "episode_ticks": EPISODE_TICKS}
    return Finding(measured=MEASURED, settings=settings, figures=tuple(figures))


def _parts(shown: Shown | None, count: int) -> list[Watcher]:
    """For each of `count` runs, what makes its episodes a hundred parts of the whole."""

    def part(number: int) -> Watcher:
        def watch(progress: FleetProgress) -> None:
            if shown is not None:
                shown(100 * number + 100 * progress.done // progress.total, 100 * count)

        return watch

    return [part(number) for number in range(count)]


def _real_time(count: int, seconds: float, seed: int, watch: Watcher) -> _Measured:
    with tempfile.TemporaryDirectory(prefix="efm-bench-") as name:
        folder = Path(name)
        fleet = material.bench_fleet(folder, count, "real")
        model, batch = _model_alone(fleet, seed)
        rate = fleet.robots[0].space.rate
        ticks = min(EPISODE_TICKS, max(10, round(seconds * rate)))
        each = max(1, math.ceil(seconds * rate / ticks))
        names = [robot.name for robot in fleet.robots]
        plan = material.plan(Mode.PRACTICE, names, each, ticks, seed)
        run = run_fleet(fleet, plan, folder / "run", watch)
        robot = fleet.robots[0]
        read = [read_ticks(path, robot.cameras[0].name, robot.commands[0]) for path in run.episodes]
    return _Measured(
        count, run, tuple(t for r in read for t in r.ticks), sum(r.unanswered for r in read),
        sum(r.undecided for r in read),
        model, batch, 1.0 / rate,
    )  # fmt: skip


def _model_alone(fleet: FleetDescription, seed: int, rounds: int = 50) -> tuple[Spread, Spread]:
    """Seconds of an answer to one robot, and to all robots of the fleet at once."""
    brain = material.engine(fleet, seed)
    seen = material.observations(fleet, len(fleet.robots), seed)
    taken = alternate({"one": answers(brain, seen[:1]), "all": answers(brain, seen)}, rounds)
    return spread(taken["one"]), spread(taken["all"])


def _path_figures(found: _Measured) -> list[Figure]:
    if not found.ticks:
        raise ValueError(f"{found.robots} robots: no picture was answered; give more --seconds")
    label = f"{found.robots} robot" + "s" * (found.robots > 1)
    whole = np.array([tick.received for tick in found.ticks])
    total = len(found.ticks) + found.unanswered
    late = int((whole > found.period).sum()) + found.unanswered
    missed = sum(tick.missed for tick in found.ticks)
    latency = [tick.latency for tick in found.ticks]
    wait = "the model alone, batch of all"

    def number(name: str, unit: str, value: float, count: int = total) -> Figure:
        return Figure(name=f"{label}: {name}", unit=unit, value=value, count=count)

    return [
        timed(f"{label}: path", "ms", spread(whole), 1e3, wait, found.model_batch),
        timed(f"{label}: path less the model", "ms", spread(whole - found.model.median)),
        timed(f"{label}: to the guard's sending", "ms", spread([t.sent for t in found.ticks])),
        timed(f"{label}: picture's receipt to decision", "ms", spread(latency)),
        number("late", "%", 100.0 * late / total),
        number("pictures without a command", "pictures", found.unanswered),
        number("of these without a decision", "pictures", found.undecided),
        number("missed deadlines", "decisions", missed, len(found.ticks)),
        number("CPU in use", "cores", found.run.cores_used, 1),
        number("processes that had to be restarted", "processes", found.run.restarts, 1),
    ]


def _lockstep(count: int, seconds: float, seed: int, watch: Watcher) -> list[Figure]:
    """World ticks per second while episodes run, all robots together, and with all between."""
    with tempfile.TemporaryDirectory(prefix="efm-bench-") as name:
        folder = Path(name)
        fleet = material.bench_fleet(folder, count, "lockstep")
        material.write_checkpoints(fleet, seed)
        names = [robot.name for robot in fleet.robots]
        each = max(2, round(seconds / 2))
        plan = material.plan(Mode.PRACTICE, names, each, LOCKSTEP_TICKS, seed)
        run = run_fleet(fleet, plan, folder / "run", watch)
    label = f"{count} robot" + "s" * (count > 1) + " in lockstep"
    ticks = sum(record.ticks for record in run.records)
    running = sum(record.phase_seconds.get("running", 0.0) for record in run.records) / count
    return [
        Figure(name=f"{label}: while episodes run", unit="world ticks/s", value=ticks / running,
               count=ticks),
        Figure(name=f"{label}: resets, bags and start included", unit="world ticks/s",
               value=ticks / run.wall, count=ticks),
    ]  # fmt: skip
