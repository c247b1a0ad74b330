"""Which ids of a model's own vocabulary stand for action bins, steps-to-go bins and questions."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from efm_core.actions import ActionSpace
from efm_core.steps_to_go import StepsToGoBins
from efm_model.vlm_config import GOAL, AnswerTokens
from efm_model.vlm_prompt import VlmPreprocessor

_SET_ASIDE = re.compile(r"[<\[]\|?_?(unused|reserved|extra|loc|seg)[a-z_]*-?\d+_?\|?[>\]]")
"""Tokens that tokenizers keep for users, PaliGemma's places and segments among them."""


def choose_ids(tokenizer: Any, rows: int, used: Collection[int], wanted: int) -> tuple[int, ...]:
    """`wanted` ids that ordinary text needs least, of an embedding of `rows` rows.

    First tokens that are set aside by name, then rows that no token names, then the last ordinary
    ids: vocabularies are ordered by frequency. Never a control token, never one of `used`, never an
    ordinary one of the first half. Raises ValueError when there are not enough.
    """
    named = {i: token for token, i in tokenizer.get_vocab().items() if i < rows}
    aside = sorted(i for i, token in named.items() if _SET_ASIDE.fullmatch(token))
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} - set(aside)
    unnamed = [i for i in range(rows) if i not in named]
    ordinary = [i for i in range(rows - 1, rows // 2 - 1, -1) if i in named and i not in control]
    order = dict.fromkeys((*aside, *unnamed, *ordinary))
    found = [i for i in order if i not in used]
    if len(found) < wanted:
        raise ValueError(
            f"its vocabulary of {rows} can spare {len(found)} ids, but {wanted} are needed for the "
            "bins of actions and steps-to-go; use fewer bins, or heads of their own (no --tokens)"
        )
    return tuple(found[:wanted])


def answer_tokens(
    preprocessor: VlmPreprocessor, rows: int, space: ActionSpace, steps: StepsToGoBins
) -> AnswerTokens:
    """The table for an action space and steps-to-go bins; see `choose_ids`."""
    tokenizer, used = preprocessor.processor.tokenizer, _used(preprocessor)
    most = max(dim.bins for dim in space.dims)
    ids = choose_ids(tokenizer, rows, used, 2 + most + steps.count)
    return AnswerTokens(
        ask_action=ids[0], ask_steps_to_go=ids[1], actions=ids[2 : 2 + most],
        steps_to_go=ids[2 + most :],
    )  # fmt: skip


def check_ids(
    tokens: AnswerTokens, preprocessor: VlmPreprocessor, rows: int, space: ActionSpace,
    steps: StepsToGoBins,
) -> None:  # fmt: skip
    """Raises ValueError for a table that does not fit its model, action space or bins."""
    wanted = (max(dim.bins for dim in space.dims), steps.count)
    found = (len(tokens.actions), len(tokens.steps_to_go))
    clash = set(tokens.ids) & _used(preprocessor)
    if found != wanted:
        fault = f"holds ids for {found} bins of actions and steps-to-go, {wanted} are needed"
    elif len(set(tokens.ids)) != len(tokens.ids):
        fault = "repeats an id"
    elif max(tokens.ids) >= rows:
        fault = f"names id {max(tokens.ids)}, the model's embedding has {rows} rows"
    elif clash:
        fault = f"names id {min(clash)}, which the prompt uses"
    else:
        return
    raise ValueError(f"config.json: transformers.tokens {fault}; copy the checkpoint again")


def _used(preprocessor: VlmPreprocessor) -> set[int]:
    """Ids of the prompt round the instruction, of padding and of pictures."""
    words = preprocessor.config
    prompt = preprocessor.processor.tokenizer(words.prompt.replace(GOAL, " "))["input_ids"]
    return {words.image_token_id, words.pad_id, *prompt}
