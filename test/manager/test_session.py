"""One episode's bookkeeping: ticks, still frames, limits, who belongs to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_core.episode import EpisodeRecord, Mode, Outcome
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_episode_manager.session import Session, TickGrid, Verdict

ID = "0b5cc1a4-0000-4000-8000-000000000001"
START = 1_795_000_000_123_456_789


def session(mode=Mode.PRACTICE, limit=10, end_on_success=True, exact=True, **plan) -> Session:
    record = EpisodeRecord(
        episode_id=ID, mode=mode, robot="arm", instruction="push", transport="dds",
        clock="lockstep" if exact else "real", rate=10.0, start_ns=START,
    )  # fmt: skip
    made = EpisodePlan(
        plan_id="p", mode=mode, end_on_success=end_on_success, episodes={}, **plan
    )
    return Session(made, PlannedEpisode(index=0, limit=limit), record, TickGrid(START, 10.0, exact))


def run(s: Session, successes=(), ticks=100) -> list[Verdict]:
    """Play a lockstep world: observe, and send what is asked for."""
    verdicts = []
    for k in range(ticks):
        verdict = s.observed(s.grid.stamp(k), k in successes)
        verdicts.append(verdict)
        if verdict is Verdict.CONCLUDE:
            s.end(k, Outcome.SUCCESS, "detector")
            verdict = Verdict.GO
        if verdict is not Verdict.GO:
            return verdicts
        s.sent += 1
    return verdicts


@given(rate=st.floats(0.5, 1000.0), k=st.integers(0, 100_000), off=st.integers(1, 200_000))
def test_a_stamp_on_the_grid_gives_its_tick_and_others_none(rate, k, off):
    grid = TickGrid(START, rate)
    assert grid.tick(grid.stamp(k)) == k
    if off < 0.5e9 / rate:
        assert grid.tick(grid.stamp(k) + off) is None
    assert grid.tick(START - off) is None


def test_real_time_stamps_belong_to_the_period_they_fall_into():
    grid = TickGrid(START, 10.0, exact=False)
    assert [grid.tick(START + d) for d in (-1, 0, 99_999_999, 100_000_000)] == [None, 0, 0, 1]


def test_time_limit_comes_with_the_observation_after_the_last_tick():
    s = session(limit=3)
    assert run(s) == [Verdict.GO] * 3 + [Verdict.TIMEOUT]
    assert (s.sent, s.seen) == (2, 3)


def test_success_is_followed_by_four_still_frames():
    s = session(limit=10)
    # ticks 0, 1 executed; success at 2; ticks 2..5 still; observation 6 is the fourth still frame
    assert run(s, {2}) == [Verdict.GO] * 2 + [Verdict.CONCLUDE] + [Verdict.GO] * 3 + [
        Verdict.FINISHED
    ]
    assert (s.record.ticks, s.sent, s.seen) == (2, 5, 6)
    assert s.record.success_tick == 2
    assert s.record.end_ns == START + 200_000_000


def test_evaluation_goes_on_after_success_and_keeps_the_first():
    s = session(Mode.EVALUATION, limit=6, end_on_success=False)
    assert run(s, {2, 4})[-1] is Verdict.TIMEOUT
    assert s.record.success_tick == 2
    assert s.conclusion(reward_alive=True) is Outcome.SUCCESS


@pytest.mark.parametrize(
    ("mode", "alive", "expected"),
    [
        (Mode.PRACTICE, True, Outcome.FAILURE),
        (Mode.PRACTICE, False, Outcome.UNKNOWN),
        (Mode.DEMO, True, Outcome.UNKNOWN),
    ],
)
def test_without_the_detectors_word_nothing_is_a_success(mode, alive, expected):
    assert session(mode).conclusion(alive) is expected


def test_a_repeated_observation_repeats_the_tick_and_others_are_ignored():
    s = session()
    run(s, ticks=3)  # sent 0, 1, 2
    assert s.observed(s.grid.stamp(2), False) is Verdict.REPEAT
    assert s.observed(s.grid.stamp(1), False) is Verdict.IGNORE
    assert s.observed(s.grid.stamp(5), False) is Verdict.IGNORE
    assert s.observed(s.grid.stamp(3) + 1, False) is Verdict.IGNORE
    assert s.observed(s.grid.stamp(3), False) is Verdict.GO


def test_real_time_success_concludes_and_nothing_else_steps():
    s = session(exact=False)
    assert s.observed(START + 50_000_000, False) is Verdict.IGNORE
    assert s.observed(START + 450_000_000, True) is Verdict.CONCLUDE
    assert s.record.success_tick == 4
    s.end(4, Outcome.SUCCESS, "detector")
    assert s.observed(START + 550_000_000, True) is Verdict.IGNORE


def test_a_tick_counts_as_decision_once_the_guard_answered_it():
    s = session()
    assert s.decisions(0) == 0
    run(s, ticks=4)  # ticks 0..3 sent
    s.guard_acted(s.grid.stamp(2), 1)
    assert s.decisions(0) == 3
    s.guard_acted(s.grid.stamp(3), 1)
    assert s.decisions(0) == 4
    s.guard_acted(s.grid.stamp(4) + 7, 0)  # a timer's hold is no answer
    assert s.decisions(0) == 4


def test_interventions_are_joined_stretches_of_teleop_outside_demonstrations():
    s = session()
    for tick, source in enumerate([1, 2, 2, 1, 2]):
        s.guard_acted(s.grid.stamp(tick), source)
    spans = [(i.start_ns - START, i.end_ns - START) for i in s.record.interventions]
    assert spans == [(100_000_000, 300_000_000), (400_000_000, 500_000_000)]
    demo = session(Mode.DEMO)
    demo.guard_acted(demo.grid.stamp(0), 2)
    assert demo.record.interventions == []


def test_only_answers_of_this_episode_and_version_belong_to_it():
    s = session(policy_version="p2", reward_version="r1")
    assert s.accepts("policy/action_chunk", ID)
    assert not s.accepts("policy/action_chunk", ID.replace("1", "2"))
    assert s.accepts("policy/decision", "p2")
    assert not s.accepts("policy/decision", "p1")
    assert not s.accepts("reward/state", "r0")
    assert session().accepts("policy/decision", "whatever")
    assert s.accepts("joint_states", "base")


def test_an_episode_keeps_to_the_version_that_echoed_first():
    """After a rollback the plan still names none: the next episode may be another version's."""
    s = session(policy_version="", reward_version="r1")
    s.echo("policy", "p2")
    s.echo("reward", "r1")
    assert s.echoed == {"policy", "reward"}
    assert (s.record.policy_version, s.wanted_version("policy")) == ("p2", "p2")
    assert s.accepts("policy/decision", "p2")
    assert not s.accepts("policy/decision", "p1")
    assert session().wanted_version("policy") == ""


def test_who_must_answer_depends_on_the_plan():
    assert session(Mode.PRACTICE).models == ("policy", "reward")
    assert session(Mode.DEMO).models == ()
    assert session(Mode.DEMO, reward_version="r1").models == ("reward",)
    s = session(Mode.PRACTICE)
    s.echoed |= {"policy", "reward"}
    s.answered |= {"policy", "robot"}
    assert not s.ready
    s.answered.add("reward")
    assert s.ready
