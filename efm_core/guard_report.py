"""What the guard says it did in one tick, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Source(IntEnum):
    """Who moved the robot in a tick: the number in guard/state."""

    HOLD = 0
    POLICY = 1
    TELEOP = 2
    RESET = 3


class Fault(IntEnum):
    """Why the guard holds: the number in guard/state."""

    NONE = 0
    STOPPED = 1
    STALE_STATUS = 2
    STALE_FLEET = 3
    STALE_CHUNK = 4
    POLICY = 5
    NO_POSE = 6
    SECOND_PUBLISHER = 7
    STALE_CAMERA = 8
    FROZEN_CAMERA = 9
    TRACKING = 10

    @property
    def termination_reason(self) -> str:
        """The episode's termination reason where this fault ends it: stop or fault:<what>."""
        return "stop" if self is Fault.STOPPED else f"fault:{self.name.lower()}"


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What goes to the robot and into guard/state.

    stamp_ns: the observation's stamp that this answers; None = stamp with the time of sending.
    executed: float64 (D,), action-space units (per tick for deltas, targets otherwise).
    velocity: float64 (D,), unit/s, the command.
    modified: whether limits changed what was asked: a delta, or a target itself. How fast a target
        is approached is no such change, but the robot's dynamics.
    chunk_age: s since the chunk's receipt, -1 without one. point_index: -1 without one.
    position: float64 (D,), where the dimensions shall be now (absolute: the setpoint) or are as
    far as known (delta), NaN where unknown; None = nothing is known.
    """

    stamp_ns: int | None
    executed: NDArray[np.float64]
    velocity: NDArray[np.float64]
    source: Source
    modified: bool = False
    fault: Fault = Fault.NONE
    chunk_age: float = -1.0
    point_index: int = -1
    reasons: tuple[str, ...] = ()
    position: NDArray[np.float64] | None = None
