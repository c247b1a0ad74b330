"""The two trainable heads on the backbone's features: action tokens and steps-to-go."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from efm_core.actions import ActionSpace
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import HeadConfig
from efm_model.decoding import Drawn, Sampler, TokenDecoder


def _perceptron(features: int, config: HeadConfig, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, config.hidden), nn.ReLU(), nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.hidden), nn.ReLU(), nn.Dropout(config.dropout),
        nn.Linear(config.hidden, out),
    )  # fmt: skip


def legal_bins(space: ActionSpace) -> tuple[Tensor, Tensor]:
    """Bins of each token int64 (T,), and which of the most bins of any it has, bool (T, M)."""
    bins = torch.tensor([dim.bins for dim in space.dims] * space.chunk)
    return bins, torch.arange(int(bins.max()))[None, :] < bins[:, None]


class ActionHead(nn.Module):
    """Autoregressive categorical distribution over the chunk x D tokens of a decision.

    Tokens run through the chunk step by step, dimensions in order within a step; token t sees all
    tokens before it through a sum of embeddings.
    """

    bins: Tensor
    legal: Tensor

    def __init__(self, features: int, space: ActionSpace, config: HeadConfig) -> None:
        super().__init__()
        bins, legal = legal_bins(space)
        tokens, most, width = len(bins), int(bins.max()), config.token_width
        self.body = _perceptron(features, config, width)
        self.position = nn.Parameter(torch.zeros(tokens, width))
        self.embedding = nn.Parameter(torch.randn(tokens, most, width) * 0.1)
        self.weight = nn.Parameter(torch.randn(tokens, width, most) * (0.5 / width**0.5))
        self.bias = nn.Parameter(torch.zeros(tokens, most))
        self.register_buffer("bins", bins, persistent=False)
        self.register_buffer("legal", legal, persistent=False)

    def context(self, features: Tensor) -> Tensor:
        """Features (B, F) -> context vector (B, W) that all tokens start from."""
        result: Tensor = self.body(features)
        return result

    def logits(self, features: Tensor, bins: Tensor) -> Tensor:
        """Teacher-forced logits (B, T, M): token t given the true tokens bins[:, :t].

        features (B, F), bins int64 (B, T). Illegal bins hold -inf.
        """
        tokens = torch.arange(self.bins.shape[0], device=bins.device)
        before = self.embedding[tokens[None, :], bins]
        before = torch.cumsum(before, dim=1) - before
        hidden = self.context(features)[:, None] + self.position + before
        result = torch.einsum("btw,twm->btm", functional.relu(hidden), self.weight) + self.bias
        return result.masked_fill(~self.legal, -torch.inf)

    def sampler(self) -> Sampler:
        """Draws tokens of features (B, F), with a copy of the present weights of its end."""
        decoder = self.decoder()

        def sample(features: Tensor, draws: NDArray[np.float64], temperature: float) -> Drawn:
            with torch.no_grad():
                context = self.context(features).double().cpu().numpy()
            return decoder.sample(context, draws, temperature)

        return sample

    def decoder(self) -> TokenDecoder:
        """The numpy float64 end of this head, with a copy of the present weights."""

        def array(tensor: Tensor) -> np.ndarray:
            return tensor.detach().cpu().double().numpy().copy()

        return TokenDecoder(
            position=array(self.position),
            embedding=array(self.embedding),
            weight=array(self.weight),
            bias=array(self.bias),
            bins=self.bins.cpu().numpy().copy(),
        )


class StepsToGoHead(nn.Module):
    """Categorical distribution over steps-to-go bins."""

    def __init__(self, features: int, bins: StepsToGoBins, config: HeadConfig) -> None:
        super().__init__()
        self.body = _perceptron(features, config, bins.count)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, F) -> logits (B, bins)."""
        result: Tensor = self.body(features)
        return result
