from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from efm_core.actions import ActionDim, ActionSpace
from efm_core.limits import (
    DimLimits,
    GuardSettings,
    braking_speed,
    cap_cartesian,
    dimension_limits,
    position_box,
)

positive = st.floats(1e-3, 10.0)


def distance(speed: float, acceleration: float, period: float) -> float:
    """What is covered when `speed` is held for one period and then lowered period by period."""
    covered = 0.0
    while speed > 0:
        covered += speed * period
        speed -= acceleration * period
    return covered


@given(st.floats(0.0, 2.0), positive, st.floats(0.01, 0.5))
def test_braking_uses_the_room_and_no_more(room, acceleration, period):
    speed = braking_speed(room, acceleration, period)
    assert distance(speed, acceleration, period) == pytest.approx(room, abs=1e-9)


def test_braking_by_hand():
    # a = 1 m/s^2, 0.1 s: 0.3, 0.2, 0.1 m/s cover 0.06 m; without room nothing moves
    assert braking_speed(0.06, 1.0, 0.1) == pytest.approx(0.3)
    assert braking_speed(0.005, 1.0, 0.1) == pytest.approx(0.05)
    assert braking_speed(0.0, 1.0, 0.1) == braking_speed(-1.0, 1.0, 0.1) == 0.0


def test_cartesian_dimensions_share_and_others_need_their_own():
    names = ("x", "y", "rz")
    space = ActionSpace(dims=tuple(ActionDim(name=n, unit="", low=-1, high=1) for n in names))
    own = {"rz": DimLimits(max_speed=2.0, max_acceleration=3.0)}
    speed, acceleration = dimension_limits(space, 1.0, 4.0, own)
    np.testing.assert_allclose(speed, [1 / math.sqrt(2)] * 2 + [2.0])
    np.testing.assert_allclose(acceleration, [4 / math.sqrt(2)] * 2 + [3.0])
    with pytest.raises(ValueError, match="'rz'"):
        dimension_limits(space, 1.0, 4.0, {})


def test_boxes(space):
    low, high = position_box(space, {"y": (-0.1, 0.3)})
    assert low.tolist() == [-math.inf, -0.1]
    assert high.tolist() == [math.inf, 0.3]
    with pytest.raises(ValueError, match="'z'"):
        position_box(space, {"z": (0.0, 1.0)})
    with pytest.raises(ValueError, match=r"workspace\.x"):
        position_box(space, {"x": (1.0, 1.0)})


def test_a_person_is_slowed_down_without_changing_direction(space):
    # 3-4-5: norm 0.5 m/s becomes 0.25 m/s
    np.testing.assert_allclose(cap_cartesian(space, [0.3, 0.4], 0.25), [0.15, 0.2])
    assert cap_cartesian(space, [0.1, 0.1], 0.25).tolist() == [0.1, 0.1]
    assert np.all(np.isfinite(cap_cartesian(space, [1e308, 1e308], 0.25)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stale_after": 0.6}, "stale_after"),
        ({"workspace": {"q": (0, 1)}}, "'q'"),
        ({"max_jump": {"q": 1.0}}, "max_jump"),
        ({"points": 2}, "points=2"),
        ({"max_speed": math.nan}, "max_speed"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_settings_that_promise_too_little_are_refused(space, change, said):
    with pytest.raises(ValidationError, match=said):
        GuardSettings(space=space, **change)


def test_a_delta_space_must_be_able_to_rest():
    dim = ActionDim(name="x", unit="m", low=0.01, high=0.02)
    with pytest.raises(ValidationError, match="include 0"):
        GuardSettings(space=ActionSpace(dims=(dim,)))
