"""Answers as tokens of the vision-language model's own vocabulary, in place of linear heads.

The heads pass observations through the language model and read the logits of their own ids at the
end, renormalised over the bins that are legal there:

    prompt, <ask action>, a_0, a_1, ...          prompt, <ask steps to go>, d

Each head owns the rows it has learnt; the rest of the model is frozen, or the trunk's adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from efm_core.actions import ActionSpace
from efm_model.decoding import Drawn, Sampler, draw_tokens
from efm_model.heads import legal_bins
from efm_model.vlm_spoken import Past, go_on
from efm_model.vlm_token_trunk import Group, Prefilled, TokenTrunk


class TokenHead(nn.Module):
    """What both heads are: learnt rows of some ids, and the way through the language model.

    embedding: (1 + fed, width), added where the question and `fed` answers are read. weight:
    (bins, width), added to the output layer's rows. Both are zero at first, and lie where the model
    does.
    """

    ids: Tensor
    where: Tensor
    written: Tensor
    bias: Tensor

    def __init__(self, trunk: TokenTrunk, ask: int, ids: Sequence[int], fed: int) -> None:
        super().__init__()
        self._owner = (trunk,)  # in a tuple: not a module of this one, whose state is its rows
        self._ask = ask
        width, device = trunk.spoken.width, trunk.vlm.device
        self.embedding = nn.Parameter(torch.zeros(1 + fed, width, device=device))
        self.weight = nn.Parameter(torch.zeros(len(ids), width, device=device))
        where = torch.zeros(trunk.spoken.rows, dtype=torch.int64)
        where[torch.tensor(ids[:fed], dtype=torch.int64)] = torch.arange(1, fed + 1)
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        written, bias = trunk.spoken.written(self.ids)
        self.register_buffer("written", written, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("where", where.to(device), persistent=False)

    @property
    def trunk(self) -> TokenTrunk:
        """Whose language model answers."""
        return self._owner[0]

    def _alone(self) -> AbstractContextManager[None]:
        return self.trunk.vlm.using(self.trunk.matrices(), self.embedding, self.weight)

    def _whole(self, group: Group, answers: Tensor) -> Tensor:
        """Logits (b, n + 1, bins) behind the question and each of `answers` (b, n): one pass."""
        trunk, ids = self.trunk, torch.cat([self._question(group), answers], dim=1)
        trunk.spoken.read(self.where, self.embedding, ids.shape[1])
        states = trunk.vlm.run(trunk.behind(group, ids)).last_hidden_state[:, -ids.shape[1] :]
        return self._scores(states)

    def _scores(self, states: Tensor) -> Tensor:
        return self.trunk.spoken.scores(states, self.written + self.weight, self.bias)

    def _start(self, group: Group) -> tuple[Tensor, Past]:
        """Logits (b, bins) behind the question, and the cache that holds it."""
        trunk, ask = self.trunk, self._question(group)
        trunk.spoken.read(self.where, self.embedding, 1)
        if group.past is not None:
            past = group.past.branch()
            state = go_on(trunk.vlm.run, past, ask[:, 0])
        else:
            inputs = trunk.behind(group, ask)
            out = trunk.vlm.run(inputs, keep=True)
            past = trunk.spoken.past(out.past_key_values, inputs["attention_mask"])
            state = out.last_hidden_state[:, -1]
        return self._scores(state), past

    def _question(self, group: Group) -> Tensor:
        return torch.full((len(group.rows), 1), self._ask)


class TokenActionHead(TokenHead):
    """As `efm_model.heads.ActionHead`, by the language model: features are those of its trunk."""

    bins: Tensor
    legal: Tensor

    def __init__(self, trunk: TokenTrunk, space: ActionSpace) -> None:
        tokens = trunk.tokens
        super().__init__(trunk, tokens.ask_action, tokens.actions, len(tokens.actions))
        bins, legal = legal_bins(space)
        self.register_buffer("bins", bins, persistent=False)
        self.register_buffer("legal", legal, persistent=False)

    def logits(self, features: Tensor, bins: Tensor) -> Tensor:
        """Teacher-forced logits (B, T, M): token t given the true tokens bins[:, :t], in one pass.

        features uint8 (B, F), bins int64 (B, T). Illegal bins hold -inf.
        """
        parts = []
        for group in self.trunk.groups(features):
            with self._alone():
                parts.append(self._whole(group, self.ids[bins[group.rows, :-1]]))
        return torch.cat(parts).masked_fill(~self.legal, -torch.inf)

    def sampler(self) -> Sampler:
        """`sample`; weights that change later count."""
        return self.sample

    def sample(
        self, features: Tensor | Prefilled, draws: NDArray[np.float64], temperature: float
    ) -> Drawn:
        """`draw_tokens` with a KV cache: the prompt is read once, then one token at a time."""
        if draws.ndim != 2 or draws.shape[1] != len(self.bins):
            raise ValueError(f"draws have shape {draws.shape}, expected (B, {len(self.bins)})")
        bins = np.empty(draws.shape, dtype=np.int64)
        log_prob, entropy = np.zeros(len(draws)), np.zeros(len(draws))
        for group in self.trunk.groups(features):
            rows = group.rows.numpy()
            with torch.no_grad(), self._alone():
                found = self._sample(group, draws[rows], temperature)
            bins[rows], log_prob[rows], entropy[rows] = found
        return bins, log_prob, entropy

    def _sample(self, group: Group, draws: NDArray[np.float64], temperature: float) -> Drawn:
        scores, past = self._start(group)

        def logits_of(t: int, before: NDArray[np.int64] | None) -> NDArray[np.floating]:
            found = scores
            if before is not None:
                state = go_on(self.trunk.vlm.run, past, self.ids[torch.from_numpy(before.copy())])
                found = self._scores(state)
            legal: NDArray[np.floating] = found[:, : int(self.bins[t])].numpy()
            return legal

        return draw_tokens(logits_of, draws, temperature)


class TokenStepsToGoHead(TokenHead):
    """As `efm_model.heads.StepsToGoHead`, by the language model."""

    def __init__(self, trunk: TokenTrunk) -> None:
        super().__init__(trunk, trunk.tokens.ask_steps_to_go, trunk.tokens.steps_to_go, 0)

    def forward(self, features: Tensor | Prefilled) -> Tensor:
        """Features uint8 (B, F) -> logits (B, bins)."""
        parts = []
        for group in self.trunk.groups(features):
            with self._alone():
                if group.past is None:
                    nothing = torch.empty((len(group.rows), 0), dtype=torch.int64)
                    parts.append(self._whole(group, nothing)[:, 0])
                else:
                    parts.append(self._start(group)[0])
        return torch.cat(parts)
