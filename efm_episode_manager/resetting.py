"""One reset of the robot: asked for up to some times, done when `reset/status` says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from efm_core.plan import PlannedEpisode


class ResetNews(str, Enum):
    """What a message about the reset means."""

    NOTHING = "nothing"
    DONE = "done"
    FAILED = "failed"


def scene_for(planned: PlannedEpisode, request: str, not_before_ns: int | None) -> dict[str, Any]:
    """The JSON that goes to the robot's parameter `scene` before `reset` is called.

    request: told back on `reset/status`, so that an older reset's news is not taken for this one.
    not_before_ns: lockstep: the virtual stamps of this episode must begin at or after it, because
    a fast simulation's stamps run ahead of the wall clock.
    """
    scene: dict[str, Any] = dict(planned.scene)
    if planned.instruction is not None:
        scene["instruction"] = planned.instruction
    scene["request"] = request
    if not_before_ns is not None:
        scene["not_before_ns"] = not_before_ns
    return scene


@dataclass(slots=True)
class Reset:
    """The tries of one reset.

    tries: allowed. before_ns: stamp_ns of the reset that was known before, which a robot that
    does not tell `request` back may repeat. deadline_s: steady time at which a try is given up.
    """

    tries: int
    before_ns: str
    attempts: int = 0
    request: str = ""
    deadline_s: float = 0.0

    def attempt(self, request: str, deadline_s: float) -> None:
        """A try begins."""
        self.attempts += 1
        self.request, self.deadline_s = request, deadline_s

    @property
    def exhausted(self) -> bool:
        """Whether no further try is allowed."""
        return self.attempts >= self.tries

    def hear(self, values: Mapping[str, str]) -> ResetNews:
        """The pairs of `reset/status`."""
        told = values.get("request")
        fresh = values.get("stamp_ns", "") != self.before_ns if told is None else (
            told == self.request
        )
        state = values.get("state", "")
        if not fresh or state not in ("done", "failed"):
            return ResetNews.NOTHING
        return ResetNews.DONE if state == "done" else ResetNews.FAILED
