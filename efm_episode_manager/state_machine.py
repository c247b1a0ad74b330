"""The phases of an episode manager and the events that lead from one to the next.

The whole behaviour is the table `TRANSITIONS`; what the manager does on entering a phase stands in
`conductor.py`. An event that the table does not list for a phase raises: a forgotten case shows.
"""

from __future__ import annotations

from enum import Enum


class Phase(str, Enum):
    """What the manager is doing; published as `phase` on `episode/status`."""

    IDLE = "idle"
    RESETTING = "resetting"
    READY = "ready"
    RUNNING = "running"
    PAUSED = "paused"
    ENDING = "ending"
    SAVING = "saving"
    NEEDS_HELP = "needs_help"
    STOPPED = "stopped"


class Event(str, Enum):
    """What can happen to a manager."""

    PLAN = "plan"  # an episode is due and everyone it needs is there
    RESET_DONE = "reset_done"  # the robot stands at the start and its first stamp is known
    RESET_FAILED = "reset_failed"  # the last of the allowed tries failed
    NOT_READY = "not_ready"  # the scene of the announced episode is no start
    FIRST_ANSWERS = "first_answers"  # echoes and answers to the first observation are there
    CONCLUDED = "concluded"  # success: still frames follow
    CUT = "cut"  # time limit, fault or failure: nothing follows
    FINISHED = "finished"  # every message of the last tick is there
    SAVED = "saved"  # the bag is handed to the worker that finishes it
    ABANDONED = "abandoned"  # the episode ended before its first tick
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"  # latched: /fleet/stopped, episode/stop or the breaker
    START = "start"  # episode/start after the stop was cleared
    HELP_DONE = "help_done"  # a person has put the robot right


class UnknownTransitionError(ValueError):
    """An event that has no meaning in the present phase."""


P, E = Phase, Event

TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (P.IDLE, E.PLAN): P.RESETTING,
    (P.IDLE, E.PAUSE): P.PAUSED,
    (P.RESETTING, E.RESET_DONE): P.READY,
    (P.RESETTING, E.RESET_FAILED): P.NEEDS_HELP,
    (P.RESETTING, E.ABANDONED): P.IDLE,
    (P.READY, E.FIRST_ANSWERS): P.RUNNING,
    (P.READY, E.ABANDONED): P.IDLE,
    (P.READY, E.NOT_READY): P.RESETTING,
    (P.RUNNING, E.CONCLUDED): P.ENDING,
    (P.RUNNING, E.CUT): P.SAVING,
    (P.RUNNING, E.PAUSE): P.PAUSED,
    (P.ENDING, E.FINISHED): P.SAVING,
    (P.ENDING, E.CUT): P.SAVING,
    (P.PAUSED, E.CONCLUDED): P.ENDING,
    (P.PAUSED, E.CUT): P.SAVING,
    (P.SAVING, E.SAVED): P.IDLE,
    (P.NEEDS_HELP, E.HELP_DONE): P.IDLE,
    (P.STOPPED, E.START): P.IDLE,
    **{(phase, E.STOP): P.STOPPED for phase in Phase},
}
"""(phase, event) -> next phase. RESUME leads back to where PAUSE came from."""

del P, E


class StateMachine:
    """The present phase; `fire` moves it along the table."""

    def __init__(self) -> None:
        self._phase = Phase.IDLE
        self._before_pause = Phase.IDLE

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self._phase

    def allows(self, event: Event) -> bool:
        """Whether `event` means something now."""
        return self._target(event) is not None

    def fire(self, event: Event) -> Phase:
        """Move along the table and return the new phase.

        Raises UnknownTransitionError when the table has no entry.
        """
        target = self._target(event)
        if target is None:
            raise UnknownTransitionError(
                f"event '{event.value}' means nothing in phase '{self._phase.value}'"
            )
        if event is Event.PAUSE:
            self._before_pause = self._phase
        self._phase = target
        return target

    def _target(self, event: Event) -> Phase | None:
        if event is Event.RESUME and self._phase is Phase.PAUSED:
            return self._before_pause
        return TRANSITIONS.get((self._phase, event))
