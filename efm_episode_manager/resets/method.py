"""What every way of resetting a robot has in common: one try begins, is polled, and ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Stage(str, Enum):
    """How far a try is."""

    WORKING = "working"
    PRACTISE = "practise"  # an episode with the reset's instruction is to be run first
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """reason: why it failed, or what it waits for should its time run out."""

    stage: Stage
    reason: str = ""


DONE = Progress(Stage.DONE)


class Method(Protocol):
    """One way of resetting a robot; without a clock or a thread of its own.

    new_scene: whether a simulated robot makes the planned scene after it; otherwise the scene
    stays as the method left it.
    """

    new_scene: bool

    def begin(self, attempt: int) -> None:
        """A try begins; attempt counts from 1."""
        ...

    def poll(self) -> Progress:
        """Called some 20 times per second until it is done or has failed."""
        ...

    def practised(self, success: bool, reason: str) -> None:
        """The episode that it asked for by PRACTISE is over."""
        ...

    def end(self) -> None:
        """The try is over, or given up: nothing may move any more."""
        ...
