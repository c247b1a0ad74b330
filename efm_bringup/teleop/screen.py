"""What the operator of a recording session sees: a small block, redrawn in place on a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from efm_bringup.teleop.orders import asks_for_success

LOG_SECONDS = 5.0
DRAW_SECONDS = 0.2
WIDTH = 80
"""Columns of a terminal that does not tell."""
HELP = (
    "  n, right: end and save   r, left: redo   space: success   p: pause   Enter: on",
    "  last take - y: success   f: failure   x: discard          q, Esc: finish",
)


class Pace:
    """Estimates the time left from the takes saved since it was made."""

    def __init__(self, now: float) -> None:
        self._begin, self._first = now, -1

    def seconds_left(self, done: int, total: int, now: float) -> float | None:
        """s until `total` are saved, None before the first take was saved."""
        if self._first < 0:
            self._first = done
        saved = done - self._first
        return None if saved <= 0 else (now - self._begin) / saved * max(total - done, 0)


def summary(
    title: str,
    done: int,
    total: int,
    robots: Mapping[str, Mapping[str, str]],
    left: float | None,
    redone: int = 0,
    discarded: int = 0,
) -> str:
    """The line of counts. robots: name -> pairs of its `episode/status`."""
    parts = [f"{title}: {done}/{total} saved"]
    for count, word in ((redone, "redone"), (discarded, "discarded")):
        parts += [f"{count} {word}"] if count else []
    if left is not None:
        parts.append(f"about {_duration(left)} left")
    free = [float(s["free_mb"]) for s in robots.values() if s.get("free_mb")]
    if free:
        parts.append(f"{min(free) / 1000.0:.1f} GB free")
    for robot, status in robots.items():  # a log shows this line alone
        if status.get("phase") in ("needs_help", "stopped") or status.get("waits_for"):
            parts.append(f"{robot} {status['phase']}: {status.get('reason', '')}")
    return ", ".join(parts)


def robot_line(robot: str, status: Mapping[str, str], chosen: bool = False) -> str:
    """The line of one robot: what it does, how fast its topics come, what it waits for."""
    phase = status.get("phase", "never heard")
    text = f"{'>' if chosen else ' '} {robot}: {phase}"
    if phase in ("running", "paused", "ending") and status.get("episode_id"):
        text += f", tick {status.get('tick', '?')}"
    if phase == "paused" and not status.get("episode_id"):
        text += " | set the scene, then Enter"
    elif status.get("reason"):
        text += f" | {status['reason']}"
    text += " | success? y/n" if asks(status) else ""
    rates = json.loads(status.get("rates") or "{}")
    shown = [f"{_short(name)} {hz:g} Hz" for name, hz in rates.items()]
    return text + (f" | {', '.join(shown)}" if shown else "")


def asks(status: Mapping[str, str]) -> bool:
    """Whether the line should ask for a verdict on the newest take."""
    return asks_for_success(status) and status.get("phase") != "running"


def _short(topic: str) -> str:
    parts = topic.split("/")
    return parts[1] if parts[0] == "camera" and len(parts) > 1 else parts[-1]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Screen:
    """Shows lines on `stream` (default: stderr), each cut to the terminal's width.

    On a terminal they replace those shown before, at most every `DRAW_SECONDS`; elsewhere (a log)
    the first line is written when it changed, at most every `LOG_SECONDS`.
    """

    def __init__(self, stream: TextIO | None = None, width: int = 0) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._width = width
        self._height = 0
        self._drawn = float("-inf")
        self._shown: list[str] = []

    def show(self, lines: Sequence[str], final: bool = False) -> None:
        """Show these lines now or later; `final` ones at once, and they stay."""
        now = time.monotonic()
        pause = DRAW_SECONDS if self._terminal else LOG_SECONDS
        new = list(lines) if self._terminal else list(lines[:1])
        if not final and (now - self._drawn < pause or new == self._shown):
            return
        self._drawn, self._shown = now, new
        if not self._terminal:
            self._stream.write(f"{new[0]}\n")
        else:
            width = self._width or _columns(self._stream)
            up = f"\x1b[{self._height}A" if self._height else ""
            body = "".join(f"\r\x1b[K{line[: width - 1]}\n" for line in new)
            self._stream.write(f"{up}{body}\x1b[J")
            self._height = 0 if final else len(new)
        self._stream.flush()

    def say(self, text: str) -> None:
        """One line that stays, above what is shown."""
        if self._terminal and self._height:
            self._stream.write(f"\x1b[{self._height}A\r\x1b[J")
            self._height = 0
        self._stream.write(f"{text}\n")
        self._stream.flush()
        self._drawn = float("-inf")
        self._shown = []


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDTH
    except OSError:
        return WIDTH
