"""When the host of a virtual machine gave its CPU to others."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from efm_bringup.bench.machine import withheld_seconds

LOOK_SECONDS = 0.02
AFTERMATH_SECONDS = 1.0
"""What waited meanwhile is worked off, and whoever was late delays others."""


class Withheld:
    """What was withheld from `begin_ns` on (wall time).

    read: CPU seconds withheld so far, all cores; it counts in steps of 10 ms, so less than one
    step stays unseen.
    """

    def __init__(self, begin_ns: int, read: Callable[[], float] = withheld_seconds) -> None:
        self._read = read
        self._before = self._first = read()
        self._looked_ns = begin_ns
        self._begins: list[int] = []
        self._ends: list[int] = []
        self.seconds = 0.0

    def look(self, now_ns: int) -> None:
        """Look at wall time `now_ns`; what was withheld was so since the last look."""
        found = self._read()
        if found > self._before:
            self._begins.append(self._looked_ns)
            self._ends.append(now_ns)
        self._before, self._looked_ns = found, now_ns
        self.seconds = found - self._first

    def undisturbed(self, begin_ns: int, end_ns: int) -> bool:
        """Whether nothing was withheld from `AFTERMATH_SECONDS` before `begin_ns` to `end_ns`."""
        last = bisect_right(self._begins, end_ns) - 1
        return last < 0 or self._ends[last] < begin_ns - round(AFTERMATH_SECONDS * 1e9)


@contextmanager
def watched() -> Iterator[Withheld]:
    """A thread looks every `LOOK_SECONDS` while the context lasts."""
    withheld, over = Withheld(time.time_ns()), threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            withheld.look(time.time_ns())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield withheld
    finally:
        over.set()
        thread.join()
