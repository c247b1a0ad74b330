from __future__ import annotations

import dataclasses

import pytest
from trainer.toy import GUARD, ToyBrain, ToyRobot, toy_model, toy_plan

from efm_core.episode import Mode
from efm_core.observation import draws
from efm_trainer.repeat import read_recorded, repeat
from efm_trainer.rollout import InProcessFleet

PLAN = toy_plan(Mode.EVALUATION, 4, limit=10, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Episodes under ids of another plan: their draws are not those of PLAN's own ids."""
    folder = tmp_path_factory.mktemp("data")
    other = PLAN.model_copy(update={"seed": 3, "plan_id": "elsewhere"})
    InProcessFleet([ToyRobot()], GUARD, folder).practise(other, brain())
    return read_recorded(folder / "evaluation", "elsewhere")


def brain() -> ToyBrain:
    return ToyBrain(toy_model(1), toy_model(2))


def test_draws_depend_on_the_id():
    assert draws(3, "a", 0, 4).tolist() != draws(3, "b", 0, 4).tolist()


def test_a_recorded_episode_decides_the_same_again(recorded):
    again = repeat(InProcessFleet([ToyRobot(), ToyRobot()], GUARD), brain(), PLAN, recorded)
    assert [r.episode_id for r in again] == [recorded[i].record.episode_id for i in range(4)]
    assert all(r.same and r.ticks == 10 for r in again)


def test_another_decision_is_noticed(recorded):
    changed = recorded[2].bins.copy()
    changed[6] = (changed[6] + 1) % 5
    recorded = {**recorded, 2: dataclasses.replace(recorded[2], bins=changed)}
    again = repeat(InProcessFleet([ToyRobot()], GUARD), brain(), PLAN, recorded)
    assert [r.same_decisions for r in again] == [10, 10, 6, 10]
    assert [r.missing for r in again] == [0] * 4
    assert str(again[0]).endswith(": all 10 decisions are the same")
    assert "decided otherwise at tick 6 of 10, ended the same" in str(again[2])


def test_a_decision_that_is_not_in_the_bag_is_said_to_be_missing(recorded):
    changed = recorded[1].bins.copy()
    changed[3] = -1
    recorded = {**recorded, 1: dataclasses.replace(recorded[1], bins=changed)}
    again = repeat(InProcessFleet([ToyRobot()], GUARD), brain(), PLAN, recorded)
    assert [(r.same_decisions, r.missing) for r in again] == [(10, 0), (3, 1), (10, 0), (10, 0)]
    assert "1 decisions are not in the bag" in str(again[1])


def test_a_missing_plan_is_named(recorded, tmp_path):
    with pytest.raises(ValueError, match="no episode of plan 'nothing'"):
        read_recorded(tmp_path, "nothing")
