"""Notices cameras that send the same picture again and again. Pure, without ROS."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from efm_core.actions import ActionSpace

FROZEN_SECONDS = 0.5
"""A picture that stays the same this long while the robot is told to move is frozen."""
_ROUNDING = 1e-9  # s, of a sum of ten times 0.1


class FrozenWatch:
    """Watches one camera.

    seconds: how long the robot may be told to move, all in all, with the same picture shown.
    """

    def __init__(self, seconds: float = FROZEN_SECONDS) -> None:
        self._seconds = seconds
        self._digest: int | None = None
        self._shown = self._again = self._asked = 0.0  # steady s: first, last showing, last update
        self._moved = self._moving = 0.0  # s of motion until the last showing, and since

    def update(self, digest: int, moving: bool, now_s: float, fresh: bool = True) -> bool:
        """Digest of a picture, whether motion was commanded since the last, steady s -> frozen?

        fresh: whether the camera sent it since; a picture that is used twice is not shown twice.
        A scene that stands still while nothing is commanded is no fault. What is frozen stays
        so until another picture comes: the hold that follows stops the motion.
        """
        self._moving += now_s - self._asked if moving else 0.0
        self._asked = now_s
        if fresh:
            same = digest == self._digest
            self._moved = self._moved + self._moving if same else 0.0
            self._shown = self._shown if same else now_s
            self._digest, self._again, self._moving = digest, now_s, 0.0
        return self._moved >= self._seconds - _ROUNDING

    def still(self) -> bool:
        """Whether the picture has not changed for that long, motion or not."""
        return self._again - self._shown >= self._seconds - _ROUNDING


class FrozenCameras:
    """A watch per camera. `frozen` and `still`: names, at the last update."""

    def __init__(self, seconds: float = FROZEN_SECONDS) -> None:
        self._seconds = seconds
        self.begin()

    def begin(self) -> None:
        """Another episode: forget what was shown."""
        self._watches: dict[str, FrozenWatch] = {}
        self._stamps: dict[str, int] = {}
        self.frozen: tuple[str, ...] = ()
        self.still: tuple[str, ...] = ()

    def update(
        self, digests: Mapping[str, int], stamps: Mapping[str, int], moving: bool, now_s: float
    ) -> bool:
        """The pictures of a new observation, by camera; whether either list changed.

        digests, stamps (ns): of the pictures. moving: since the last observation. now_s: steady.
        """
        before = (self.frozen, self.still)
        frozen, still = [], []
        for name, digest in digests.items():
            watch = self._watches.setdefault(name, FrozenWatch(self._seconds))
            fresh = self._stamps.get(name) != stamps[name]
            if watch.update(digest, moving, now_s, fresh):
                frozen.append(name)
            elif watch.still():
                still.append(name)
        self._stamps.update(stamps)
        self.frozen, self.still = tuple(frozen), tuple(still)
        return before != (self.frozen, self.still)


class CommandedMotion:
    """Whether the robot is told to move, by what the guard lets through, without one by the policy.

    Half a bin is the least that counts: the least that a policy can tell from zero.
    """

    def __init__(self, space: ActionSpace) -> None:
        self._delta = space.kind == "delta"
        bins = np.array([d.bins for d in space.dims])
        self._least = 0.9 * (space.high - space.low) / (bins - 1) / 2.0
        self._guarded = False
        self._moved = False
        self._before: NDArray[np.float64] | None = None

    def on_guard(self, executed: NDArray[np.float64]) -> None:
        """guard/state: executed (D,), action-space units."""
        self._moved = self._moved or self._is_motion(executed)
        self._guarded = True

    def moving(self, answer: NDArray[np.float64] | None) -> bool:
        """Whether it was told to move since this was last asked.

        answer: the policy's newest chunk (chunk, D), None without one; asked where no guard was
        ever heard. One that fell silent lets nothing through: the arm stands, and so may the
        picture. Absolute targets move the robot when they differ from those before.
        """
        moved, self._moved = self._moved, False
        if self._guarded:
            return moved
        return answer is not None and any(self._is_motion(row) for row in np.atleast_2d(answer))

    def _is_motion(self, told: NDArray[np.float64]) -> bool:
        if self._delta:
            return bool((np.abs(told) > self._least).any())
        before = told if self._before is None else self._before
        if (np.abs(told - before) > self._least).any() or self._before is None:
            self._before = told
        return bool((np.abs(told - before) > self._least).any())
