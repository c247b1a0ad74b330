"""What a person may ask for while demonstrating, and the keys that ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Order(str, Enum):
    """An order; its value is the service `episode/<value>`, but for the two of the takeover."""

    SUCCESS = "success"
    END = "end"
    DISCARD = "discard"
    FINISH = "finish"
    LABEL_SUCCESS = "label_success"
    LABEL_FAILURE = "label_failure"
    DISCARD_LAST = "discard_last"
    PAUSE = "pause"
    PAUSE_NEXT = "pause_next"
    RESUME = "resume"
    START = "start"
    RESET_DONE = "reset_done"
    TAKE_OVER = "take_over"
    GIVE_BACK = "give_back"

    @property
    def is_takeover(self) -> bool:
        """Whether it goes to the guard instead of the episode manager."""
        return self in (Order.TAKE_OVER, Order.GIVE_BACK)

    @property
    def is_once(self) -> bool:
        """Whether a second one might hit the next take."""
        return self in (Order.SUCCESS, Order.END, Order.DISCARD)


_KEYS = {
    "right": Order.END,
    "left": Order.DISCARD,
    "r": Order.DISCARD,
    "escape": Order.FINISH,
    "q": Order.FINISH,
    " ": Order.SUCCESS,
    "y": Order.LABEL_SUCCESS,
    "f": Order.LABEL_FAILURE,
    "x": Order.DISCARD_LAST,
    "t": Order.TAKE_OVER,
    "g": Order.GIVE_BACK,
}
_GO_ON = {"paused": Order.RESUME, "needs_help": Order.RESET_DONE, "stopped": Order.START}


def asks_for_success(status: Mapping[str, str]) -> bool:
    """Whether nobody has judged the newest take of a demonstration (`episode/status`)."""
    return status.get("last_label") == "unknown" and status.get("mode") == "demo"


def order_for(key: str, status: Mapping[str, str]) -> Order | None:
    """The order of a key (see `keyboard.KeyDecoder`) at a robot that says `status`, or None.

    `n` ends a running take; between two takes it is the answer "no" to "success?". Enter goes on
    after whatever the robot waits for.
    """
    phase = status.get("phase", "")
    if key == "n":
        waits = phase != "running" and asks_for_success(status)
        return Order.LABEL_FAILURE if waits else Order.END
    if key == "enter":
        return Order.RESET_DONE if status.get("waits_for") else _GO_ON.get(phase)
    if key == "p":
        return Order.RESUME if phase == "paused" else Order.PAUSE
    return _KEYS.get(key)
