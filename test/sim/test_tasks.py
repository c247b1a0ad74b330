"""Instructions: what is sampled can be parsed, and parsing refuses what is unclear."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_sim.tasks import (
    ALL_BLOCKS,
    BLOCKS,
    COLOURS,
    DEFAULT_BLOCKS,
    HELD_OUT_PAIRS,
    SHAPES,
    VOCABULARY,
    canonical_instruction,
    parse_instruction,
    phrase_instruction,
    sample_instruction,
)


@given(st.integers(0, 2**32), st.sampled_from(ALL_BLOCKS), st.sampled_from(ALL_BLOCKS))
def test_every_phrasing_is_parsed_back(seed: int, block: str, destination: str) -> None:
    if block == destination:
        return
    text = phrase_instruction(np.random.default_rng(seed), block, destination)
    assert parse_instruction(text) == (block, destination)
    assert set(text.split()) <= set(VOCABULARY)


@given(st.integers(0, 2**32))
def test_sampled_instructions_name_two_blocks_in_play(seed: int) -> None:
    first, second = parse_instruction(sample_instruction(np.random.default_rng(seed)))
    assert first != second
    assert {first, second} <= set(DEFAULT_BLOCKS)


def test_all_ordered_pairs_and_several_phrasings_occur() -> None:
    rng = np.random.default_rng(0)
    texts = [sample_instruction(rng) for _ in range(400)]
    assert len({parse_instruction(text) for text in texts}) == 4 * 3
    assert len(set(texts)) > 300


def test_capitals_do_not_matter() -> None:
    text = "Push the Red Crescent block to the BLUE square"
    assert parse_instruction(text) == ("red moon", "blue cube")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "push the red moon",
        "push the red moon to the red moon",
        "push the red banana to the blue cube",
        "the red moon and the blue cube",
        "push the red moon to the blue cube and the green star",
    ],
)
def test_unclear_instructions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write for example"):
        parse_instruction(text)


def test_block_sets() -> None:
    assert len(ALL_BLOCKS) == len(set(ALL_BLOCKS)) == len(COLOURS) * len(SHAPES) == 16
    assert len(BLOCKS) == 8
    assert set(DEFAULT_BLOCKS) < set(BLOCKS) < set(ALL_BLOCKS)
    assert set(HELD_OUT_PAIRS) < set(ALL_BLOCKS)
    assert not set(HELD_OUT_PAIRS) & set(DEFAULT_BLOCKS)
    # Each colour and each shape of a held-out pair is shown in other pairs.
    shown = set(ALL_BLOCKS) - set(HELD_OUT_PAIRS)
    for pair in HELD_OUT_PAIRS:
        colour, shape = pair.split()
        assert any(name.startswith(colour) for name in shown)
        assert any(name.endswith(shape) for name in shown)


def test_an_instruction_needs_two_blocks() -> None:
    with pytest.raises(ValueError, match="put more in play"):
        sample_instruction(np.random.default_rng(0), ["red moon"])
    assert canonical_instruction("red moon", "blue cube") == "push the red moon to the blue cube"
