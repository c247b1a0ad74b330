"""Bytes of a terminal -> keys -> velocities. No terminal in here; bytes and times come in.

A terminal tells no key's release. It repeats a held key after 250 to 660 ms, then about 30 times
per second; so a key moves the robot for `timeout` s, and holding it goes on moving.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TIMEOUT = 0.3
SPEED = 0.1
TURN_SPEED = 0.3
_ESCAPE_SECONDS = 0.1
"""Longest time between the bytes of one key, also over SSH; an Esc alone is a key after it."""

_SEQUENCES = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left",
    b"\x1bOA": "up", b"\x1bOB": "down", b"\x1bOC": "right", b"\x1bOD": "left",
}  # fmt: skip
_SINGLE = {b"\r": "enter", b"\n": "enter", b"\x1b": "escape"}

MOTIONS: dict[str, tuple[int, int]] = {
    "w": (0, 1), "s": (0, -1), "k": (0, 1), "j": (0, -1),
    "a": (1, 1), "d": (1, -1), "h": (1, 1), "l": (1, -1),
    "u": (2, 1), "o": (2, -1),
    "[": (5, 1), "]": (5, -1),
}  # fmt: skip
"""Key -> (index of the twist's dimension, sign): forward is +x, left is +y, up is +z."""


class KeyDecoder:
    """Cuts the bytes of a terminal into keys; a key may come in several reads."""

    def __init__(self) -> None:
        self._rest = b""
        self._since = 0.0

    def feed(self, data: bytes, now: float) -> list[str]:
        """Keys in `data` (may be empty) at steady time `now`, s: characters and names.

        Names: up, down, left, right, escape, enter. Sequences of other keys are dropped.
        """
        if data:
            self._rest += data
            self._since = now
        keys: list[str] = []
        while self._rest:
            length, key = self._first(now)
            if length == 0:
                break
            self._rest = self._rest[length:]
            if key:
                keys.append(key)
        return keys

    def _first(self, now: float) -> tuple[int, str]:
        """(bytes, key) of the first key; (0, "") when more bytes may follow."""
        rest = self._rest
        if rest[:1] != b"\x1b":
            return 1, _SINGLE.get(rest[:1], rest[:1].decode("ascii", "ignore"))
        waited = now - self._since >= _ESCAPE_SECONDS
        if rest[1:2] not in (b"[", b"O"):
            return (1, "escape") if len(rest) > 1 or waited else (0, "")
        if rest[:3] in _SEQUENCES:
            return 3, _SEQUENCES[rest[:3]]
        for end in range(2, len(rest)):  # parameters, then one byte in @..~
            if 0x40 <= rest[end] <= 0x7E:
                return end + 1, ""
        return (len(rest), "") if waited else (0, "")


class KeyMotion:
    """Which way the keys pressed of late move the robot.

    speed: m/s, turn_speed: rad/s, timeout: s that one press lasts.
    """

    def __init__(
        self, speed: float = SPEED, turn_speed: float = TURN_SPEED, timeout: float = TIMEOUT
    ) -> None:
        self._speeds = (speed,) * 3 + (turn_speed,) * 3
        self._timeout = timeout
        self._pressed: dict[int, tuple[int, float]] = {}

    def press(self, key: str, now: float) -> bool:
        """A key at steady time `now`, s; whether it is one that moves. `.` stops at once."""
        if key == ".":
            self._pressed.clear()
            return True
        if key not in MOTIONS:
            return False
        dimension, sign = MOTIONS[key]
        self._pressed[dimension] = (sign, now)
        return True

    def velocity(self, now: float) -> NDArray[np.float64] | None:
        """What is asked for, float64 (6,), twist order in m/s and rad/s; None without a key."""
        live = {d: s for d, (s, at) in self._pressed.items() if now - at < self._timeout}
        if not live:
            return None
        velocity = np.zeros(6)
        for dimension, sign in live.items():
            velocity[dimension] = sign * self._speeds[dimension]
        linear = sum(dimension < 3 for dimension in live)
        velocity[:3] /= math.sqrt(max(linear, 1))  # two keys are no faster than one
        return velocity
