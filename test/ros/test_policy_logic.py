"""One sample per stamp; late answers are counted; a frozen camera is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from efm_core.actions import ActionDim, ActionSpace
from efm_core.observation import Decision, Observation, draws
from efm_policy_node.camera_watch import FrozenWatch
from efm_policy_node.policy_logic import PolicyLogic

SPACE = ActionSpace(
    dims=(
        ActionDim(name="x", unit="m", low=-0.02, high=0.02, bins=5),
        ActionDim(name="y", unit="m", low=-0.02, high=0.02, bins=5),
    )
)


def observation(tick: int) -> Observation:
    return Observation({}, "push a to b", stamp_ns=1000 + tick, tick=tick)


def decision(bins) -> Decision:
    return Decision(np.array([bins]), -1.0, 1.0, 0.8)


def ask(logic: PolicyLogic, tick: int, received_s: float = 0.0):
    return logic.ask(observation(tick), 5, 0.8, {}, received_s)


def test_the_draws_are_those_of_seed_episode_and_tick():
    logic = PolicyLogic(SPACE)
    logic.begin("e1")
    asked = ask(logic, 3)
    assert asked is not None
    np.testing.assert_array_equal(asked.draws, draws(5, "e1", 3, 2))


def test_a_stamp_is_asked_about_once():
    logic = PolicyLogic(SPACE)
    logic.begin("e1")
    assert ask(logic, 0) is not None
    assert ask(logic, 0) is None
    logic.begin("e1")  # status repeated: nothing changes
    assert ask(logic, 0) is None
    logic.begin("e2")
    assert ask(logic, 0) is not None


def test_bins_become_values_in_units_and_latency_is_counted_against_the_period():
    logic = PolicyLogic(SPACE)
    logic.begin("e1")
    quick = logic.take(ask(logic, 0, 1.0), decision([0, 4]), "v1", 1.02)
    assert quick is not None
    np.testing.assert_allclose(quick.values, [[-0.02, 0.02]])
    assert quick.latency == pytest.approx(0.02)
    assert not quick.deadline_missed
    late = logic.take(ask(logic, 1, 2.0), decision([2, 2]), "v1", 2.11)  # 10 Hz: 0.1 s allowed
    assert late is not None
    assert late.deadline_missed
    assert (logic.decisions, logic.deadline_missed) == (2, 1)


def test_an_answer_that_was_overtaken_is_dropped():
    logic = PolicyLogic(SPACE)
    logic.begin("e1")
    old = ask(logic, 0)
    ask(logic, 1)
    assert old is not None
    assert logic.take(old, decision([0, 0]), "v1", 0.0) is None
    before_swap = ask(logic, 2)
    assert before_swap is not None
    logic.begin("e2")
    assert logic.take(before_swap, decision([0, 0]), "v1", 0.0) is None
    assert logic.decisions == 0


def test_a_question_on_which_the_model_failed_may_be_asked_again():
    logic = PolicyLogic(SPACE)
    logic.begin("e1")
    asked = ask(logic, 0)
    assert asked is not None
    logic.forget(asked)
    assert ask(logic, 0) is not None


def test_a_picture_that_stays_while_the_robot_moves_is_frozen_after_half_a_second():
    watch = FrozenWatch()
    assert not watch.update(1, True, 0.0)
    assert not watch.update(1, True, 0.1)
    assert not watch.update(1, True, 0.4)
    assert watch.update(1, True, 0.5)
    assert not watch.update(2, True, 0.6)


def test_a_still_scene_without_motion_is_not_frozen():
    watch = FrozenWatch()
    assert not any(watch.update(1, False, i / 10) for i in range(100))
