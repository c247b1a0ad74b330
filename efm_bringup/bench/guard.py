"""How fast the guard decides, and that nothing invalid gets past it (promise P4)."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_bringup.bench.result import Figure, Finding, Settings, rated
from efm_bringup.bench.timing import Shown, Work, alternate, spread
from efm_bringup.installed import share
from efm_core.fleet import RobotDescription, load_fleet
from efm_core.guard import Guard
from efm_core.guard_fuzz import fuzz_guard

DECISIONS = 500
"""Guard decisions per timed call."""
FUZZ_BATCH = 10_000
"""Actions per fuzzed guard: each batch has another seed, the clocks take turns."""
KINDS = (
    "wrong size", "not finite", "out of the action space", "too fast", "too hard",
    "out of the workspace",
)  # fmt: skip

MEASURED = (
    "Decisions of the shipped robot's guard. Lockstep: chunk, pose and tick of one observation in, "
    "one judged command out, as the guard node calls it; the robot follows the commands into the "
    "limits of its workspace. Real time: a chunk and a timer step. Baseline: `np.clip` of the same "
    "actions to the action space, one at a time, which knows no order, age, speed, acceleration, "
    "workspace or stop. Fuzz: wild actions (huge, NaN, wrong shape, stale, foreign, doubled; "
    "policy, people and resets taking turns, stops and pauses between) by "
    "`efm_core.guard_fuzz`, half of the guards in lockstep and half in real time; an independent "
    "judge follows the commands as a perfect robot and counts every violation."
)


def measure_guard(
    rounds: int = 100, actions: int = 1_000_000, seed: int = 0, shown: Shown | None = None
) -> Finding:
    """Decision rates over `rounds` rounds, then `actions` fuzzed actions (0: none).

    Raises ValueError for fewer actions than none.
    """
    if actions < 0:
        raise ValueError(f"--actions {actions}: give 0 or more")
    robot = load_fleet(share("config/fleet.yaml")).robots[0]
    values = np.random.default_rng(seed).uniform(-1.5, 1.5, (DECISIONS, 1, robot.space.size))
    values *= robot.space.high
    works: dict[str, Work] = {
        "lockstep": _Lockstep(robot, values), "real": _Real(robot, values),
        "clip": _clip(robot, values),
    }  # fmt: skip
    taken = {name: spread(samples) for name, samples in alternate(works, rounds).items()}
    figures = [
        rated("lockstep", "decisions/s", DECISIONS, taken["lockstep"], "np.clip", taken["clip"]),
        rated("real time", "decisions/s", DECISIONS, taken["real"], "np.clip", taken["clip"]),
    ]
    if actions:
        figures += _fuzz(robot, actions, seed, shown).figures()
    settings: Settings = {
        "rounds": rounds, "decisions_per_round": DECISIONS, "actions": actions, "seed": seed
    }
    return Finding(measured=MEASURED, settings=settings, figures=tuple(figures))


class _Lockstep:
    """One call: DECISIONS ticks of an episode that never ends."""

    def __init__(self, robot: RobotDescription, values: NDArray[np.float64]) -> None:
        settings = robot.guard_settings("lockstep")
        self._guard, self._values = Guard(settings), values
        self._period = 1.0 / robot.space.rate
        self._position = np.array([sum(settings.workspace[n]) / 2 for n in robot.space.names])
        self._stamp = 10**18
        self._guard.on_fleet_stopped(False, 0.0)
        for phase in ("ready", "running"):
            self._guard.on_episode_status(phase, "bench", 0.0, "practice")

    def __call__(self) -> None:
        guard = self._guard
        for chunk in self._values:
            self._stamp += 100_000_000
            guard.on_chunk(self._stamp, "bench", chunk, 0.0)
            report = guard.on_pose(self._stamp, self._position, 0.0)
            guard.on_tick(self._stamp, 0.0, "bench")
            if report is None:
                raise RuntimeError("the guard gave no answer to a valid tick")
            self._position = self._position + report.velocity * self._period


class _Real:
    """One call: DECISIONS chunks at the control rate, a timer step behind each."""

    def __init__(self, robot: RobotDescription, values: NDArray[np.float64]) -> None:
        settings = robot.guard_settings("real")
        self._guard, self._values = Guard(settings), values
        self._period = 1.0 / robot.space.rate
        self._position = np.array([sum(settings.workspace[n]) / 2 for n in robot.space.names])
        self._now = 100.0

    def __call__(self) -> None:
        guard = self._guard
        for chunk in self._values:
            self._now += self._period
            stamp = int(self._now * 1e9)
            guard.on_fleet_stopped(False, self._now)
            guard.on_episode_status("running", "bench", self._now, "practice")
            guard.on_pose(stamp, self._position, self._now)
            guard.on_chunk(stamp, "bench", chunk, self._now)
            report = guard.step(self._now)
            if report is None:
                raise RuntimeError("the guard's timer gave no command")
            self._position = self._position + report.velocity * self._period


def _clip(robot: RobotDescription, values: NDArray[np.float64]) -> Work:
    low, high = robot.space.low, robot.space.high

    def work() -> None:
        for chunk in values:
            np.clip(chunk[0], low, high)

    return work


@dataclass(frozen=True, slots=True)
class _Fuzzed:
    actions: int
    seconds: float
    violations: Counter[str]
    inputs: Counter[str]

    def figures(self) -> list[Figure]:
        wild = self.actions - self.inputs["sensible"] - self.inputs["full speed"]
        return [
            Figure(name="fuzz: violations in all", unit="violations",
                   value=self.violations.total(), count=self.actions),
            *(
                Figure(name=f"fuzz: {kind}", unit="violations", value=self.violations[kind],
                       count=self.actions)
                for kind in KINDS
            ),
            Figure(name="fuzz: actions that had to be refused", unit="actions", value=wild,
                   count=self.actions),
            Figure(name="fuzz: judged", unit="actions/s", value=self.actions / self.seconds,
                   count=self.actions),
        ]  # fmt: skip


def _fuzz(robot: RobotDescription, actions: int, seed: int, shown: Shown | None) -> _Fuzzed:
    violations: Counter[str] = Counter()
    inputs: Counter[str] = Counter()
    done, batch, begin = 0, 0, time.perf_counter()
    while done < actions:
        settings = robot.guard_settings("real" if batch % 2 else "lockstep")
        found = fuzz_guard(settings, min(FUZZ_BATCH, actions - done), seed + batch)
        violations += found.violations
        inputs += found.inputs
        done, batch = done + found.actions, batch + 1
        if shown is not None:
            shown(done, actions)
    unknown = set(violations) - set(KINDS)
    if unknown:
        raise RuntimeError(f"the judge counts {sorted(unknown)}, which this bench does not report")
    return _Fuzzed(done, time.perf_counter() - begin, violations, inputs)
