"""The manager's part in practice without resets: what it asks the robot for, and what it counts."""

from __future__ import annotations

import pytest
from manager.test_resets import POLL, Lab

from efm_core.episode import Mode
from efm_core.plan import EpisodePlan
from efm_core.reset_free import NO_SCENE
from efm_episode_manager.state_machine import Phase

VERSIONS = {"policy_version": "v1", "reward_version": "v1"}


class Free(Lab):
    """A simulated robot that is to practise without resets."""

    def practise(self, count=6, misses=2, **fields):
        episodes = [
            {"index": i, "instruction": "push it", "scene": {"seed": i, "lasting": True},
             "limit": 400}
            for i in range(count)
        ]  # fmt: skip
        plan = EpisodePlan(
            plan_id="free", mode=Mode.PRACTICE, misses=misses, episodes={"arm0": episodes},
            **VERSIONS, **fields,
        )  # fmt: skip
        self.conductor.set_plan(plan.model_dump_json())

    def episode(self, reason="", success=True):
        """Answer the request, run, end; the record."""
        self.answer_scene(reason=reason)
        self.run()
        record = self.conductor.core.session.record
        (self.operator.success if success else self.operator.failure)()
        self.live(0.6)
        self.finish_job()
        return record


@pytest.fixture
def world(tmp_path):
    made = Free(tmp_path, {"kind": "simulator"})
    made.beat()
    made.practise()
    return made


def fields(record):
    return record.reset, record.reset_asked, record.reset_reason, record.scene_seed


def test_the_robot_decides_and_its_reason_is_an_intervention(world):
    assert world.scenes[-1]["lasting"] is True
    assert fields(world.episode(NO_SCENE)) == ("simulator", True, NO_SCENE, None)
    assert fields(world.episode()) == ("simulator", False, "", None)
    assert world.scenes[-1]["lasting"] is True
    assert world.status["resets_asked_total"] == "1"
    assert world.status["interventions_per_100"] == "50.00"  # one in two episodes


def test_failures_in_a_row_bring_a_full_reset(world):
    world.episode(success=False)
    world.episode(success=False)
    assert "lasting" not in world.scenes[-1]
    assert world.scenes[-1]["seed"] == 2
    world.answer_scene("failed")  # a failed try is no second intervention
    assert "lasting" not in world.scenes[-1]
    record = world.episode(success=False)
    assert record.reset_reason == "2 episodes in a row without success"
    assert world.status["resets_asked_total"] == "1"
    assert world.scenes[-1]["lasting"] is True  # the count begins anew
    assert not world.episode(success=True).reset_asked
    assert world.scenes[-1]["lasting"] is True


def test_a_start_that_comes_to_nothing_is_counted_once_and_named_in_the_end(world):
    world.answer_scene(reason="the red moon has fallen off")
    assert world.phase is Phase.READY
    world.present.remove("robot")
    for _ in range(80):
        world.beat(POLL)
    assert world.phase is not Phase.READY
    world.present.add("robot")
    for _ in range(200):
        world.beat(POLL)
        if world.phase is Phase.RESETTING:
            break
    assert "lasting" not in world.scenes[-1]
    record = world.episode()
    assert record.reset_reason == "the red moon has fallen off"
    assert world.status["resets_asked_total"] == "1"


def test_somebody_who_asks_gets_a_full_reset(world):
    world.episode()
    world.answer_scene(reason="")
    world.run()
    assert world.operator.ask_reset()[0]
    world.live(POLL)
    world.finish_job()
    assert "lasting" not in world.scenes[-1]
    record = world.episode()
    assert fields(record)[:2] == ("simulator", True)
    assert world.status["resets_asked_total"] == "1"
    assert world.scenes[-1]["lasting"] is True


def test_a_robot_that_practises_without_resets_asks_after_its_failures(tmp_path):
    world = Free(tmp_path, {"kind": "none", "asked": {"kind": "person"}}, simulated=False)
    world.beat()
    world.practise(misses=1)
    for _ in range(2):
        world.run()
        world.operator.failure()
        world.live(0.6)
        world.finish_job()
        assert world.status["waits_for"] == "person"
        world.operator.reset_done()
        assert world.conductor.core.session.record.reset_asked
    assert world.status["resets_asked_total"] == "2"
