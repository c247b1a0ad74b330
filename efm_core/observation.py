"""What a robot sees at one instant, and what the policy and the reward model say about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Observation:
    """One instant of one robot.

    images: camera name -> uint8 (H, W, 3), RGB, as the policy received it.
    state: named proprioceptive scalars (joint positions in rad or m, "ee_x"... in m, robot base
        frame); empty where the checkpoint uses images alone.
    instruction: the natural-language goal g.
    stamp_ns: stamp of the observation in ns (virtual in lockstep, wall time otherwise).
    tick: control ticks since the episode's first observation.
    """

    images: Mapping[str, NDArray[np.uint8]]
    instruction: str
    stamp_ns: int = 0
    tick: int = 0
    state: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """One sampled action chunk.

    bins: int64 (chunk, D), the sampled tokens.
    log_prob: log-probability in nats of exactly these tokens under the distribution that was
        sampled (after temperature), summed over the tokens.
    entropy: entropy in nats of that distribution, averaged over the tokens.
    temperature: the sampling temperature; 0 means greedy.
    seconds: what the model took for the batch that this decision came in; 0 where nobody measured.
    """

    bins: NDArray[np.int64]
    log_prob: float
    entropy: float
    temperature: float
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class StepsToGo:
    """The reward model's view of one observation: expectation and deviation, in steps."""

    mean: float
    std: float


def draws(seed: int, episode_id: str, tick: int, count: int) -> NDArray[np.float64]:
    """`count` uniform numbers in [0, 1), float64, that depend on (seed, episode id, tick) alone.

    Sampling a decision from them makes it repeatable: the offline trainer, a second answer to the
    same image and a batch of another size all draw the same tokens.
    """
    digest = hashlib.sha256(f"{seed}/{episode_id}/{tick}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return generator.random(count)
