from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from efm_core.actions import ActionDim, ActionSpace

SPACE = ActionSpace(
    dims=(
        ActionDim(name="x", unit="m", low=-0.02, high=0.02, bins=21),
        ActionDim(name="angle", unit="rad", low=0.0, high=3.0, bins=4),
    ),
    chunk=2,
)


def test_bins_are_evenly_spaced_and_hold_both_limits_and_zero():
    # 21 bins over 0.04 m: one bin each 2 mm, the eleventh (index 10) is zero
    assert SPACE.encode([[-0.02, 0.0], [0.0, 3.0], [0.002, 1.0]]).tolist() == [
        [0, 0], [10, 3], [11, 1],
    ]  # fmt: skip
    # 0.0009 m lies nearer to 0 than to 0.002; 1.6 rad is 1.6 of its steps of 1 rad
    assert SPACE.encode([0.0009, 1.6]).tolist() == [10, 2]
    np.testing.assert_allclose(SPACE.decode([12, 2]), [0.004, 2.0], atol=1e-15)


def test_values_outside_are_clipped():
    assert SPACE.encode([9.0, -9.0]).tolist() == [20, 0]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=1))
def test_decoding_then_encoding_gives_the_same_bins(bins):
    assert SPACE.encode(SPACE.decode(bins)).tolist() == [list(row) for row in bins]


@given(st.floats(-0.02, 0.02), st.floats(0.0, 3.0))
def test_quantisation_error_is_at_most_half_a_bin(x, angle):
    back = SPACE.decode(SPACE.encode([x, angle]))
    assert abs(back[0] - x) <= 0.04 / 20 / 2 + 1e-12
    assert abs(back[1] - angle) <= 3.0 / 3 / 2 + 1e-12


@pytest.mark.parametrize("wrong", [[np.nan, 0.0], [np.inf, 0.0], [0.0], [[1, 2, 3]], 1.0])
def test_encoding_refuses_what_is_no_action(wrong):
    with pytest.raises(ValueError, match=r"NaN|shape"):
        SPACE.encode(wrong)


@pytest.mark.parametrize("wrong", [[21, 0], [0, 4], [-1, 0], [0]])
def test_decoding_refuses_bins_that_do_not_exist(wrong):
    with pytest.raises(ValueError, match="bins"):
        SPACE.decode(wrong)


def test_sizes_and_hash():
    assert (SPACE.size, SPACE.tokens, SPACE.names) == (2, 4, ("x", "angle"))
    assert SPACE.hash == ActionSpace.model_validate(SPACE.model_dump(mode="json")).hash
    assert SPACE.hash != SPACE.model_copy(update={"rate": 5.0}).hash


def test_limits_and_names_are_checked():
    with pytest.raises(ValidationError, match="below"):
        ActionDim(name="x", unit="m", low=1.0, high=1.0)
    dim = ActionDim(name="x", unit="m", low=0.0, high=1.0)
    with pytest.raises(ValidationError, match="repeat"):
        ActionSpace(dims=(dim, dim))
