"""Scenes that last from one practice episode to the next, and the full resets that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from efm_core.reset_free import Misses
from efm_episode_manager.counters import Counters
from efm_episode_manager.session import Purpose, Session


@dataclass(slots=True)
class Lasting:
    """One robot's. reason: why the coming episode begins with a full reset, "" when none is due.

    It stays until that episode runs: what a crash or a failed try costs is counted once, and the
    record of the episode that runs in the end names it.
    """

    counters: Counters
    misses: Misses = field(default_factory=Misses)
    reason: str = ""

    def begin(self, session: Session) -> None:
        """A reset begins: perhaps the robot has failed too often where it is."""
        self.needed(self.misses.reason(session.plan.misses))

    def needed(self, reason: str) -> None:
        """A full reset is due, or was made by the robot; "" says that none was."""
        if reason and not self.reason:
            self.reason = reason
            self.counters.resets_asked += 1

    def scene(self, scene: Mapping[str, Any], asked: bool) -> dict[str, Any]:
        """What the robot is told: without `lasting` when a full reset is due or `asked` for."""
        drawn = asked or bool(self.reason)
        return {k: v for k, v in scene.items() if not (drawn and k == "lasting")}

    def heard(self, session: Session, values: Mapping[str, str]) -> None:
        """The robot's `reset/status`: a reason says that the scene could not last."""
        if session.planned.lasting and session.purpose is Purpose.EPISODE:
            self.needed(values.get("reason", ""))

    def began(self, fresh: bool) -> None:
        """The episode runs; fresh: from a scene that was reset in full whoever wanted it."""
        if fresh or self.reason:
            self.misses.fresh()
        self.reason = ""

    def over(self, session: Session) -> None:
        """An episode has ended, or will never begin."""
        counts = session.purpose is Purpose.EPISODE and session.plan.misses > 0
        if counts and not session.discarded:
            self.misses.over(session.plan.mode, session.record.outcome)
