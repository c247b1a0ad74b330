"""The path of an end effector in one episode, with the steps-to-go along it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LONGEST = 500
"""Points of a trail; a longer one loses every second point, and its newest part is the finest."""
SHORTEST_STEP = 0.001
"""m; a pose nearer than this to the last one adds nothing to see."""
UNKNOWN = (0.6, 0.6, 0.6, 1.0)
_FAR_TO_NEAR = np.array([[0.30, 0.45, 1.00], [0.90, 0.35, 0.60], [1.00, 0.90, 0.20]])
"""Colours at the episode's largest steps-to-go, half of it, and zero."""


class Trail:
    """Positions (3,), m, and steps-to-go by their stamps, in ns; both may come in any order."""

    def __init__(self) -> None:
        self._poses: list[tuple[int, NDArray[np.float64]]] = []
        self._steps: list[tuple[int, float]] = []
        self._end: int | None = None

    def begin(self, start_ns: int) -> None:
        """A new episode: what is older than its first observation is forgotten."""
        self._poses = [entry for entry in self._poses if entry[0] >= start_ns]
        self._steps = [entry for entry in self._steps if entry[0] >= start_ns]
        self._end = None

    def end(self) -> None:
        """The episode is over: the trail stays as it is until the next `begin`."""
        if self._end is None and self._poses:
            self._end = self._poses[-1][0]

    def add_pose(self, stamp_ns: int, position: NDArray[np.float64]) -> None:
        """One more position; an old stamp, sent again in lockstep, is passed over."""
        if self._poses:
            last_ns, last = self._poses[-1]
            near = bool(np.linalg.norm(position - last) < SHORTEST_STEP)
            if stamp_ns <= last_ns or near:
                return
        self._poses.append((stamp_ns, position))
        if len(self._poses) > LONGEST:
            del self._poses[1:-1:2]

    def add_steps(self, stamp_ns: int, steps_to_go: float) -> None:
        """One more estimate of the steps to go."""
        if self._steps and stamp_ns <= self._steps[-1][0]:
            return
        self._steps.append((stamp_ns, steps_to_go))
        if len(self._steps) > 2 * LONGEST:
            del self._steps[1:-1:2]

    def points(self) -> NDArray[np.float64]:
        """The path, float64 (N, 3), m."""
        shown = [position for _, position in self._shown()]
        return np.array(shown, dtype=np.float64).reshape(-1, 3)

    def colors(self) -> NDArray[np.float64]:
        """One colour for each point, (N, 4): by the newest estimate that is not younger.

        Blue at the largest steps-to-go of the episode, yellow at zero, grey before the first.
        """
        stamps = np.array([stamp for stamp, _ in self._shown()], dtype=np.int64)
        if not self._steps or not len(stamps):
            return np.tile(np.array(UNKNOWN), (len(stamps), 1))
        at = np.array([stamp for stamp, _ in self._steps], dtype=np.int64)
        steps = np.array([value for _, value in self._steps])
        index = np.searchsorted(at, stamps, side="right") - 1
        return np.where(
            (index >= 0)[:, None], steps_colors(steps[index], float(np.max(steps))), UNKNOWN
        )

    def _shown(self) -> list[tuple[int, NDArray[np.float64]]]:
        end = self._end
        return self._poses if end is None else [entry for entry in self._poses if entry[0] <= end]


def steps_colors(steps: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Steps-to-go (N,) -> colours (N, 4): blue at `largest` and above, yellow at 0 and below."""
    near = 1.0 - np.clip(steps / max(largest, 1e-9), 0.0, 1.0)
    knots = np.linspace(0.0, 1.0, len(_FAR_TO_NEAR))
    rgb = [np.interp(near, knots, channel) for channel in _FAR_TO_NEAR.T]
    return np.column_stack([*rgb, np.ones(len(steps))])
