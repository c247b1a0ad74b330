"""A terminal that hands over every key at once, and is given back as it was found."""

from __future__ import annotations

import os
import select
import sys
import termios
from types import TracebackType
from typing import Any, TextIO


class Terminal:
    """`stream`'s terminal without line buffering and echo while entered.

    Ctrl-C still interrupts; Ctrl-Z does not suspend, for a suspended program would leave the
    terminal as it is. Enter it inside `StopSignal`, so that SIGTERM and SIGHUP leave it too.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdin
        self._fd = -1
        self._before: list[Any] = []
        self.closed = False

    @staticmethod
    def usable(stream: TextIO | None = None) -> bool:
        """Whether `stream` (default: stdin) is a terminal that this process may read from."""
        stream = stream or sys.stdin
        try:
            fd = stream.fileno()
            if not os.isatty(fd):
                return False
        except (OSError, ValueError):  # closed, or replaced by something that is no file
            return False
        try:
            return os.tcgetpgrp(fd) == os.getpgrp()  # not a job in the background
        except OSError:  # not this session's terminal: nobody stops us from reading it
            return True

    def __enter__(self) -> Terminal:
        """Raises termios.error when the stream is no terminal."""
        self._fd = self._stream.fileno()
        self._before = termios.tcgetattr(self._fd)
        changed = termios.tcgetattr(self._fd)
        changed[3] &= ~(termios.ICANON | termios.ECHO)
        changed[6] = list(changed[6])
        changed[6][termios.VMIN], changed[6][termios.VTIME] = 0, 0
        changed[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(self._fd, termios.TCSADRAIN, changed)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        except termios.error:
            if not self.closed:  # a terminal that was closed needs nothing restored
                raise

    def read(self) -> bytes:
        """What was typed since the last call, b"" without anything; never waits."""
        if self.closed or not select.select([self._fd], [], [], 0.0)[0]:
            return b""
        try:
            data = os.read(self._fd, 1024)
        except OSError:  # EIO: the terminal's other side is gone
            data = b""
        self.closed = not data
        return data
