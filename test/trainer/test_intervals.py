from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_trainer.intervals import paired_difference, wilson


def test_wilson_solves_its_own_equation():
    # The bounds are the p for which |k/n - p| = z sqrt(p (1 - p) / n).
    z = 1.959963984540054
    for low_or_high in wilson(63, 100):
        distance = abs(0.63 - low_or_high)
        assert distance == pytest.approx(z * (low_or_high * (1 - low_or_high) / 100) ** 0.5)


@given(n=st.integers(1, 500), data=st.data())
def test_wilson_holds_the_share_and_stays_in_range(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0.0 <= low <= k / n <= high <= 1.0


def test_wilson_refuses_more_successes_than_trials():
    with pytest.raises(ValueError, match="successes=3"):
        wilson(3, 2)
    assert wilson(0, 0) == (0.0, 1.0)


def test_paired_difference_matches_the_normal_approximation():
    before = np.array([0] * 60 + [1] * 140)
    after = np.array([1] * 40 + [0] * 20 + [1] * 130 + [0] * 10)
    mean, (low, high) = paired_difference(before, after)
    difference = after - before
    assert mean == pytest.approx(difference.mean())
    half = 1.96 * difference.std() / len(difference) ** 0.5
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.01)


def test_equal_outcomes_have_no_spread():
    assert paired_difference([1, 0, 1], [1, 0, 1]) == (0.0, (0.0, 0.0))
    with pytest.raises(ValueError, match="equal length"):
        paired_difference([1], [1, 0])
