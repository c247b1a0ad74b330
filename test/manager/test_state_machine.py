"""The state machine as a table: every pair of phase and event, listed or refused."""

from __future__ import annotations

import itertools

import pytest

from efm_episode_manager.state_machine import (
    TRANSITIONS,
    Event,
    Phase,
    StateMachine,
    UnknownTransitionError,
)

# Written out a second time on purpose: the shortest event sequence that reaches each phase.
PATHS = {
    Phase.IDLE: [],
    Phase.RESETTING: [Event.PLAN],
    Phase.READY: [Event.PLAN, Event.RESET_DONE],
    Phase.RUNNING: [Event.PLAN, Event.RESET_DONE, Event.FIRST_ANSWERS],
    Phase.ENDING: [Event.PLAN, Event.RESET_DONE, Event.FIRST_ANSWERS, Event.CONCLUDED],
    Phase.SAVING: [Event.PLAN, Event.RESET_DONE, Event.FIRST_ANSWERS, Event.CUT],
    Phase.PAUSED: [Event.PLAN, Event.RESET_DONE, Event.FIRST_ANSWERS, Event.PAUSE],
    Phase.NEEDS_HELP: [Event.PLAN, Event.RESET_FAILED],
    Phase.STOPPED: [Event.STOP],
}


def machine_in(phase: Phase) -> StateMachine:
    machine = StateMachine()
    for event in PATHS[phase]:
        machine.fire(event)
    assert machine.phase is phase
    return machine


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, Event)))
def test_every_pair_follows_the_table_or_is_refused(phase, event):
    machine = machine_in(phase)
    expected = TRANSITIONS.get((phase, event))
    if phase is Phase.PAUSED and event is Event.RESUME:
        expected = Phase.RUNNING  # where the path above paused
    assert machine.allows(event) is (expected is not None)
    if expected is None:
        with pytest.raises(UnknownTransitionError, match=f"{event.value}.*{phase.value}"):
            machine.fire(event)
        assert machine.phase is phase
    else:
        assert machine.fire(event) is expected
        assert machine.phase is expected


def test_every_phase_is_reached_and_can_be_left():
    assert set(PATHS) == set(Phase)
    for phase in Phase:
        leaving = {to for (source, _), to in TRANSITIONS.items() if source is phase}
        assert leaving - {phase}, f"{phase} is a dead end"


def test_stop_wins_everywhere_and_only_start_ends_it():
    for phase in Phase:
        machine = machine_in(phase)
        assert machine.fire(Event.STOP) is Phase.STOPPED
        leaving = [e for e in Event if machine.allows(e) and e is not Event.STOP]
        assert leaving == [Event.START]


def test_resume_goes_back_to_where_the_pause_was():
    between = StateMachine()
    between.fire(Event.PAUSE)
    assert between.fire(Event.RESUME) is Phase.IDLE
    within = machine_in(Phase.PAUSED)
    assert within.fire(Event.RESUME) is Phase.RUNNING
