from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_core.steps_to_go import StepsToGoBins, returns, rewards

distances = st.lists(st.floats(0, 50, width=32), min_size=2, max_size=30)
gammas = st.floats(0.0, 1.0)


def test_a_bin_stands_for_the_mean_of_its_whole_steps():
    assert StepsToGoBins(count=4, width=1).centres.tolist() == [0, 1, 2, 3]
    # width 4: bin 0 holds 0..3 with mean 1.5, bin 2 holds 8..11 with mean 9.5
    wide = StepsToGoBins(count=3, width=4)
    assert wide.centres.tolist() == [1.5, 5.5, 9.5]
    assert wide.index([0, 3, 4, 11, 12, 500]).tolist() == [0, 0, 1, 2, 2, 2]
    assert wide.horizon == 12
    with pytest.raises(ValueError, match="below zero"):
        wide.index([-1])


def test_expectation_and_deviation_of_a_fair_coin():
    bins = StepsToGoBins(count=11)
    p = np.zeros(11)
    p[[2, 6]] = 0.5  # mean 4, every draw 2 away from it
    assert bins.expectation(p) == pytest.approx(4.0)
    assert bins.deviation(p) == pytest.approx(2.0)


def test_soft_targets_are_a_normal_restricted_to_the_bins():
    bins = StepsToGoBins(count=5)
    target = bins.soft_targets([2, 7], sigma=1.0)
    weights = np.exp(-0.5 * np.array([4, 1, 0, 1, 4]))
    np.testing.assert_allclose(target[0], weights / weights.sum(), rtol=1e-6)
    assert target[1].argmax() == 4  # beyond the last bin belongs to the last
    assert bins.soft_targets([3], sigma=0.0).tolist() == [[0, 0, 0, 1, 0]]


def test_reward_is_the_progress_of_one_step():
    assert rewards([5.0, 3.0, 4.0]).tolist() == [2.0, -1.0]


def test_returns_by_hand():
    # R_1 = -1 + 0.5 * 8 = 3, R_0 = 2 + 0.5 * 3 = 3.5
    assert returns([2.0, -1.0], gamma=0.5, terminal_value=8.0).tolist() == [3.5, 3.0]
    with pytest.raises(ValueError, match="gamma"):
        returns([1.0], gamma=1.1)


@given(distances)
def test_undiscounted_returns_telescope(d):
    np.testing.assert_allclose(returns(rewards(d), 1.0), np.array(d[:-1]) - d[-1], atol=1e-9)


@given(distances, gammas)
def test_discounted_returns_telescope_up_to_the_cut(d, gamma):
    # r_i = d_i - d_{i+1}; summing by parts over i = t..T-1 leaves
    # R_t = d_t - (1 - gamma) sum_{i=t}^{T-2} gamma^(i-t) d_{i+1} - gamma^(T-1-t) d_T
    total = len(d) - 1
    for t, value in enumerate(returns(rewards(d), gamma)):
        middle = sum(gamma ** (i - t) * d[i + 1] for i in range(t, total - 1))
        expected = d[t] - (1 - gamma) * middle - gamma ** (total - 1 - t) * d[total]
        assert value == pytest.approx(expected, abs=1e-8)
