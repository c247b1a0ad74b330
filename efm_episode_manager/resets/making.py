"""From settings to the method and the check that they describe."""

from __future__ import annotations

from dataclasses import dataclass

from efm_core.reset_settings import (
    AnyReset,
    NoReset,
    PersonReset,
    PolicyReset,
    PoseReset,
    ReverseReset,
    SimulatorReset,
)
from efm_core.topics import Topic
from efm_episode_manager.resets.checks import SceneCheck, make_check
from efm_episode_manager.resets.method import Method
from efm_episode_manager.resets.scripted import Pose, Reverse
from efm_episode_manager.resets.station import Station
from efm_episode_manager.resets.unscripted import Free, Person, Policy, Simulator


@dataclass(frozen=True, slots=True)
class Means:
    """One way to reset: its settings and what carries them out."""

    settings: AnyReset
    method: Method
    check: SceneCheck


def make_means(settings: AnyReset, station: Station, cameras: tuple[Topic, ...]) -> Means:
    """Raises ValueError for a reference picture that can't be read."""
    return Means(settings, _method(settings, station), make_check(settings.check, cameras))


def _method(settings: AnyReset, station: Station) -> Method:
    if isinstance(settings, SimulatorReset):
        return Simulator()
    if isinstance(settings, PoseReset):
        return Pose(settings, station)
    if isinstance(settings, ReverseReset):
        return Reverse(settings, station)
    if isinstance(settings, PolicyReset):
        return Policy()
    if isinstance(settings, PersonReset):
        return Person(settings, station)
    assert isinstance(settings, NoReset)
    return Free()
