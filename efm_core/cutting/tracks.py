"""What a recording holds of one source, by stamp."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from efm_core.camera_ledger import Arrival

T = TypeVar("T")


class CameraFrame(NamedTuple):
    """One message of a camera.

    number: its place on its topic. header_ns, received_ns: what a robot would judge it by, ns.
    problem, text: the field that is wrong with it, and in words; "" for none. digest: Adler-32.
    """

    number: int
    header_ns: int
    received_ns: int
    problem: str
    text: str
    digest: int


class Picture(NamedTuple):
    """A camera's message, judged. stamp_ns: to use. before: digest of the one before it."""

    frame: CameraFrame
    arrival: Arrival
    stamp_ns: int
    before: int | None


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One message: its stamp in ns, its place on its topic, a checksum, what it says."""

    stamp_ns: int
    number: int
    digest: int
    value: T


@dataclass(slots=True)
class Track(Generic[T]):
    """The messages of one source by stamp."""

    _entries: dict[int, Entry[T]] = field(default_factory=dict)
    _stamps: list[int] | None = None

    def add(
        self, stamp_ns: int, value: T, number: int, digest: int = 0, last: bool = False
    ) -> None:
        """One message; of a repeated stamp the first counts, or the last."""
        if last or stamp_ns not in self._entries:
            self._entries[stamp_ns] = Entry(stamp_ns, number, digest, value)
            self._stamps = None

    @property
    def stamps(self) -> list[int]:
        """All stamps, ascending."""
        if self._stamps is None:
            self._stamps = sorted(self._entries)
        return self._stamps

    def latest(self, stamp_ns: int, tolerance_ns: float) -> Entry[T] | None:
        """The newest message not later than a stamp, None when it is older than the tolerance."""
        at = bisect_right(self.stamps, stamp_ns)
        if not at or stamp_ns - self.stamps[at - 1] > tolerance_ns:
            return None
        return self._entries[self.stamps[at - 1]]

    def between(self, start_ns: int, end_ns: int) -> list[Entry[T]]:
        """Messages of the half-open time [start, end), in order."""
        stamps = self.stamps
        chosen = stamps[bisect_left(stamps, start_ns) : bisect_left(stamps, end_ns)]
        return [self._entries[stamp] for stamp in chosen]

    def before(self, stamp_ns: int) -> Entry[T] | None:
        """The newest message before a stamp, None without one."""
        at = bisect_left(self.stamps, stamp_ns)
        return self._entries[self.stamps[at - 1]] if at else None


def nearest(stamps: list[int], stamp_ns: int, tolerance_ns: float) -> int | None:
    """Of ascending stamps the nearest to one, the earlier of two; None beyond the tolerance.

    The trainer takes the earlier of two equally near ones, and an episode that is cut is read by
    it alone (`efm_trainer.pictures`).
    """
    at = bisect_left(stamps, stamp_ns)
    best = min(stamps[max(at - 1, 0) : at + 1], key=lambda t: abs(t - stamp_ns), default=None)
    return None if best is None or abs(best - stamp_ns) > tolerance_ns else best
