"""What the policy answers and when: one sample per stamp, cached, counted. Pure, without ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from efm_core.actions import ActionSpace
from efm_core.observation import Decision, Observation, draws


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to the model.

    draws: float64 (tokens,), uniform in [0, 1): they decide the sample. received_s: steady time
    of the picture's receipt. digests: camera -> checksum of the picture used (real time).
    """

    observation: Observation
    episode_id: str
    draws: NDArray[np.float64]
    temperature: float
    offsets: Mapping[str, float]
    received_s: float
    digests: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A sampled chunk, ready to be published.

    values: float64 (chunk, D), action-space units. latency: s from receipt to answer.
    """

    ask: Ask
    decision: Decision
    values: NDArray[np.float64]
    version: str
    latency: float
    deadline_missed: bool


class PolicyLogic:
    """Decides what is asked of the model and what its answers are worth.

    `decisions` and `deadline_missed` count answers and those later than one control period.
    """

    def __init__(self, space: ActionSpace) -> None:
        self._space = space
        self._episode_id = ""
        self._asked: Ask | None = None
        self.answer: Answer | None = None
        self.decisions = 0
        self.deadline_missed = 0

    def begin(self, episode_id: str) -> None:
        """Another episode: forget what was asked and answered."""
        if episode_id != self._episode_id:
            self._episode_id, self._asked, self.answer = episode_id, None, None

    def ask(
        self,
        observation: Observation,
        seed: int,
        temperature: float,
        offsets: Mapping[str, float],
        received_s: float,
        digests: Mapping[str, int] | None = None,
    ) -> Ask | None:
        """The question for a new observation; None for a stamp that was asked about before.

        The draws depend on (seed, episode, tick) alone, so whoever asks again samples the same.
        """
        if self._asked is not None and observation.stamp_ns == self._asked.observation.stamp_ns:
            return None
        numbers = draws(seed, self._episode_id, observation.tick, self._space.tokens)
        self._asked = Ask(
            observation, self._episode_id, numbers, temperature, dict(offsets), received_s,
            digests or {},
        )  # fmt: skip
        return self._asked

    def take(self, ask: Ask, decision: Decision, version: str, now_s: float) -> Answer | None:
        """The model's answer; None when another episode or a newer picture overtook it."""
        if ask is not self._asked:
            return None
        latency = now_s - ask.received_s
        late = latency * self._space.rate > 1.0
        self.decisions += 1
        self.deadline_missed += late
        values = self._space.decode(decision.bins)
        self.answer = Answer(ask, decision, values, version, latency, late)
        return self.answer

    def forget(self, ask: Ask) -> None:
        """The model failed on this question: it may be asked again."""
        if ask is self._asked:
            self._asked = None
