"""Wild input for the guard, and an independent judge of what comes out.

The judge knows nothing of the guard's code: it follows the commanded velocity as a perfect robot
would, and counts every command that is not finite, not of the right size, outside the action
space, too fast, too hard or beyond the workspace.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from efm_core.guard import Guard, GuardReport, GuardSettings
from efm_core.limits import CARTESIAN

_SLACK = 1e-9


@dataclass
class FuzzResult:
    """What happened: actions offered, reports published by source, violations by kind."""

    actions: int = 0
    reports: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    inputs: Counter[str] = field(default_factory=Counter)


class _Judge:
    """A perfect robot with a delta action space, and its limits as they are written."""

    def __init__(self, settings: GuardSettings, result: FuzzResult) -> None:
        space = settings.space
        self._settings, self._space, self._result = settings, space, result
        self._linear = [i for i, name in enumerate(space.names) if name in CARTESIAN]
        self.period = 1.0 / space.rate
        # In real time two timer steps may be the longer stretch for which a command stands.
        step = 2.0 * settings.step_period if settings.clock == "real" else 0.0
        self._burst = max(self.period, step)
        self.velocity = np.zeros(space.size)
        self.position = self._middle()
        share = math.sqrt(max(1, len(self._linear)))
        self._share = settings.max_acceleration / share
        self._budget = np.full(space.size, self._burst)

    def _middle(self) -> NDArray[np.float64]:
        box = self._settings.workspace
        return np.array([sum(box.get(name, (0.0, 0.0))) / 2 for name in self._space.names])

    def rest(self) -> None:
        """A new episode in lockstep: the robot stands and begins anew."""
        self.velocity, self.position = np.zeros(self._space.size), self._middle()
        self._budget = np.full(self._space.size, self._burst)

    def drive(self, seconds: float) -> None:
        """Follow the last command for a while."""
        self.position = self.position + self.velocity * seconds
        for name, value in zip(self._space.names, self.position, strict=True):
            low, high = self._settings.workspace.get(name, (-math.inf, math.inf))
            if not low - _SLACK <= value <= high + _SLACK:
                self._result.violations["out of the workspace"] += 1

    def see(self, report: GuardReport, elapsed: float) -> None:
        """Judge a command that follows the last one after `elapsed` s."""
        space, settings, count = self._space, self._settings, self._result.violations
        self._result.reports[report.source.name.lower()] += 1
        shapes = {report.executed.shape, report.velocity.shape}
        if shapes != {(space.size,)}:
            count["wrong size"] += 1
            return
        if not (np.isfinite(report.executed).all() and np.isfinite(report.velocity).all()):
            count["not finite"] += 1
            return
        outside = (report.executed < space.low - _SLACK) | (report.executed > space.high + _SLACK)
        count["out of the action space"] += int(outside.any())
        speed = math.sqrt(sum(float(report.velocity[i]) ** 2 for i in self._linear))
        count["too fast"] += int(speed > settings.max_speed + _SLACK)
        self._judge_change(report.velocity - self.velocity, elapsed)
        self.velocity = report.velocity

    def _judge_change(self, change: NDArray[np.float64], elapsed: float) -> None:
        # Over any stretch t the velocity of one dimension, with its equal share of the limit,
        # changes by at most acceleration x (t + burst).
        self._budget = np.minimum(self._budget + elapsed, self._burst)
        spent = np.abs(change) / self._share
        self._result.violations["too hard"] += int(
            any(spent[i] > self._budget[i] + _SLACK for i in self._linear)
        )
        self._budget = np.maximum(0.0, self._budget - spent)


class _Fuzzer:
    def __init__(self, settings: GuardSettings, seed: int) -> None:
        self.result = FuzzResult()
        self.guard = Guard(settings)
        self.judge = _Judge(settings, self.result)
        self._rng = np.random.default_rng(seed)
        self._space, self._lockstep = settings.space, settings.clock == "lockstep"
        self._period_ns = round(1e9 / settings.space.rate)
        self._step = settings.step_period
        self._now, self._elapsed = 100.0, 0.0
        self._stamp, self._episodes = 10**18, 0
        self._taken = False
        self._last: GuardReport | None = None
        self._begin()

    def _begin(self) -> None:
        """A new episode, from a fleet that was just stopped and cleared."""
        self._episodes += 1
        self._stamp += 10 * self._period_ns
        name = f"episode-{self._episodes}"
        if self._lockstep:
            self.judge.rest()
        for stopped in (True, False):
            self._take(self.guard.on_fleet_stopped(stopped, self._now))
        mode = "demo" if self._rng.random() < 0.2 else "practice"
        for phase in ("ready", "running"):
            self._take(self.guard.on_episode_status(phase, name, self._now, mode))
        self._name, self._mode, self._phase = name, mode, "running"

    def _take(self, report: GuardReport | None) -> None:
        """Judge what the guard answered; in lockstep only answers to a tick move the robot."""
        if report is None or (self._lockstep and report.stamp_ns is None):
            return
        if self._lockstep and report is self._last:
            return  # the same answer again: the world has moved on
        self._last = report
        self.judge.see(report, self.judge.period if self._lockstep else self._elapsed)
        self._elapsed = 0.0
        if self._lockstep and report.stamp_ns is not None:
            # The manager's go-ahead: the world acts on this answer, whatever comes after it.
            self.guard.on_tick(report.stamp_ns, self._now)
            self.judge.drive(self.judge.period)

    def run(self, actions: int) -> FuzzResult:
        """Offer `actions` actions and return what happened."""
        while self.result.actions < actions:
            self._pass_time()
            self._happening()
            self._offer()
            if not self._lockstep:
                self._take(self.guard.step(self._now))
        return self.result

    def _pass_time(self) -> None:
        if self._lockstep:
            self._stamp += self._period_ns
            self._now += 1e-3
            stamp = self._stamp if self._rng.random() < 0.98 else self._stamp - self._period_ns
            self._take(self.guard.on_pose(stamp, self.judge.position, self._now))
            return
        for _ in range(int(self._rng.integers(1, 7))):  # timer steps, some of them late
            self._wait(float(self._rng.uniform(0.2, 2.0)) * self._step)
            self._take(self.guard.step(self._now))
        self._wait(float(self._rng.uniform(0.0, 1.0)) * self._step)
        self._stamp = 10**18 + int(self._now * 1e9)
        self.guard.on_pose(self._stamp, self.judge.position, self._now)

    def _wait(self, seconds: float) -> None:
        self._now += seconds
        self._elapsed += seconds
        self.judge.drive(seconds)

    def _happening(self) -> None:
        """Now and then somebody takes over, stops, pauses, goes silent or begins anew."""
        chance = float(self._rng.random())
        if chance < 0.02:
            self._begin()
        elif chance < 0.023:
            self._take(self.guard.on_stop(self._now))
        elif chance < 0.04:
            self._taken = not self._taken
            self._take(self.guard.on_takeover(self._taken, self._now))
        elif chance < 0.07:
            self._phase = str(self._rng.choice(["running", "paused", "resetting", "ending"]))
        if chance < 0.9 or self._lockstep:  # else episode/status and fleet/stopped are late
            status = self.guard.on_episode_status(self._phase, self._name, self._now, self._mode)
            self._take(status)
            self._take(self.guard.on_fleet_stopped(False, self._now))
        if self._lockstep and self._phase == "ending":
            self._take(self.guard.on_tick(self._stamp, self._now))

    def _offer(self) -> None:
        """One action of some kind, by the policy, a person or a reset."""
        self.result.actions += 1
        kinds: tuple[Callable[[], None], ...] = (self._chunk, self._chunk, self._manual)
        kinds[int(self._rng.integers(len(kinds)))]()

    def _chunk(self) -> None:
        values = self._values((self._space.chunk, self._space.size), self._space.high)
        chance = float(self._rng.random())
        stamp, name, age = self._stamp, self._name, float(self._rng.uniform(0.0, 0.05))
        if chance < 0.03:
            stamp -= int(self._rng.integers(1, 50)) * self._period_ns
        elif chance < 0.06:  # of another fleet, or ahead of its announcement
            name = str(self._rng.choice(["foreign", f"episode-{self._episodes + 1}"]))
        elif chance < 0.08:
            age = float(self._rng.uniform(-1.0, 1.0))
        self._take(self.guard.on_chunk(stamp, name, values, self._now, age))
        if chance > 0.97:  # the same again
            self._take(self.guard.on_chunk(stamp, name, values, self._now, age))

    def _manual(self) -> None:
        values = self._values((self._space.size,), self._space.high * self._space.rate)
        send = self.guard.on_teleop if self._rng.random() < 0.8 else self.guard.on_reset
        self._take(send(self._stamp, values, self._now))

    def _values(self, shape: tuple[int, ...], scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mostly sensible values; some huge, not finite or of the wrong shape."""
        chance = float(self._rng.random())
        kind = "sensible"
        values = self._rng.uniform(-1.5, 1.5, shape) * scale
        if chance < 0.02:
            kind, values = "huge", values * 10.0 ** float(self._rng.uniform(2, 300))
        elif chance < 0.04:
            kind = "not finite"
            values.flat[int(self._rng.integers(values.size))] = self._rng.choice(
                [np.nan, np.inf, -np.inf]
            )
        elif chance < 0.05:
            kind, values = "wrong shape", np.zeros((*shape, 2))
        elif chance < 0.5:
            kind, values = "full speed", np.sign(values) * scale
        self.result.inputs[kind] += 1
        return values


def fuzz_guard(settings: GuardSettings, actions: int, seed: int = 0) -> FuzzResult:
    """Offer `actions` wild actions to a guard with a delta action space and judge every answer.

    The result's `violations` are empty counts when the guard kept its promise.
    """
    if settings.space.kind != "delta":
        raise ValueError("the judge follows velocities; give a delta action space")
    return _Fuzzer(settings, seed).run(actions)
