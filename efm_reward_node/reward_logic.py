"""Reward and success of one episode from a steps-to-go per tick. Pure, without ROS."""

from __future__ import annotations

import math
from dataclasses import dataclass

from efm_core.detector import DetectorSettings, SuccessDetector
from efm_core.observation import StepsToGo


@dataclass(frozen=True, slots=True)
class RewardAnswer:
    """What is published for one observation.

    mean, std: of the predicted steps-to-go, in steps. reward: steps; NaN without a predecessor
    one tick before. success: the detector's word.
    """

    stamp_ns: int
    mean: float
    std: float
    reward: float
    success: bool


class RewardLogic:
    """Follows one episode: r = d(o_t) - d(o_{t+1}), stamped like o_{t+1}; 0 for tick 0.

    After a gap (a lost picture, a restart) there is no transition, so the reward is NaN.
    """

    def __init__(self) -> None:
        self._episode_id = ""
        self._detector: SuccessDetector | None = None
        self._last: tuple[int, float] | None = None
        self.answer: RewardAnswer | None = None
        self.decisions = 0

    def begin(self, episode_id: str) -> None:
        """Another episode: forget d and the detector's count."""
        if episode_id != self._episode_id:
            self._episode_id = episode_id
            self._detector = None
            self._last = self.answer = None

    def take(
        self, stamp_ns: int, tick: int, steps_to_go: StepsToGo, settings: DetectorSettings
    ) -> RewardAnswer:
        """The model's word on the observation of `tick` -> what to publish.

        `settings` are the checkpoint's; the first ones of an episode stay in force for it.
        """
        if self._detector is None:
            self._detector = SuccessDetector(settings)
        if self._last is not None and tick == self._last[0] + 1:
            reward = self._last[1] - steps_to_go.mean
        else:
            reward = 0.0 if tick == 0 else math.nan
        self._last = (tick, steps_to_go.mean)
        self.decisions += 1
        success = self._detector.update(steps_to_go.mean, tick)
        self.answer = RewardAnswer(
            stamp_ns, steps_to_go.mean, steps_to_go.std, reward, success
        )
        return self.answer
