"""What the guard was sent: the newest valid chunk, and the commands of a person or a reset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efm_core.limits import GuardSettings

_FUTURE = 0.1
"""A stamp further ahead of the clock than this, in s, is refused."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """An action chunk: values (chunk, D); received: steady s; age: s from stamp to receipt."""

    stamp_ns: int
    episode_id: str
    values: NDArray[np.float64]
    received: float
    age: float


@dataclass(frozen=True, slots=True)
class Manual:
    """A person's or a reset's command (D,): velocities (delta) or targets (absolute)."""

    stamp_ns: int
    values: NDArray[np.float64]
    received: float


class Inbox:
    """Takes in what may move the robot; what is not valid or not news is counted and dropped.

    `chunk`: the newest valid one of the announced episode. `invalid`: invalid ones in a row.
    `counts`: inputs by what became of them.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._settings, self._space = settings, settings.space
        self._points = settings.points or settings.space.chunk
        self._max_jump = np.array([settings.max_jump.get(n, np.inf) for n in self._space.names])
        self.counts: Counter[str] = Counter()
        self.early: Chunk | None = None
        self.clear()

    def clear(self) -> None:
        """A new episode: everything but a chunk that came before its announcement is dropped."""
        self.chunk: Chunk | None = None
        self.teleop: Manual | None = None
        self.reset: Manual | None = None
        self.invalid = 0
        self._dropped_stamp: int | None = None

    @property
    def validity(self) -> float:
        """How long a chunk may be executed after its receipt, s."""
        length = self._points / self._space.rate
        return min(length + self._settings.grace, self._settings.max_chunk_age)

    def keep_early(self, chunk: Chunk) -> None:
        """The newest chunk of an episode that is not announced (and may never be)."""
        self.counts["foreign"] += 1
        self.early = chunk

    def drop_chunk(self) -> None:
        """Forget the chunk and everything as old as it."""
        if self.chunk is not None:
            self._dropped_stamp, self.chunk = self.chunk.stamp_ns, None

    def refuse_chunk(self) -> None:
        """An invalid chunk of the announced episode came: nothing is left to execute."""
        self.counts["invalid"] += 1
        self.invalid += 1
        self.chunk = None

    def accept(self, chunk: Chunk) -> bool:
        """Keep a valid chunk if it is news; whether it was."""
        newest = self._dropped_stamp if self.chunk is None else self.chunk.stamp_ns
        real = self._settings.clock == "real"
        if newest is not None and chunk.stamp_ns <= newest:
            reason = "repeated" if chunk.stamp_ns == newest else "older"
        elif real and chunk.age < -_FUTURE:
            reason = "future"
        elif real and chunk.age > self.validity:
            reason = "late"
        else:
            self.chunk, self.invalid, reason = chunk, 0, "accepted"
        self.counts[reason] += 1
        return reason == "accepted"

    def problem(self, values: NDArray[np.float64], previous: NDArray[np.float64]) -> str:
        """Why a chunk's values (any shape) are not valid, "" when they are.

        previous: the last action commanded, (D,), action-space units.
        """
        shape = (self._space.chunk, self._space.size)
        if values.shape != shape:
            return f"shape {values.shape}, expected {shape}"
        if not np.isfinite(values).all():
            return "NaN or infinity"
        if not self._settings.max_jump:
            return ""
        path = np.vstack([previous, np.clip(values, self._space.low, self._space.high)])
        jumps = np.abs(np.diff(path, axis=0))
        if (jumps > self._max_jump * (1.0 + 1e-9)).any():
            largest = np.nanmax(jumps, axis=0).tolist()
            return f"a jump of {largest} over {dict(self._settings.max_jump)}"
        return ""

    def manual(self, stamp_ns: int, values: ArrayLike, now: float) -> Manual | None:
        """A command (D,) of a person or a reset; None when it is not valid."""
        array = np.array(values, dtype=np.float64)
        if array.shape != (self._space.size,) or not np.isfinite(array).all():
            self.counts["invalid_teleop"] += 1
            return None
        return Manual(stamp_ns, array, now)

    def point(self, stamp_ns: int) -> int | None:
        """Lockstep: index of the chunk's point that is due at a pose's stamp, None without one."""
        if self.chunk is None:
            return None
        index = round((stamp_ns - self.chunk.stamp_ns) * self._space.rate / 1e9)
        return index if 0 <= index < self._points else None

    def point_at(self, since: float) -> int:
        """Real time: index of the point for so many s after the stamp; the last one stays."""
        return min(int(since * self._space.rate + 1e-9), self._points - 1)
