"""Approximate pairing by stamp: what belongs to one instant though no two stamps are equal."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The last `depth` stamped things of one source, oldest first."""

    def __init__(self, depth: int) -> None:
        self._kept: deque[tuple[int, T]] = deque(maxlen=depth)

    def add(self, stamp_ns: int, value: T) -> None:
        """One more; the oldest goes when there are too many."""
        self._kept.append((stamp_ns, value))

    def drop(self, value: T) -> None:
        """Forget a thing that turned out to be of no use."""
        kept = [entry for entry in self._kept if entry[1] is not value]
        self._kept.clear()
        self._kept.extend(kept)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    @property
    def newest(self) -> tuple[int, T] | None:
        """(stamp in ns, thing) that was added last, None without one."""
        return self._kept[-1] if self._kept else None

    def nearest(self, stamp_ns: int, tolerance_ns: float) -> tuple[int, T] | None:
        """(stamp, thing) nearest to a stamp, the newer of two equally near ones.

        None when none is within the tolerance.
        """
        best: tuple[int, T] | None = None
        for entry in self._kept:
            if best is None or abs(entry[0] - stamp_ns) <= abs(best[0] - stamp_ns):
                best = entry
        if best is None or abs(best[0] - stamp_ns) > tolerance_ns:
            return None
        return best
