"""How fast, how hard and where to a robot may be told to move: limits, one dimension at a time.

The limits of a group of Cartesian dimensions are Euclidean; each of its n dimensions gets an
equal share (limit / sqrt(n)), so that every dimension is a problem of its own: braking in one
never waits for another, and the group's limit holds whatever the others do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from efm_core.actions import ActionSpace

CARTESIAN = ("x", "y", "z")

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class DimLimits(BaseModel):
    """Limits of one dimension: speed in unit/s, acceleration in unit/s^2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_speed: Positive
    max_acceleration: Positive


def braking_speed(room: float, acceleration: float, period: float) -> float:
    """Highest speed (unit/s) for the next period that still lets the motion stop within `room`.

    A speed v held for one `period` (s) and then lowered by acceleration x period in each further
    one covers period x (v + (v - a p) + (v - 2 a p) + ...); the result is the v for which that
    sum equals `room` (unit). No room, or less, gives 0.
    """
    if room <= 0.0:
        return 0.0
    drop = acceleration * period
    n = math.floor((math.sqrt(1.0 + 8.0 * room / (period * drop)) - 1.0) / 2.0)
    return (room / period + drop * n * (n + 1) / 2.0) / (n + 1)


class MotionLimiter:
    """Turns a wanted velocity into the nearest allowed one, remembering what was commanded.

    `velocity` is the commanded velocity, float64 (D,), unit/s. Acceleration is a budget of time
    that refills with the clock up to `burst` (s, the longer of a control period and a step) and
    is spent by changes of velocity: over any stretch t the velocity changes by at most
    acceleration x (t + burst), however often the limiter is asked.
    """

    def __init__(
        self,
        space: ActionSpace,
        speed: NDArray[np.float64],
        acceleration: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        step_period: float,
    ) -> None:
        """Limits (D,) in unit/s and unit/s^2; low, high (D,): box of positions, +-inf = none.

        step_period: longest time in s for which one command stands.
        """
        top, bottom = speed, -speed
        if space.kind == "delta":
            top = np.minimum(top, space.high * space.rate)
            bottom = np.maximum(bottom, space.low * space.rate)
        self._dims = list(
            zip(*(a.tolist() for a in (bottom, top, acceleration, low, high)), strict=True)
        )
        self.burst = max(1.0 / space.rate, step_period)
        self._step = step_period
        self.reset()

    def reset(self) -> None:
        """The robot stands still and has a full budget."""
        self._velocity = [0.0] * len(self._dims)
        self._budget = [self.burst] * len(self._dims)

    def save(self) -> tuple[list[float], list[float]]:
        """The state, for `restore`: a command that is taken back leaves no trace."""
        return self._velocity, list(self._budget)

    def restore(self, state: tuple[list[float], list[float]]) -> None:
        """Back to a saved state."""
        self._velocity, self._budget = state[0], list(state[1])

    @property
    def velocity(self) -> NDArray[np.float64]:
        """The commanded velocity, float64 (D,), unit/s."""
        return np.array(self._velocity)

    def approach(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Highest velocity (D,) that still stops within a distance (D,), with its sign."""
        return np.array(
            [
                math.copysign(braking_speed(abs(d), acceleration, self._step), d)
                for d, (_, _, acceleration, _, _) in zip(distance.tolist(), self._dims, strict=True)
            ]
        )

    def move(
        self, wanted: NDArray[np.float64], position: NDArray[np.float64], elapsed: float
    ) -> NDArray[np.float64]:
        """Wanted velocity (D,), position (D,) (NaN = unknown), s since the last call -> allowed.

        An unknown position lifts the box alone; whoever asks decides whether to move without it.
        A position outside the box allows motion inwards only, after braking.
        """
        result = []
        for i, (bottom, top, acceleration, low, high) in enumerate(self._dims):
            asked = float(wanted[i])
            # Nothing that is not finite gets this far; if it ever did, the arm would slow down.
            target = min(max(asked, bottom), top) if math.isfinite(asked) else 0.0
            here = float(position[i])
            if here - low < math.inf:
                target = max(target, -braking_speed(here - low, acceleration, self._step))
            if high - here < math.inf:
                target = min(target, braking_speed(high - here, acceleration, self._step))
            budget = min(self._budget[i] + elapsed, self.burst)
            change = acceleration * budget
            before = self._velocity[i]
            allowed = min(max(target, before - change), before + change)
            self._budget[i] = max(budget - abs(allowed - before) / acceleration, 0.0)
            result.append(allowed)
        self._velocity = result
        return np.array(result)


def dimension_limits(
    space: ActionSpace, max_speed: float, max_acceleration: float, others: Mapping[str, DimLimits]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Speed and acceleration limits of every dimension, float64 (D,) each, unit/s and unit/s^2.

    x, y and z share `max_speed` (m/s) and `max_acceleration` (m/s^2) as Euclidean limits; every
    other dimension needs an entry in `others`, else ValueError.
    """
    share = math.sqrt(max(1, sum(name in CARTESIAN for name in space.names)))
    speed, acceleration = [], []
    for name in space.names:
        if name in others:
            speed.append(others[name].max_speed)
            acceleration.append(others[name].max_acceleration)
        elif name in CARTESIAN:
            speed.append(max_speed / share)
            acceleration.append(max_acceleration / share)
        else:
            raise ValueError(
                f"limits lack the action dimension '{name}'; give its max_speed and "
                "max_acceleration under guard.limits"
            )
    return np.array(speed), np.array(acceleration)


def position_box(
    space: ActionSpace, workspace: Mapping[str, tuple[float, float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The box of positions, low and high, float64 (D,); +-inf where a delta has no limit.

    Absolute dimensions are bounded by the action space too. Raises ValueError for a name that is
    no dimension or limits out of order.
    """
    low = np.full(space.size, -np.inf) if space.kind == "delta" else space.low
    high = np.full(space.size, np.inf) if space.kind == "delta" else space.high
    for name, (bottom, top) in workspace.items():
        if name not in space.names:
            raise ValueError(
                f"workspace names '{name}', which is no action dimension of {space.names}"
            )
        if not bottom < top:
            raise ValueError(f"workspace.{name}: {bottom} must lie below {top}")
        i = space.names.index(name)
        low[i], high[i] = max(low[i], bottom), min(high[i], top)
    return low, high


def cap_cartesian(space: ActionSpace, velocity: ArrayLike, cap: float) -> NDArray[np.float64]:
    """Velocities (D,) scaled down so that the Cartesian ones have a norm of at most cap (m/s)."""
    result = np.array(velocity, dtype=np.float64)
    linear = [i for i, name in enumerate(space.names) if name in CARTESIAN]
    # hypot of scaled values: no overflow for any finite input
    speed = math.hypot(*(float(result[i]) for i in linear))
    if speed > cap:
        result[linear] *= cap / speed
    return result


class GuardSettings(BaseModel):
    """What the guard enforces on one robot.

    workspace: position box by dimension name, (low, high) in the dimension's unit, base frame.
    max_speed, max_acceleration: Euclidean over x, y, z, in m/s and m/s^2.
    limits: speed and acceleration of every other dimension.
    max_jump: largest change of an action from one point to the next, by dimension, in units of
        the action space (per tick for deltas); a chunk that jumps further is refused whole.
    max_lag: absolute targets in real time: how far a dimension may be from its setpoint. Further,
        something else moves or blocks the robot: a fault, and the setpoint goes to where it is.
    points: how many points of each chunk are executed before the next is due; None = all.
    stale_after: s without episode/status or fleet/stopped until hold. grace: s a chunk stays
        valid beyond its length. max_chunk_age: s, whatever the length.
    deadman: s a teleop or reset command stays valid. step_period: s between timer steps (real).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: ActionSpace
    clock: Literal["lockstep", "real"] = "lockstep"
    workspace: Mapping[str, tuple[float, float]] = Field(default_factory=dict)
    max_speed: Positive = 0.3
    max_acceleration: Positive = 6.0
    limits: Mapping[str, DimLimits] = Field(default_factory=dict)
    max_jump: Mapping[str, Positive] = Field(default_factory=dict)
    max_lag: Mapping[str, Positive] = Field(default_factory=dict)
    points: Annotated[int, Field(ge=1)] | None = None
    stale_after: Annotated[float, Field(gt=0.0, le=0.5)] = 0.5
    grace: Annotated[float, Field(ge=0.0, le=0.05)] = 0.05
    max_chunk_age: Annotated[float, Field(gt=0.0, le=0.6)] = 0.6
    deadman: Annotated[float, Field(gt=0.0, le=0.3)] = 0.3
    teleop_speed: Positive = 0.25
    step_period: Annotated[float, Field(gt=0.0, le=0.1)] = 0.02
    invalid_limit: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _consistent(self) -> GuardSettings:
        dimension_limits(self.space, self.max_speed, self.max_acceleration, self.limits)
        position_box(self.space, self.workspace)
        for field, named in (("max_jump", self.max_jump), ("max_lag", self.max_lag)):
            unknown = set(named) - set(self.space.names)
            if unknown:
                raise ValueError(f"{field} names {sorted(unknown)}, not among {self.space.names}")
        if self.points is not None and self.points > self.space.chunk:
            raise ValueError(f"points={self.points} exceeds the chunk of {self.space.chunk}")
        resting = self.space.kind == "absolute" or all(
            d.low <= 0 <= d.high for d in self.space.dims
        )
        if not resting:
            raise ValueError(
                "the limits of a delta action space must include 0, else nothing holds"
            )
        return self
