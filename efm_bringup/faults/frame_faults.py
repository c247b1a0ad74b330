"""What a bad camera link does to pictures: by a script that a seed draws, every deed counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from efm_core import messages

FAULTS = ("drop", "repeat", "swap", "late", "small", "cut", "future")
REFUSED = ("small", "cut", "future")
LATE_BEHIND = {"swap": 1, "late": 3}
"""How many pictures overtake one."""
AHEAD_NS = 5_037_000_000
"""No multiple of any camera's period: the stamp of no later picture."""
Send = Callable[[Any], object]


def script(seed: int, length: int, faults: tuple[str, ...] = FAULTS) -> list[str]:
    """`length` faults, or none ("pass"), drawn at random, with a good picture behind each."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(["pass", *faults], length)
    return [word for fault in drawn for word in (str(fault), "pass")]


def narrow(message: Any) -> None:
    """Make a sensor_msgs/Image eight columns narrower than its camera is described."""
    message.width -= 8


class FaultProxy:
    """Stands between a camera and its topic and does to its pictures what `script` says.

    pass, drop, repeat (a second time at once), swap and late (behind the next, the third next),
    small (another size, by `shrink`), cut (half of the data), future (stamped 5 s ahead). Once the
    script is empty everything passes. done: how often it did what.
    """

    def __init__(self, send: Send, shrink: Callable[[Any], None] = narrow) -> None:
        self._send, self._shrink = send, shrink
        self.script: list[str] = []
        self.done: Counter[str] = Counter()
        self._held: list[tuple[int, Any]] = []  # pictures still to overtake it, message

    def take(self, message: Any) -> str:
        """One picture from the camera, typestore message; what became of it."""
        fault = self.script.pop(0) if self.script else "pass"
        self.done[fault] += 1
        if fault in LATE_BEHIND:
            self._held.append((LATE_BEHIND[fault] + 1, message))
        elif fault != "drop":
            self._spoil(message, fault)
            for _ in range(2 if fault == "repeat" else 1):
                self._send(message)
        self._held = [(left - 1, held) for left, held in self._held]
        for _, held in [entry for entry in self._held if entry[0] <= 0]:
            self._send(held)
        self._held = [entry for entry in self._held if entry[0] > 0]
        return fault

    def _spoil(self, message: Any, fault: str) -> None:
        if fault == "small":
            self._shrink(message)
        elif fault == "cut":
            message.data = message.data[: len(message.data) // 2]
        elif fault == "future":
            sec, nanosec = divmod(messages.stamp_of(message) + AHEAD_NS, 10**9)
            message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
