"""A vision-language model's own vocabulary in use: rows of its two ends, and its KV cache.

Input embedding and output layer stay frozen, tied or not. A head brings what it has learnt as rows
to add, at the positions of answers alone: the prompt is read as the model always read it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from efm_model.vlm_adapter import language_part


@dataclass
class Past:
    """What a pass leaves for the next: keys and values, and the last token's position, if given.

    mask: which tokens so far count, int64 (B, P).
    """

    cache: Any
    mask: Tensor
    position: Tensor | None

    def branch(self) -> Past:
        """A copy that grows on its own."""
        return Past(copy.deepcopy(self.cache), self.mask, self.position)


class Spoken:
    """Both ends of the vocabulary of one model in memory; only for the holder of its lock."""

    def __init__(self, model: Any, base: nn.Module, device: torch.device) -> None:
        """model: with its output layer; base: the same without, moved to `device` already."""
        output = model.get_output_embeddings()  # one of its own stays on the host: few rows count
        self._weight, self._bias = output.weight, getattr(output, "bias", None)
        self._device = device
        self._answers = 0
        self._where: Tensor | None = None
        self._delta: Tensor | None = None
        self._position: Tensor | None = None
        self.rule: Any = None
        """What was found out about the model's attention (`vlm_token_trunk.Rule`), once."""
        embedding = base.get_input_embeddings()  # type: ignore[operator]
        embedding.register_forward_hook(self._add_rows)
        language_part(base).register_forward_pre_hook(self._note, with_kwargs=True)

    @property
    def rows(self) -> int:
        """Ids that both ends have a row for."""
        return int(self._weight.shape[0])

    @property
    def width(self) -> int:
        """Size of the hidden state."""
        return int(self._weight.shape[1])

    def read(self, where: Tensor | None, delta: Tensor | None, answers: int) -> None:
        """In the next passes the last `answers` positions read their ids with rows added.

        where: id -> row of `delta`, int64 (rows,). delta: (n, width). Both lie where the
        model does. answers 0: none is changed.
        """
        self._answers = answers
        self._where, self._delta = where, delta

    def _add_rows(self, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not self._answers or self._where is None or self._delta is None:
            return None
        rows = self._where[inputs[0][:, -self._answers :]]
        added = functional.embedding(rows, self._delta).to(output.dtype)
        head, tail = output[:, : -self._answers], output[:, -self._answers :]
        return torch.cat([head, tail + added], dim=1)

    def _note(self, _: nn.Module, __: Any, given: dict[str, Any]) -> None:
        self._position = given.get("position_ids")

    def written(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The output layer's rows (n, width) and biases (n,) of ids (n,), frozen, float32."""
        chosen = ids.to(self._weight.device)
        weight = self._weight.detach()[chosen].float().to(self._device)
        if self._bias is None:
            return weight, torch.zeros(len(ids), device=self._device)
        return weight, self._bias.detach()[chosen].float().to(self._device)

    def scores(self, states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Hidden states (..., width), rows and biases -> logits float32 (..., n), on the CPU.

        What some models do to logits behind their output layer (soft caps, scales) is left out, in
        training and in use alike.
        """
        with torch.autocast(self._device.type, enabled=False):
            logits = functional.linear(states.float(), weight, bias)
        return logits.cpu()

    def past(self, cache: Any, mask: Tensor) -> Past:
        """The cache of the pass just made, over tokens with `mask` (B, P)."""
        return Past(cache, mask, None if self._position is None else self._position[..., -1:])


def go_on(run: Callable[..., Any], past: Past, ids: Tensor) -> Tensor:
    """One more token (B,) behind `past`, which grows: its hidden states (B, width).

    run: `FrozenVlm.run`. The position is told where the model was told that of the prompt: some
    models count pictures otherwise than by tokens, and keep that count of their last prompt.
    """
    past.mask = torch.cat([past.mask, torch.ones_like(past.mask[:, :1])], dim=1)
    inputs = {"input_ids": ids[:, None], "attention_mask": past.mask}
    if past.position is not None:
        past.position = past.position + 1
        inputs["position_ids"] = past.position
    found = run(inputs, past.cache)
    past.cache = found.past_key_values
    states: Tensor = found.last_hidden_state[:, -1]
    return states
