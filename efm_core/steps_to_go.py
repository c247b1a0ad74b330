"""Steps-to-go: its bins, its expectation, and the reward and returns that follow from it.

Formulas: "Self-Improving Embodied Foundation Models" (arXiv 2509.15155), section 3: d(o, g) is the
expectation of the predicted steps-to-go distribution, r_t = d(o_t, g) - d(o_{t+1}, g),
R_t = sum_{i >= t} gamma^(i - t) r_i.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field


class StepsToGoBins(BaseModel):
    """`count` bins of `width` whole steps each.

    The one bin-centre rule of this project: bin i holds the integer steps
    i * width .. (i + 1) * width - 1 and stands for their mean, i * width + (width - 1) / 2.
    With width 1 bin i therefore stands for exactly i steps, and the goal (0 steps) for 0.
    Steps beyond the last bin belong to the last bin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=2, le=1000)] = 48
    width: Annotated[int, Field(ge=1, le=100)] = 1

    @property
    def horizon(self) -> int:
        """Number of distinct steps covered, count x width."""
        return self.count * self.width

    @property
    def centres(self) -> NDArray[np.float64]:
        """Bin centres in steps, float64 (count,)."""
        first = (self.width - 1) / 2.0
        return first + np.arange(self.count, dtype=np.float64) * self.width

    def index(self, steps: ArrayLike) -> NDArray[np.int64]:
        """Whole steps (...,) >= 0 -> bin (...,), int64. Raises ValueError below zero."""
        array = np.asarray(steps)
        if np.any(array < 0):
            raise ValueError("steps-to-go below zero: the frame lies after the end of its episode")
        return np.asarray(np.minimum(array // self.width, self.count - 1), dtype=np.int64)

    def soft_targets(self, steps: ArrayLike, sigma: float) -> NDArray[np.float32]:
        """Steps (N,) -> distributions (N, count), float32, rows sum to 1.

        A normal of standard deviation `sigma` (in steps) round the true steps, restricted to the
        bins and renormalised; sigma = 0 gives the one-hot of `index` (the paper's form). Near zero
        the restriction biases the expectation upwards, so keep sigma below about 1.
        """
        array = np.minimum(np.asarray(steps, dtype=np.float64), self.centres[-1])
        if sigma <= 0.0:
            return np.eye(self.count, dtype=np.float32)[self.index(steps)]
        weights = np.exp(-0.5 * ((self.centres[None, :] - array[:, None]) / sigma) ** 2)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)

    def expectation(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        """Distributions (..., count) -> d(o, g) (...,), float64, in steps."""
        return np.asarray(probabilities, dtype=np.float64) @ self.centres

    def deviation(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        """Distributions (..., count) -> standard deviation (...,), float64, in steps."""
        p = np.asarray(probabilities, dtype=np.float64)
        mean = p @ self.centres
        return np.sqrt(np.maximum(p @ self.centres**2 - mean**2, 0.0))


def rewards(steps_to_go: ArrayLike) -> NDArray[np.float64]:
    """d at T + 1 consecutive decisions (T + 1,) -> r_t = d_t - d_{t+1} (T,), float64, in steps."""
    d = np.asarray(steps_to_go, dtype=np.float64)
    return d[:-1] - d[1:]


def returns(
    reward: ArrayLike, gamma: float, terminal_value: float = 0.0
) -> NDArray[np.float64]:
    """R_t = sum_{i=t}^{T-1} gamma^(i-t) r_i + gamma^(T-t) * terminal_value, float64 (T,).

    `terminal_value` is 0 after a success (nothing follows the goal) and in the paper's exact form
    everywhere; for an episode cut by a limit, a person or a takeover it is the baseline's value of
    the last observation. Raises ValueError unless 0 <= gamma <= 1.
    """
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma={gamma} must lie in [0, 1]")
    r = np.asarray(reward, dtype=np.float64)
    result = np.empty_like(r)
    following = float(terminal_value)
    for t in range(len(r) - 1, -1, -1):
        following = r[t] + gamma * following
        result[t] = following
    return result
