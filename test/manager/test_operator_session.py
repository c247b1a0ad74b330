"""What a person asks of the manager round a take: end, finish, judge, discard, pause between."""

from __future__ import annotations

import json

import pytest
from manager.test_conductor import Played

from efm_core import topics
from efm_core.bags import check_episode, list_episodes
from efm_core.episode import Outcome
from efm_core.plan import EpisodePlan
from efm_episode_manager.plans import saved_indices
from efm_episode_manager.state_machine import Phase


@pytest.fixture
def world(tmp_path):
    made = Played(tmp_path)
    made.present -= {"policy", "reward"}
    return made


def run(world, ticks=3, **plan):
    """A demonstration that has gone on for some ticks."""
    world.until_running(**{"mode": "demo", "limit": 50, **plan})
    for tick in range(1, ticks + 1):
        world.observe(tick)


def status(world):
    return world.conductor.core.status()


def test_end_saves_unjudged_and_the_verdict_may_come_before_or_after_the_disk(world):
    run(world)
    assert world.operator.end()[0]
    assert not world.operator.end()[0]  # no take runs
    assert status(world)["last_label"] == "unknown"
    assert world.operator.label_success()[0]  # the bag is still open
    world.now += 1.0
    world.conductor.poll()
    world.finish_job()
    (record,) = world.records()
    assert (record.outcome, record.termination_reason) == (Outcome.UNKNOWN, "operator")
    assert (record.labels.operator, record.labels.operator_source) == (True, "person")
    assert world.operator.label_failure()[0]
    (record,) = world.records()
    assert (record.labels.operator, record.ticks) == (False, 4)
    assert check_episode(list_episodes(world.data / "set")[0]) == []
    assert status(world)["last_label"] == "failure"


def test_end_before_anything_was_done_is_refused(world):
    world.beat()
    world.plan(mode="demo", limit=50)
    world.reset_done()
    world.beat()
    world.observe(0, acted=False)
    assert world.phase is Phase.RUNNING
    good, why = world.operator.end()
    assert (good, "discard" in why) == (False, True)


@pytest.mark.parametrize("saved_first", [True, False])
def test_a_discarded_take_leaves_the_data_set_and_is_not_repeated(world, saved_first):
    run(world, count=2)
    world.operator.success()
    for tick in range(4, 9):
        world.observe(tick, acted=False)
    if saved_first:
        world.finish_job()
    assert world.operator.discard_last()[0]
    assert not world.operator.discard_last()[0]
    assert not world.operator.label_success()[0]
    if not saved_first:
        world.finish_job()
    assert world.records() == []
    (away,) = (world.data / "set" / ".discarded").iterdir()
    assert json.loads((away / "episode.json").read_text())["index"] == 0
    assert (status(world)["discarded_total"], status(world)["plan_done"]) == ("1", "1")
    assert saved_indices(world.data / "set", "p", "arm0") == {0}  # also after a restart
    assert world.conductor.core.session.planned.index == 1


def test_a_redone_take_is_recorded_at_once_with_the_same_scene(world):
    run(world, count=2)
    first = world.episode_id
    assert world.operator.discard()[0]
    core = world.conductor.core
    world.now += 1.0
    world.conductor.poll()
    assert core.session.planned.index == 0
    assert core.session.record.episode_id != first
    world.finish_job()
    assert (status(world)["redone_total"], status(world)["plan_done"]) == ("1", "0")
    assert core.session.planned.index == 0
    assert list((world.data / "set").iterdir()) == []


def test_finish_keeps_the_running_take_and_begins_no_other(world):
    run(world, count=5)
    assert world.operator.finish()[0]
    assert (status(world)["plan_total"], status(world)["plan_done"]) == ("1", "0")
    world.now += 1.0
    world.conductor.poll()
    world.finish_job()
    assert (status(world)["plan_total"], status(world)["plan_done"]) == ("1", "1")
    assert world.phase is Phase.IDLE
    (record,) = world.records()
    assert record.outcome is Outcome.UNKNOWN
    world.plan(count=5, mode="demo", limit=50)  # the same list goes on
    world.beat()
    assert world.phase is Phase.RESETTING
    assert world.conductor.core.session.planned.index == 1


def test_finish_in_a_reset_and_in_a_pause_leaves_the_manager_idle(world):
    world.beat()
    world.plan(mode="demo", limit=50)
    assert world.phase is Phase.RESETTING
    world.operator.finish()
    assert (world.phase, status(world)["plan_total"]) == (Phase.IDLE, "0")
    world.operator.pause_next()
    world.plan(mode="demo", limit=51)
    assert world.phase is Phase.PAUSED
    world.operator.finish()
    assert world.phase is Phase.IDLE
    assert world.records() == []


def test_a_round_of_practice_is_not_the_operators_to_finish(world):
    plan = EpisodePlan(plan_id="r", mode="practice", round=0, episodes={"arm0": [{"index": 0}]})
    world.conductor.set_plan(plan.model_dump_json())
    assert not world.operator.finish()[0]


def test_pause_next_lets_the_take_run_and_holds_the_next(world):
    run(world, count=2)
    assert world.operator.pause_next()[0]
    assert world.phase is Phase.RUNNING
    world.operator.end()
    world.now += 1.0
    world.conductor.poll()
    world.finish_job()
    assert world.phase is Phase.PAUSED
    world.operator.resume()
    world.beat()
    assert world.phase is Phase.RESETTING


def test_a_person_may_take_a_break_and_a_takeover_too(tmp_path):
    world = Played(tmp_path)
    world.until_running(limit=50)
    world.observe(1, acted=False)
    world.guard(world.start + 1 * PERIOD, TELEOP)
    world.present -= {"guard"}  # silent while the world waits
    world.observe(2, acted=False)
    for _ in range(300):
        world.beat()
    assert world.phase is Phase.RUNNING
    world.observe(2, acted=False)
    world.guard(world.start + 2 * PERIOD, 1)  # given back
    for _ in range(120):
        world.beat()
    assert world.ended().termination_reason in ("fault:guard", "fault:stalled")


PERIOD, TELEOP = 100_000_000, 2


def test_rates_and_free_space_are_reported_once_per_second(world):
    run(world, ticks=0)
    for tick in range(1, 11):
        world.now += 0.1
        world.observe(tick)
    world.now += 0.1
    rates = json.loads(status(world)["rates"])
    assert 5.0 <= rates[topics.camera("front").name] <= 10.0
    assert int(status(world)["free_mb"]) >= 0
