"""What the manager counts over its life, published on `episode/status`."""

from __future__ import annotations

from dataclasses import dataclass

from efm_core.episode import EpisodeRecord, Outcome


@dataclass(slots=True)
class Counters:
    """Episodes since the manager started; `fault_streak` counts faults in a row."""

    episodes: int = 0
    faults: int = 0
    successes: int = 0
    fault_streak: int = 0

    def saved(self, record: EpisodeRecord) -> None:
        """An episode is on disk."""
        self.episodes += 1
        self.successes += record.outcome is Outcome.SUCCESS
        if record.termination_reason.startswith("fault:"):
            self.fault()
        else:
            self.fault_streak = 0

    def fault(self) -> None:
        """An episode failed, whether or not it began."""
        self.faults += 1
        self.fault_streak += 1
