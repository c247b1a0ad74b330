"""How long a picture takes to become a command: the whole stack in real time."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efm_bringup.bench import material
from efm_bringup.bench.fleet_run import FleetRun, Watcher, run_fleet
from efm_bringup.bench.inference import answers
from efm_bringup.bench.path_ticks import Tick, read_ticks
from efm_bringup.bench.result import Figure, Finding, Settings, timed
from efm_bringup.bench.timing import Shown, Spread, alternate, spread
from efm_bringup.plan_client import FleetProgress
from efm_core.episode import Mode
from efm_core.fleet import FleetDescription, SharedRole

EPISODE_TICKS = 100
"""Control ticks per episode, 10 s; between episodes robots reset and recorders finish a bag."""
LOCKSTEP_TICKS = 60
SHARED: tuple[SharedRole, ...] = ("sim", "guard", "manager")

MEASURED = (
    "The whole stack as processes of their own under the embedded runner, clock real: per robot a "
    "simulated robot with a 64-pixel camera at 10 Hz, a guard and an episode manager that records "
    "every topic; one inference process with policy and reward for all robots; the fleet node. "
    "Read from the recorded bags, for every picture between the first and the last one that a "
    "command answered in an episode. `path`: from the publication of the picture to the receipt of "
    "its command by the recorder, minus the time that the model took for the batch (`inference` in "
    "policy/decision): transport, waiting for a batch and the guard are in it. `late`: share of "
    "pictures whose path was longer than one period (100 ms), or that got no command. `from the "
    "stamp`: the same with rendering and inference in it, nothing subtracted: the stamp is taken "
    "before the robot renders. `to the guard's sending`: without the way from the guard to the "
    "recorder. `missed deadlines`: decisions that the policy itself reports as later than one "
    "period. `CPU withheld by the machine's host`: on a virtual machine, what its host gave to "
    "others meanwhile. `late where the host withheld no CPU`: of the pictures for "
    "which nothing was withheld from 1 s before their stamp to their command (looked at every 20 "
    "ms). `shared`: "
    "the fleet file says `shared: [sim, guard, manager]`, one process each for all robots. "
    "Baseline from the stamp: the model alone on a batch of all robots, which it can't undercut."
)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One fleet size's run."""

    label: str
    run: FleetRun
    ticks: tuple[Tick, ...]
    unanswered: tuple[int, ...]
    undecided: int
    model_batch: Spread
    period: float

    def undisturbed(self, stamp_ns: int, seconds: float) -> bool:
        """Whether the host withheld no CPU until `seconds` after a stamp, nor just before."""
        return self.run.withheld.undisturbed(stamp_ns, stamp_ns + round(seconds * 1e9))


def measure_command_path(
    robots: Sequence[int] = (1, 4, 8),
    seconds: float = 20.0,
    lockstep: Sequence[int] = (),
    shared: Sequence[int] = (),
    seed: int = 0,
    shown: Shown | None = None,
) -> Finding:
    """Run fleets of `robots` sizes for about `seconds` s each, in real time.

    lockstep: further fleet sizes, whose throughput in lockstep is measured. shared: fleet sizes
    that run in real time too, with one process per role instead of one per robot and role. Raises
    ValueError when a run gave no tick, TimeoutError when a fleet got stuck.
    """
    figures: list[Figure] = []
    fleets = [(count, ()) for count in robots] + [(count, SHARED) for count in shared]
    parts = _parts(shown, len(fleets) + len(lockstep))
    for (count, roles), part in zip(fleets, parts, strict=False):
        figures += _path_figures(_real_time(count, roles, seconds, seed, part))
    for count, part in zip(lockstep, parts[len(fleets) :], strict=True):
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


def _real_time(
    count: int, shared: tuple[SharedRole, ...], seconds: float, seed: int, watch: Watcher
) -> _Measured:
    with tempfile.TemporaryDirectory(prefix="efm-bench-") as name:
        folder = Path(name)
        fleet = material.bench_fleet(folder, count, "real", shared)
        batch = _model_alone(fleet, seed)
        rate = fleet.robots[0].space.rate
        ticks = min(EPISODE_TICKS, max(10, round(seconds * rate)))
        each = max(1, math.ceil(seconds * rate / ticks))
        names = [robot.name for robot in fleet.robots]
        plan = material.plan(Mode.PRACTICE, names, each, ticks, seed)
        run = run_fleet(fleet, plan, folder / "run", watch)
        robot = fleet.robots[0]
        read = [read_ticks(path, robot.cameras[0].name, robot.commands[0]) for path in run.episodes]
    return _Measured(
        label=_label(count) + ", shared" * bool(shared),
        run=run,
        ticks=tuple(tick for found in read for tick in found.ticks),
        unanswered=tuple(stamp for found in read for stamp in found.unanswered),
        undecided=sum(found.undecided for found in read),
        model_batch=batch,
        period=1.0 / rate,
    )


def _label(count: int) -> str:
    return f"{count} robot" + "s" * (count > 1)


def _model_alone(fleet: FleetDescription, seed: int, rounds: int = 50) -> Spread:
    """Seconds of an answer to all robots of the fleet at once."""
    brain = material.engine(fleet, seed)
    seen = material.observations(fleet, len(fleet.robots), seed)
    return spread(alternate({"all": answers(brain, seen)}, rounds)["all"])


def _path_figures(found: _Measured) -> list[Figure]:
    if not found.ticks:
        ends = ", ".join(
            f"{record.termination_reason} after {record.ticks} ticks"
            for record in found.run.records
        )
        raise ValueError(
            f"{found.label}: no picture was answered (its episodes ended by {ends or 'nothing'}); "
            "give more --seconds, or see what disturbs this machine"
        )
    label = found.label
    path = np.array([tick.path for tick in found.ticks])
    whole = np.array([tick.received for tick in found.ticks])
    total = len(found.ticks) + len(found.unanswered)

    def late(seconds: NDArray[np.float64]) -> float:
        return 100.0 * (int((seconds > found.period).sum()) + len(found.unanswered)) / total

    missed = sum(tick.missed for tick in found.ticks)
    latency = [tick.latency for tick in found.ticks]
    wait = "the model alone, batch of all"

    def number(name: str, unit: str, value: float, count: int = total) -> Figure:
        return Figure(name=f"{label}: {name}", unit=unit, value=value, count=count)

    return [
        timed(f"{label}: path", "ms", spread(path)),
        number("late", "%", late(path)),
        timed(f"{label}: from the stamp", "ms", spread(whole), 1e3, wait, found.model_batch),
        *_undisturbed(found),
        number("late from the stamp", "%", late(whole)),
        timed(f"{label}: to the guard's sending", "ms", spread([t.sent for t in found.ticks])),
        timed(f"{label}: picture's receipt to decision", "ms", spread(latency)),
        number("pictures without a command", "pictures", len(found.unanswered)),
        number("of these without a decision", "pictures", found.undecided),
        number("missed deadlines", "decisions", missed, len(found.ticks)),
        number("CPU in use", "cores", found.run.cores_used, 1),
        number("CPU withheld by the machine's host", "cores", found.run.cores_withheld, 1),
        number("processes that had to be restarted", "processes", found.run.restarts, 1),
    ]


def _undisturbed(found: _Measured) -> list[Figure]:
    """The late ones of the pictures from whose time the host took nothing; none: no figure."""
    ticks = [tick for tick in found.ticks if found.undisturbed(tick.stamp_ns, tick.received)]
    unanswered = sum(found.undisturbed(stamp, found.period) for stamp in found.unanswered)
    count = len(ticks) + unanswered
    if not count:
        return []
    late = 100.0 * (sum(tick.path > found.period for tick in ticks) + unanswered) / count
    name = f"{found.label}: late where the host withheld no CPU"
    return [Figure(name=name, unit="%", value=late, count=count)]


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
    label = f"{_label(count)} in lockstep"
    ticks = sum(record.ticks for record in run.records)
    running = sum(record.phase_seconds.get("running", 0.0) for record in run.records) / count
    return [
        Figure(name=f"{label}: while episodes run", unit="world ticks/s", value=ticks / running,
               count=ticks),
        Figure(name=f"{label}: resets, bags and start included", unit="world ticks/s",
               value=ticks / run.wall, count=ticks),
    ]  # fmt: skip
