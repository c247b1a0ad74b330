"""What a robot is told that makes its scenes itself, and its answer on `reset/status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from efm_core.plan import PlannedEpisode


class SceneNews(str, Enum):
    """What a message on `reset/status` means."""

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


def present_scene(
    planned: PlannedEpisode, request: str, not_before_ns: int | None, draw: int
) -> dict[str, Any]:
    """As `scene_for`, but the scene stays as it lies; draw: which of the instructions to draw."""
    scene = scene_for(planned, request, not_before_ns)
    for instead in ("state", "lasting"):
        scene.pop(instead, None)
    return {**scene, "present": True, "draw": draw}


@dataclass(slots=True)
class SceneRequested:
    """The newest request. before_ns: stamp_ns of the reset known before it.

    A robot that does not tell `request` back may repeat that stamp.
    """

    request: str = ""
    before_ns: str = ""

    def hear(self, values: Mapping[str, str]) -> SceneNews:
        """The pairs of `reset/status`."""
        told = values.get("request")
        fresh = values.get("stamp_ns", "") != self.before_ns if told is None else (
            told == self.request
        )
        state = values.get("state", "")
        if not fresh or state not in ("done", "failed"):
            return SceneNews.NOTHING
        return SceneNews.DONE if state == "done" else SceneNews.FAILED
