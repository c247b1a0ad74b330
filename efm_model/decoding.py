"""Drawing action tokens: one autoregressive distribution, in numpy float64, for every back end.

The network ends in a context vector; from there on two tiny matrices per token decide, so that
the tokens are drawn here once for torch and ONNX Runtime alike and do not depend on either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Draw tokens by inverse CDF.

        context (B, W); draws float64 (B, T), uniform in [0, 1); temperature 0 is greedy.
        Returns bins int64 (B, T), log-probability in nats of exactly these tokens float64 (B,)
        (0 when greedy: that distribution has one outcome) and entropy in nats of the sampled
        conditional distributions, averaged over the tokens, float64 (B,).
        Raises ValueError for a wrong shape of draws, a negative temperature or logits that are
        not finite.
        """
        count = len(self.bins)
        if draws.shape != (len(context), count):
            raise ValueError(f"draws have shape {draws.shape}, expected {(len(context), count)}")
        if not (temperature >= 0.0 and np.isfinite(temperature)):
            raise ValueError(f"temperature={temperature} must be finite and not negative")
        hidden = np.asarray(context, dtype=np.float64).copy()
        bins = np.empty(draws.shape, dtype=np.int64)
        log_prob, entropy = np.zeros(len(draws)), np.zeros(len(draws))
        for t in range(count):
            log_p = self._log_probabilities(hidden, t, temperature)
            bins[:, t] = _inverse_cdf(np.exp(log_p), draws[:, t])
            log_prob += np.take_along_axis(log_p, bins[:, t : t + 1], axis=1)[:, 0]
            entropy += _entropy(log_p) / count
            hidden += self.embedding[t][bins[:, t]]
        return bins, log_prob, entropy

    def score(
        self, context: NDArray[np.floating], bins: NDArray[np.int64], temperature: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log-probability (B,) and mean entropy (B,), nats, of given tokens bins (B, T)."""
        hidden = np.asarray(context, dtype=np.float64).copy()
        log_prob, entropy = np.zeros(len(bins)), np.zeros(len(bins))
        for t in range(len(self.bins)):
            log_p = self._log_probabilities(hidden, t, temperature)
            log_prob += np.take_along_axis(log_p, bins[:, t : t + 1], axis=1)[:, 0]
            entropy += _entropy(log_p) / len(self.bins)
            hidden += self.embedding[t][bins[:, t]]
        return log_prob, entropy

    def _log_probabilities(
        self, hidden: NDArray[np.float64], t: int, temperature: float
    ) -> NDArray[np.float64]:
        """Log-probabilities (B, legal bins) of token t at `temperature`."""
        legal = int(self.bins[t])
        active = np.maximum(hidden + self.position[t], 0.0)
        logits = active @ self.weight[t][:, :legal] + self.bias[t][:legal]
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
