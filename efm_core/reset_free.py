"""Practice without resets: when a scene that lies is given up all the same.

What is known here is the robot's own: how its episodes ended by its own detector, and what its
reset says about the scene. Nothing of the simulator's truth reaches this module.
"""

from __future__ import annotations

from dataclasses import dataclass

from efm_core.episode import Mode, Outcome

NO_SCENE = "no episode has left a scene: the robot was just started"
"""Why a robot resets in full that has nothing to go on from, a restarted one above all."""


@dataclass(slots=True)
class Misses:
    """Failures of one robot's practice in a row, by its own detector.

    count: since its last success or full reset.
    """

    count: int = 0

    def over(self, mode: Mode, outcome: Outcome) -> None:
        """A saved episode. Only practice counts, and what was broken off is nobody's failure."""
        if mode is not Mode.PRACTICE:
            return
        if outcome is Outcome.SUCCESS:
            self.count = 0
        elif outcome is Outcome.FAILURE:
            self.count += 1

    def reason(self, limit: int) -> str:
        """Why the next episode needs a fresh scene, "" when it does not; limit 0: never."""
        if limit and self.count >= limit:
            return f"{self.count} episodes in a row without success"
        return ""

    def fresh(self) -> None:
        """The scene was reset in full."""
        self.count = 0
