"""Drawing action tokens: one autoregressive distribution, in numpy float64, for every back end.

The network ends in a context vector; from there on two tiny matrices per token decide, so that
the tokens are drawn here once for torch and ONNX Runtime alike and do not depend on either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Drawn = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]
"""Bins int64 (B, T), log-probability in nats float64 (B,), mean entropy in nats float64 (B,)."""
Sampler = Callable[[Any, "NDArray[np.float64]", float], Drawn]
"""Features of B observations, draws float64 (B, T), temperature -> tokens; see `draw_tokens`."""
LogitsOf = Callable[[int, "NDArray[np.int64] | None"], NDArray[np.floating]]
"""Token number t, bins (B,) of token t - 1 (None for the first) -> logits (B, legal bins of t)."""


def draw_tokens(
    logits_of: LogitsOf, draws: NDArray[np.float64], temperature: float
) -> Drawn:
    """Draw one token after another by inverse CDF, whatever gives their logits.

    draws float64 (B, T), uniform in [0, 1); temperature 0 is greedy. The log-probability is that of
    exactly these tokens (0 when greedy: that distribution has one outcome), the entropy that of the
    sampled conditional distributions, averaged over the tokens.
    Raises ValueError for a negative temperature and for logits that are not finite.
    """
    if not (temperature >= 0.0 and np.isfinite(temperature)):
        raise ValueError(f"temperature={temperature} must be finite and not negative")
    count = draws.shape[1]
    bins = np.empty(draws.shape, dtype=np.int64)
    log_prob, entropy = np.zeros(len(draws)), np.zeros(len(draws))
    for t in range(count):
        logits = logits_of(t, bins[:, t - 1] if t else None)
        log_p = _log_probabilities(np.asarray(logits, dtype=np.float64), t, temperature)
        bins[:, t] = _inverse_cdf(np.exp(log_p), draws[:, t])
        log_prob += np.take_along_axis(log_p, bins[:, t : t + 1], axis=1)[:, 0]
        entropy += _entropy(log_p) / count
    return bins, log_prob, entropy


@dataclass(frozen=True)
class TokenDecoder:
    """The end of the action head: logits of token t given the context and the tokens before it.

    logits_t = relu(context + position_t + sum_{j<t} embedding_j[bin_j]) @ weight_t + bias_t,
    the same formula as `efm_model.heads.ActionHead.logits`.

    position: float64 (T, W); embedding: (T, M, W); weight: (T, W, M); bias: (T, M), where T is
    the number of tokens, W the width and M the largest number of bins.
    bins: int64 (T,), legal bins of each token; the others never get any probability.
    """

    position: NDArray[np.float64]
    embedding: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    bins: NDArray[np.int64]

    def sample(
        self, context: NDArray[np.floating], draws: NDArray[np.float64], temperature: float
    ) -> Drawn:
        """`draw_tokens` of this head: context (B, W), draws float64 (B, T).

        Raises ValueError for a wrong shape of draws, and as `draw_tokens` does.
        """
        count = len(self.bins)
        if draws.shape != (len(context), count):
            raise ValueError(f"draws have shape {draws.shape}, expected {(len(context), count)}")
        hidden = np.asarray(context, dtype=np.float64).copy()

        def logits_of(t: int, before: NDArray[np.int64] | None) -> NDArray[np.float64]:
            if before is not None:
                hidden[:] += self.embedding[t - 1][before]
            return self._logits(hidden, t)

        return draw_tokens(logits_of, draws, temperature)

    def score(
        self, context: NDArray[np.floating], bins: NDArray[np.int64], temperature: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log-probability (B,) and mean entropy (B,), nats, of given tokens bins (B, T)."""
        hidden = np.asarray(context, dtype=np.float64).copy()
        log_prob, entropy = np.zeros(len(bins)), np.zeros(len(bins))
        for t in range(len(self.bins)):
            log_p = _log_probabilities(self._logits(hidden, t), t, temperature)
            log_prob += np.take_along_axis(log_p, bins[:, t : t + 1], axis=1)[:, 0]
            entropy += _entropy(log_p) / len(self.bins)
            hidden += self.embedding[t][bins[:, t]]
        return log_prob, entropy

    def _logits(self, hidden: NDArray[np.float64], t: int) -> NDArray[np.float64]:
        """Logits (B, legal bins) of token t."""
        legal = int(self.bins[t])
        active = np.maximum(hidden + self.position[t], 0.0)
        result: NDArray[np.float64] = active @ self.weight[t][:, :legal] + self.bias[t][:legal]
        return result


def _log_probabilities(
    logits: NDArray[np.float64], t: int, temperature: float
) -> NDArray[np.float64]:
    """Logits (B, M) of token t -> log-probabilities (B, M) at `temperature`, in nats."""
    if not np.all(np.isfinite(logits)):
        raise ValueError(
            f"action logits of token {t} are not finite; the checkpoint or its input is broken"
        )
    if temperature == 0.0:
        greedy: NDArray[np.float64] = np.full_like(logits, -np.inf)
        np.put_along_axis(greedy, logits.argmax(axis=1, keepdims=True), 0.0, axis=1)
        return greedy
    scaled = logits / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return result


def _inverse_cdf(
    probabilities: NDArray[np.float64], draws: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Rows of probabilities (B, M), draws (B,) -> the bin whose cumulative interval holds each."""
    cumulative = np.cumsum(probabilities, axis=1)
    cumulative /= cumulative[:, -1:]
    bins = (draws[:, None] >= cumulative).sum(axis=1)
    result: NDArray[np.int64] = np.minimum(bins, probabilities.shape[1] - 1).astype(np.int64)
    return result


def _entropy(log_p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in nats of rows of log-probabilities (B, M); 0 * log 0 counts as 0."""
    p = np.exp(log_p)
    terms = np.multiply(p, log_p, out=np.zeros_like(p), where=p > 0.0)
    result: NDArray[np.float64] = -terms.sum(axis=1)
    return result
