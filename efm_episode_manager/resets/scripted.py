"""Resets by motions known beforehand: to a pose, and back along the episode's own way."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from efm_core.reset_settings import PoseReset, ReverseReset, tolerances
from efm_episode_manager.resets.drive import GAIN, Drive, distances
from efm_episode_manager.resets.method import DONE, Progress, Stage
from efm_episode_manager.resets.station import Station, Way

_ENOUGH = 3
"""Polls in a row at which the robot must be there: it has come to rest, not passed by."""


class Pose:
    """Goes to one pose after the other; see `PoseReset`."""

    new_scene = False

    def __init__(self, settings: PoseReset, station: Station) -> None:
        space = station.space
        self._station, self._names = station, space.names
        self._poses = [
            np.array([pose.get(name, np.nan) for name in space.names]) for pose in settings.poses
        ]
        speed = settings.speed * station.speed
        self._drive = Drive(space, speed, tolerances(settings.tolerance, space))
        self._next, self._there = 0, 0

    def begin(self, attempt: int) -> None:
        """From the first pose on."""
        self._next = self._there = 0
        self._drive.begin()
        self._station.elapsed()

    def poll(self) -> Progress:
        """One command towards the next pose."""
        target, position = self._poses[self._next], self._station.position
        self._station.command(self._drive.toward(target, position, self._station.elapsed()))
        self._there = self._there + 1 if self._drive.there(target, position) else 0
        if self._there < _ENOUGH:
            return Progress(Stage.WORKING, distances(self._names, target, position))
        self._next, self._there = self._next + 1, 0
        return DONE if self._next == len(self._poses) else Progress(Stage.WORKING)

    def practised(self, success: bool, reason: str) -> None:
        """Asks for no practice."""

    def end(self) -> None:
        """Stand."""
        self._station.stand()


class Reverse:
    """Plays the newest episode's commands backwards, with the measured way as a rail.

    What was commanded at t before the end is commanded with the other sign (delta), or again
    (absolute), t / speed after the beginning. Deltas are corrected by the distance to where the
    robot was then: the guard's limits and things in the way would let the two drift apart.
    Another try goes on where the last one stopped. Nothing was done: nothing is to be undone.
    """

    new_scene = False

    def __init__(self, settings: ReverseReset, station: Station) -> None:
        space = station.space
        self._station, self._space, self._speed = station, space, settings.speed
        self._drive = Drive(space, station.speed, tolerances(settings.tolerance, space))
        self._way = Way()
        self._played, self._there = 0.0, 0

    def begin(self, attempt: int) -> None:
        """Back from the end, or from where the last try stopped."""
        if attempt == 1:
            self._way, self._played = self._station.way, 0.0
        self._there = 0
        self._drive.begin()
        self._station.elapsed()

    def poll(self) -> Progress:
        """One command of the way back."""
        strides = self._way.strides
        if not strides:
            return DONE
        elapsed = self._station.elapsed()
        self._played += elapsed * self._speed
        at = strides[-1].at_s - self._played
        if at > strides[0].at_s:
            self._station.command(self._back(at))
            return Progress(Stage.WORKING, f"{at - strides[0].at_s:.1f} s of the way are left")
        start, position = strides[0].position, self._station.position
        self._station.command(self._drive.toward(start, position, elapsed))
        self._there = self._there + 1 if self._drive.there(start, position) else 0
        if self._there < _ENOUGH:
            return Progress(Stage.WORKING, distances(self._space.names, start, position))
        self._station.forget_way()
        return DONE

    def _back(self, at_s: float) -> NDArray[np.float64]:
        """The command (D,) that undoes what was commanded at `at_s`, steady s of the way."""
        strides = self._way.strides
        stride = strides[max(bisect_right(strides, at_s, key=lambda s: s.at_s) - 1, 0)]
        if self._space.kind == "absolute":
            return stride.command
        missed = np.nan_to_num(GAIN * (stride.position - self._station.position))
        return self._drive.within(missed - self._speed * stride.command)

    def practised(self, success: bool, reason: str) -> None:
        """Asks for no practice."""

    def end(self) -> None:
        """Stand."""
        self._station.stand()
