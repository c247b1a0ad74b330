"""Success detector: steps-to-go below a threshold, held for some ticks, after a minimum time."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class DetectorSettings(BaseModel):
    """When d(o, g) counts as success.

    threshold: s of the paper, in steps: d <= s agrees with success.
    hold: consecutive agreeing ticks needed (K).
    release: d above threshold + release (in steps) clears the count: hysteresis.
    minimum_ticks: no success before this many ticks since the episode's start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: Annotated[float, Field(gt=0.0)] = 0.5
    hold: Annotated[int, Field(ge=1)] = 4
    release: Annotated[float, Field(ge=0.0)] = 0.3
    minimum_ticks: Annotated[int, Field(ge=0)] = 2


class SuccessDetector:
    """Feeds on one d per tick; `update` says whether success holds now.

    A d at or below the threshold adds one to the count, one above threshold + release clears it,
    and one between leaves it as it is (a flicker neither confirms nor denies). Once reached,
    success stays until the count is cleared.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._agreeing = 0

    def reset(self) -> None:
        """Forget the past: call at the start of every episode."""
        self._agreeing = 0

    def update(self, steps_to_go: float, tick: int) -> bool:
        """One tick: d in steps (NaN never agrees), ticks since the start -> success now?"""
        s = self._settings
        if steps_to_go <= s.threshold:
            if tick >= s.minimum_ticks:
                self._agreeing += 1
        elif not steps_to_go <= s.threshold + s.release:
            self._agreeing = 0
        return self._agreeing >= s.hold
