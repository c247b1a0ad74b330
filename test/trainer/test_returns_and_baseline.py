from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_trainer.baseline import Baseline, Segment, advantages, fit_baseline

D = st.lists(st.floats(0.0, 40.0), min_size=2, max_size=30)


@given(d=D, gamma=st.floats(0.0, 1.0))
def test_return_telescopes_into_core_reward_and_own_baseline(d, gamma):
    # R_t = sum_k gamma^k (d_k - d_{k+1}); collecting each d once gives
    # R_0 = d_0 - (1 - gamma) sum_{k=1}^{T-1} gamma^(k-1) d_k - gamma^(T-1) d_T.
    got = Segment(np.array(d), bootstrap=False).returns(gamma, 0.0)[0]
    last = len(d) - 1
    expected = d[0] - gamma ** (last - 1) * d[last]
    expected -= (1 - gamma) * sum(gamma ** (k - 1) * d[k] for k in range(1, last))
    assert got == pytest.approx(expected, abs=1e-9)


def test_only_a_cut_stretch_bootstraps():
    d = np.array([4.0, 3.0, 1.0])
    ended, cut = Segment(d, bootstrap=False), Segment(d, bootstrap=True)
    # r = 1, 2; with gamma 0.5 and a tail of 8: R_1 = 2 + 0.5 * 8, R_0 = 1 + 0.5 * R_1.
    assert ended.returns(0.5, 8.0) == pytest.approx([2.0, 2.0])
    assert cut.returns(0.5, 8.0) == pytest.approx([4.0, 6.0])


def test_baseline_recovers_a_cubic_of_d():
    # Stretches of one decision with gamma 0 have R = d_0 - d_1: choose d_1 so that R is a cubic.
    first = np.linspace(0.0, 20.0, 50)
    wanted = 0.5 + 0.1 * first - 0.02 * first**2 + 0.001 * first**3
    segments = [Segment(np.array([a, a - r]), False) for a, r in zip(first, wanted, strict=True)]
    baseline = fit_baseline(segments, gamma=0.0)
    assert baseline(first) == pytest.approx(wanted, abs=0.01)


def test_baseline_of_cut_episodes_is_its_own_fixed_point():
    # d falls by 1 per step for ever, and every stretch is cut: b(d) = 1 / (1 - gamma) everywhere.
    segments = [Segment(np.arange(start, start - 6, -1.0), True) for start in range(10, 40)]
    baseline = fit_baseline(segments, gamma=0.5)
    assert baseline(np.linspace(5.0, 40.0, 8)) == pytest.approx(2.0, abs=0.05)


def test_fit_without_decisions_is_refused():
    with pytest.raises(ValueError, match="no decision"):
        fit_baseline([Segment(np.array([1.0]), False)], 0.9)


@given(d=D, gamma=st.floats(0.0, 1.0), bootstrap=st.booleans(), zero=st.booleans())
def test_advantage_with_lambda_one_is_return_minus_baseline(d, gamma, bootstrap, zero):
    baseline = Baseline(np.array([0.3, 1.0, -0.5, 0.2]), scale=40.0)
    segment = Segment(np.array(d), bootstrap)
    tail = 0.0 if zero else float(baseline(segment.steps_to_go[-1]))
    expected = segment.returns(gamma, tail) - baseline(segment.steps_to_go[:-1])
    got = advantages(segment, baseline, gamma, 1.0, zero_past_end=zero)
    assert got == pytest.approx(expected, abs=1e-9)


def test_advantage_with_lambda_zero_looks_one_step_ahead():
    baseline = Baseline(np.array([1.0, 1.0, 0.0, 0.0]), scale=1.0)  # b(d) = 1 + d
    got = advantages(Segment(np.array([3.0, 2.0, 0.0]), False), baseline, 0.5, 0.0)
    # delta_0 = 1 + 0.5 * 3 - 4, delta_1 = 2 + 0.5 * 0 - 3 (nothing follows a success)
    assert got == pytest.approx([-1.5, -1.0])
