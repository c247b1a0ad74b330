"""The blocks and what can be asked about them: block-to-block instructions in natural phrasings.

Grammar: "<verb> the <block> <preposition> the <block>", with an optional polite opening; a block
is a colour and a shape, each of which has a few everyday synonyms. `parse_instruction` reads
every sentence that `sample_instruction` writes, and any mixture of the same words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

COLOURS: tuple[str, ...] = ("red", "blue", "green", "yellow")
SHAPES: tuple[str, ...] = ("moon", "cube", "star", "pentagon")

ALL_BLOCKS: tuple[str, ...] = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
"""All 16 colour-shape pairs; pre-training scenes draw from these."""

BLOCKS: tuple[str, ...] = (
    "red moon",
    "red pentagon",
    "blue moon",
    "blue cube",
    "green cube",
    "green star",
    "yellow star",
    "yellow pentagon",
)
"""LanguageTable's eight blocks."""

DEFAULT_BLOCKS: tuple[str, ...] = ("red moon", "blue cube", "green star", "yellow pentagon")
"""The four blocks in play in the demo and the benchmark."""

HELD_OUT_PAIRS: tuple[str, ...] = ("red star", "blue pentagon", "green moon")
"""Colour-shape pairs that pre-training never shows, to measure generalisation."""

SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "moon": ("moon", "crescent"),
    "cube": ("cube", "square"),
    "star": ("star",),
    "pentagon": ("pentagon",),
}
VERBS: tuple[str, ...] = ("push", "slide", "move", "nudge", "bring", "shove", "take", "put")
PREPOSITIONS: tuple[str, ...] = (
    "to",
    "towards",
    "next to",
    "up to",
    "over to",
    "close to",
    "beside",
    "against",
)
OPENINGS: tuple[str, ...] = ("", "please ", "can you ")
NOUN_ENDINGS: tuple[str, ...] = ("", " block")

_SHAPE_OF_WORD = {word: shape for shape, words in SHAPE_WORDS.items() for word in words}
_BLOCK = re.compile(rf"\b({'|'.join(COLOURS)})\s+({'|'.join(_SHAPE_OF_WORD)})\b")
_VERB = re.compile(rf"\b({'|'.join(VERBS)})\b")


def _words() -> tuple[str, ...]:
    parts = (*COLOURS, *_SHAPE_OF_WORD, *VERBS, *PREPOSITIONS, *OPENINGS, *NOUN_ENDINGS, "the")
    return tuple(sorted({word for part in parts for word in part.split()}))


VOCABULARY: tuple[str, ...] = _words()
"""Every word of every instruction, lower case, sorted."""


def canonical_instruction(block: str, destination: str) -> str:
    """The plainest phrasing, e.g. "push the red moon to the blue cube"."""
    return f"push the {block} to the {destination}"


def phrase_instruction(rng: np.random.Generator, block: str, destination: str) -> str:
    """A random phrasing of "push `block` to `destination`", lower case, words of VOCABULARY."""

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    def name(which: str) -> str:
        colour, shape = which.split()
        return f"the {colour} {pick(SHAPE_WORDS[shape])}{pick(NOUN_ENDINGS)}"

    opening, verb, preposition = pick(OPENINGS), pick(VERBS), pick(PREPOSITIONS)
    return f"{opening}{verb} {name(block)} {preposition} {name(destination)}"


def sample_instruction(
    rng: np.random.Generator, blocks: Sequence[str] = DEFAULT_BLOCKS
) -> str:
    """A random instruction about two different blocks of `blocks`.

    Raises ValueError when fewer than two blocks are given.
    """
    if len(blocks) < 2:
        raise ValueError(f"blocks={list(blocks)}: an instruction needs two; put more in play")
    first, second = rng.choice(len(blocks), size=2, replace=False)
    return phrase_instruction(rng, blocks[int(first)], blocks[int(second)])


def parse_instruction(text: str) -> tuple[str, str]:
    """Instruction -> (block to move, block to move it to), as names of ALL_BLOCKS.

    Raises ValueError when the text does not name a known verb and exactly two different blocks.
    """
    lowered = text.lower()
    found = [f"{colour} {_SHAPE_OF_WORD[word]}" for colour, word in _BLOCK.findall(lowered)]
    if len(found) != 2 or found[0] == found[1] or _VERB.search(lowered) is None:
        raise ValueError(
            f"instruction {text!r}: expected a verb of {list(VERBS)} and two different blocks, "
            f"found {found}; write for example {canonical_instruction(*BLOCKS[:2])!r}"
        )
    return found[0], found[1]
