"""Reward of consecutive ticks, gaps, and the detector of one episode."""

from __future__ import annotations

import math

import pytest

from efm_core.detector import DetectorSettings
from efm_core.observation import StepsToGo
from efm_reward_node.reward_logic import RewardLogic

SETTINGS = DetectorSettings(threshold=1.0, hold=2, release=0.5, minimum_ticks=1)


def feed(logic: RewardLogic, tick: int, d: float):
    return logic.take(tick, tick, StepsToGo(d, 0.1), SETTINGS)


def test_the_reward_is_the_steps_gained_since_the_last_tick():
    logic = RewardLogic()
    logic.begin("e1")
    d = [9.0, 8.5, 9.25, 3.0]
    rewards = [feed(logic, k, value).reward for k, value in enumerate(d)]
    assert rewards == pytest.approx([0.0, 0.5, -0.75, 6.25])
    assert sum(rewards) == pytest.approx(d[0] - d[-1])  # the sum telescopes


def test_a_missing_tick_gives_no_transition():
    logic = RewardLogic()
    logic.begin("e1")
    feed(logic, 0, 9.0)
    assert math.isnan(feed(logic, 2, 7.0).reward)
    assert feed(logic, 3, 6.0).reward == pytest.approx(1.0)


def test_a_node_that_comes_back_in_mid_episode_invents_no_reward():
    logic = RewardLogic()
    logic.begin("e1")
    assert math.isnan(feed(logic, 5, 7.0).reward)


def test_success_needs_agreeing_ticks_and_starts_anew_with_the_episode():
    logic = RewardLogic()
    logic.begin("e1")
    said = [feed(logic, k, d).success for k, d in enumerate([0.5, 0.5, 0.5, 0.5])]
    assert said == [False, False, True, True]  # tick 0 is below minimum_ticks, then two agree
    logic.begin("e2")
    assert [feed(logic, k, 0.5).success for k in range(3)] == [False, False, True]
