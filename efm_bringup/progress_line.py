"""One line that says how far a long job is and when it will be done."""

from __future__ import annotations

import sys
import time
from typing import TextIO

LINE_SECONDS = 5.0


class ProgressLine:
    """Prints `title 34/96, 12 s, about 22 s left` now and then; in place on a terminal."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self._title = title
        self._stream = stream or sys.stdout
        self._begin = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._printed = float("-inf")

    def show(self, done: int, total: int, note: str = "") -> None:
        """Report; prints at most every `LINE_SECONDS` (a terminal: every 0.2 s), and the end."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)  # what was done before this start says nothing of the pace
        terminal = self._stream.isatty()
        if done < total and now - self._printed < (0.2 if terminal else LINE_SECONDS):
            return
        self._printed = now
        line = f"{self._title} {done}/{total}, {now - self._begin:.0f} s"
        line += self._left(now, done, total) + (f", {note}" if note else "")
        end = "\n" if done >= total or not terminal else ""
        self._stream.write(f"\r\x1b[K{line}{end}" if terminal else f"{line}{end}")
        self._stream.flush()

    def _left(self, now: float, done: int, total: int) -> str:
        assert self._first is not None
        since, before = self._first
        if done <= before or done >= total:
            return ""
        return f", about {(now - since) / (done - before) * (total - done):.0f} s left"
