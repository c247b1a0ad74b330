"""The simulator's verdict on a recorded episode; for evaluation, never for the nodes."""

from __future__ import annotations

from collections.abc import Iterable

from efm_core import messages
from efm_core.topics import TRUTH_STATE
from efm_episode_manager.session import TickGrid


def truth_label(states: Iterable[bytes], grid: TickGrid, ticks: int) -> bool | None:
    """Whether the recorded truth was success at any observation 0..ticks (still frames excluded).

    states: CDR bytes of the episode's `truth/state` messages. None when none lies in the episode
    (a real robot has no truth).
    """
    judged: bool | None = None
    end_ns = grid.stamp(ticks)
    for data in states:
        message = messages.deserialize(data, TRUTH_STATE.type)
        if grid.start_ns <= messages.stamp_of(message) <= end_ns:
            success = messages.read_named_scalars(message).get("success", 0.0) > 0.5
            judged = bool(judged) or success
    return judged
