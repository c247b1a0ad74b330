"""The baseline b(d) and the advantages of one round's decisions.

b(d) is a cubic in the reward model's own d(o_t, g), fitted by least squares to the round's
returns: no value network, one more line than the paper. Returns of cut episodes contain b at their
last observation, so fit and returns are repeated until they agree (a contraction, because each
repetition is weighted with gamma^(T - t) < 1).

Advantages are generalised (Schulman et al., arXiv 1506.02438): lambda = 1 is R_t - b(d_t), smaller
values trust b more and the noise of a whole episode less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_core.steps_to_go import returns, rewards

DEGREE = 3
_REPETITIONS = 20
_RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of consecutive decisions within one episode.

    steps_to_go: float64 (K + 1,), d in steps at the K decisions and at the observation after them.
    bootstrap: whether the stretch was cut (limit, person, takeover) rather than ended by success:
        then gamma^K b(o_K) stands for what would have followed.
    """

    steps_to_go: NDArray[np.float64]
    bootstrap: bool

    def returns(self, gamma: float, terminal_value: float) -> NDArray[np.float64]:
        """R_t in steps, float64 (K,); `terminal_value` counts only for a cut stretch."""
        tail = terminal_value if self.bootstrap else 0.0
        return returns(rewards(self.steps_to_go), gamma, tail)


@dataclass(frozen=True, slots=True)
class Baseline:
    """b(d) = sum_i coefficients[i] * (d / scale)^i, in steps."""

    coefficients: NDArray[np.float64]
    scale: float

    def __call__(self, steps_to_go: NDArray[np.float64]) -> NDArray[np.float64]:
        """d (...,) in steps -> expected return (...,), float64, in steps."""
        d = np.asarray(steps_to_go, dtype=np.float64)
        return np.polynomial.polynomial.polyval(d / self.scale, self.coefficients)


def fit_baseline(segments: Sequence[Segment], gamma: float) -> Baseline:
    """Least-squares cubic of the return on d over all decisions of a round.

    Raises ValueError when there is no decision at all.
    """
    usable = [s for s in segments if len(s.steps_to_go) > 1]
    if not usable:
        raise ValueError("the round holds no decision to fit a baseline on")
    d = np.concatenate([s.steps_to_go[:-1] for s in usable])
    scale = max(float(np.max(np.abs(d))), 1e-6)
    powers = np.vander(d / scale, DEGREE + 1, increasing=True)
    normal = powers.T @ powers + _RIDGE * len(d) * np.eye(DEGREE + 1)
    baseline = Baseline(np.zeros(DEGREE + 1), scale)
    for _ in range(_REPETITIONS):
        target = np.concatenate(
            [s.returns(gamma, float(baseline(s.steps_to_go[-1]))) for s in usable]
        )
        baseline = Baseline(np.linalg.solve(normal, powers.T @ target), scale)
    return baseline


def advantages(
    segment: Segment, baseline: Baseline, gamma: float, trace: float, zero_past_end: bool = False
) -> NDArray[np.float64]:
    """A_t = sum_i (gamma lambda)^i delta_{t+i}, float64 (K,), in steps.

    delta_t = r_t + gamma b(d_{t+1}) - b(d_t).
    trace: lambda, 0..1. b of the last observation is 0 after a success, and everywhere with
    `zero_past_end` (the paper's returns); otherwise it is b(d_K).
    """
    value = baseline(segment.steps_to_go)
    if not segment.bootstrap or zero_past_end:
        value[-1] = 0.0
    delta = rewards(segment.steps_to_go) + gamma * value[1:] - value[:-1]
    return returns(delta, gamma * trace)
