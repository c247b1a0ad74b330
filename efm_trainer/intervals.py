"""Intervals for proportions and for paired differences of proportions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

_Z95 = 1.959963984540054


def wilson(successes: int, count: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion, (low, high) in 0..1; (0, 1) when count is 0.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    Raises ValueError unless 0 <= successes <= count.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"successes={successes} must lie in 0..count={count}")
    if count == 0:
        return 0.0, 1.0
    p = successes / count
    centre = p + z * z / (2 * count)
    spread = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    low = 0.0 if successes == 0 else (centre - spread) / scale
    return low, 1.0 if successes == count else (centre + spread) / scale


def paired_difference(
    before: ArrayLike, after: ArrayLike, seed: int = 0, resamples: int = 10_000
) -> tuple[float, tuple[float, float]]:
    """Mean of after - before over the same start states, and its 95 % bootstrap interval.

    before, after: (N,) outcomes (bool or 0/1), entry i from the same start state. Start states are
    resampled with replacement (percentile bootstrap, repeatable by `seed`).
    Raises ValueError for different lengths or N = 0.
    """
    x, y = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or x.size == 0:
        raise ValueError(f"paired outcomes need equal length above 0, got {x.shape} and {y.shape}")
    difference = y - x
    generator = np.random.default_rng(seed)
    # Only -1, 0 and +1 occur, so a resample is a multinomial draw of their counts.
    values, counts = np.unique(difference, return_counts=True)
    drawn = generator.multinomial(x.size, counts / x.size, size=resamples)
    low, high = np.quantile(drawn @ values / x.size, [0.025, 0.975])
    return float(difference.mean()), (float(low), float(high))
