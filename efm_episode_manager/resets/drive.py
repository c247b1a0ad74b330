"""Commands that bring a robot to a position in a straight line of its action space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from efm_core.actions import ActionSpace

GAIN = 2.0
"""Velocity for each unit of distance, 1/s: slow enough for a pose that is 0.1 s old."""
_TINY = 1e-12


class Drive:
    """Drives towards targets (D,); NaN = this dimension stays where it is.

    speed: (D,), unit/s, the fastest. tolerance: (D,), what counts as there.
    """

    def __init__(
        self, space: ActionSpace, speed: NDArray[np.float64], tolerance: NDArray[np.float64]
    ) -> None:
        self._delta = space.kind == "delta"
        self._speed, self.tolerance = speed, tolerance
        self._setpoint: NDArray[np.float64] | None = None

    def begin(self) -> None:
        """Another motion, from wherever the robot is."""
        self._setpoint = None

    def toward(
        self, target: NDArray[np.float64], position: NDArray[np.float64], elapsed: float
    ) -> NDArray[np.float64]:
        """The next command (D,): velocities in unit/s (delta), else the next target.

        elapsed: s since the last one. NaN where the position is not known.
        """
        wanted = ~np.isnan(target)
        if self._delta:
            return self.within(np.where(wanted, GAIN * (target - position), 0.0))
        start = position if self._setpoint is None else self._setpoint
        way = np.where(wanted, target - start, 0.0)
        seconds = float(np.max(np.abs(way) / np.maximum(self._speed, _TINY)))
        self._setpoint = start + way * (1.0 if seconds <= elapsed else elapsed / seconds)
        return self._setpoint

    def within(self, velocity: NDArray[np.float64]) -> NDArray[np.float64]:
        """A velocity (D,) in the same direction that no dimension is too fast in."""
        excess = float(np.max(np.abs(velocity) / np.maximum(self._speed, _TINY)))
        return velocity / max(excess, 1.0) if np.isfinite(excess) else velocity

    def there(self, target: NDArray[np.float64], position: NDArray[np.float64]) -> bool:
        """Whether every dimension that has a target is within its tolerance."""
        wanted = ~np.isnan(target)
        return bool((np.abs(target - position)[wanted] <= self.tolerance[wanted]).all())


def distances(
    names: tuple[str, ...], target: NDArray[np.float64], position: NDArray[np.float64]
) -> str:
    """What is left of the way, for people: "x 0.031, y unknown"."""
    left = {
        n: t - p for n, t, p in zip(names, target, position, strict=True) if not np.isnan(t)
    }
    texts = (f"{n} {'unknown' if np.isnan(d) else format(d, '.3g')}" for n, d in left.items())
    return "still to go: " + ", ".join(texts)
