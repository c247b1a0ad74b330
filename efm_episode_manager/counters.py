"""What the manager counts over its life, published on `episode/status`."""

from __future__ import annotations

from dataclasses import dataclass

from efm_core.episode import EpisodeRecord, Mode, Outcome


@dataclass(slots=True)
class Counters:
    """Episodes since the manager started; `fault_streak` counts faults in a row.

    failure_streak: episodes of practice in a row that nobody called a success, faults included.

    redone: takes thrown away while they ran, recorded anew. discarded: thrown away once saved.
    unusable: saved, but with too many pictures lost to learn from. resets_asked: in practice
    without resets; helps: resets that failed so that a person had to come.
    """

    episodes: int = 0
    faults: int = 0
    successes: int = 0
    fault_streak: int = 0
    failure_streak: int = 0
    redone: int = 0
    discarded: int = 0
    unusable: int = 0
    resets_asked: int = 0
    helps: int = 0

    @property
    def interventions_per_100(self) -> float:
        """Resets asked for and calls for help for each 100 episodes saved."""
        return 100.0 * (self.resets_asked + self.helps) / max(self.episodes, 1)

    def saved(self, record: EpisodeRecord) -> None:
        """An episode is on disk."""
        self.episodes += 1
        self.successes += record.outcome is Outcome.SUCCESS
        self.unusable += bool(record.unusable)
        if record.outcome is Outcome.SUCCESS or record.labels.operator:
            self.failure_streak = 0
        elif record.mode is Mode.PRACTICE:
            self.failure_streak += 1
        if record.termination_reason.startswith("fault:"):
            self.fault()
        else:
            self.fault_streak = 0

    def fault(self) -> None:
        """An episode failed, whether or not it began."""
        self.faults += 1
        self.fault_streak += 1
