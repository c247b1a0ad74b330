"""Scenes that last from one practice episode of a robot to its next, in one process.

The same order of events as over DDS: a robot's failures in a row come first, then the robot's own
reset says whether it can go on from where the blocks lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from efm_core.episode import EpisodeRecord
from efm_core.plan import EpisodePlan
from efm_core.reset_free import NO_SCENE, Misses
from efm_trainer.robot import LastingRobot, Robot


@dataclass(slots=True)
class LastingScene:
    """What one robot's last practice episode left. state: None before any."""

    state: Mapping[str, Any] | None = None
    misses: Misses = field(default_factory=Misses)

    def begin(self, robot: Robot, plan: EpisodePlan, seed: int, instruction: str | None) -> str:
        """Bring `robot` to the next start; why it was reset in full, "" if it was not.

        Raises ValueError when the robot's scenes can't last.
        """
        lasting = _checked(robot, plan)
        reason = self.misses.reason(plan.misses)
        if not reason and self.state is None:
            reason = NO_SCENE
        if reason:
            robot.reset(seed, instruction)
        else:
            assert self.state is not None
            robot.restore_state(self.state)
            reason = lasting.go_on_or_reset(seed, instruction)
        if reason:
            self.misses.fresh()
        return reason

    def end(self, robot: Robot, plan: EpisodePlan, record: EpisodeRecord) -> None:
        """Keep what the episode left."""
        self.state = _checked(robot, plan).save_state()
        if plan.misses:
            self.misses.over(record.mode, record.outcome)


def _checked(robot: Robot, plan: EpisodePlan) -> LastingRobot:
    if not isinstance(robot, LastingRobot):
        raise ValueError(
            f"plan {plan.plan_id}: scenes are to last, but this robot has no save_state and "
            "go_on_or_reset; practise with a reset for each episode"
        )
    return robot


class LastingScenes:
    """The scenes of a fleet by robot name; JSON-compatible so that a run can be taken up."""

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        self._scenes = {
            name: LastingScene(entry["state"], Misses(int(entry["misses"])))
            for name, entry in (saved or {}).items()
        }

    def of(self, robot: str) -> LastingScene:
        """The scene of a robot, an empty one before its first episode."""
        return self._scenes.setdefault(robot, LastingScene())

    def saved(self) -> dict[str, Any]:
        """For the constructor of another run."""
        return {
            name: {"state": scene.state, "misses": scene.misses.count}
            for name, scene in self._scenes.items()
        }
