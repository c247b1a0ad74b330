"""Resets without a motion of their own: by the simulator, a person, the policy, or none at all."""

from __future__ import annotations

from efm_core.reset_settings import PersonReset
from efm_episode_manager.resets.method import DONE, Progress, Stage
from efm_episode_manager.resets.station import Station


class Simulator:
    """Nothing to be done before the robot makes the planned scene."""

    new_scene = True

    def begin(self, attempt: int) -> None:
        """Nothing."""

    def poll(self) -> Progress:
        """At once."""
        return DONE

    def practised(self, success: bool, reason: str) -> None:
        """Asks for no practice."""

    def end(self) -> None:
        """Nothing moves."""


class Free(Simulator):
    """Practice without resets: the scene stays as it is."""

    new_scene = False


class Person:
    """Asks a person and waits for `episode/reset_done`."""

    new_scene = False

    def __init__(self, settings: PersonReset, station: Station) -> None:
        self._text, self._station = settings.request, station

    def begin(self, attempt: int) -> None:
        """Ask."""
        self._station.request, self._station.confirmed = self._text, False

    def poll(self) -> Progress:
        """Done once the person has said so."""
        if self._station.confirmed:
            return DONE
        return Progress(Stage.WORKING, f"nobody answered '{self._text}'")

    def practised(self, success: bool, reason: str) -> None:
        """Asks for no practice."""

    def end(self) -> None:
        """Ask no more."""
        self._station.request = ""


class Policy:
    """Lets the policy follow the reset's instruction in an episode of its own."""

    new_scene = False

    def __init__(self) -> None:
        self._progress = Progress(Stage.PRACTISE)

    def begin(self, attempt: int) -> None:
        """Ask for the episode."""
        self._progress = Progress(Stage.PRACTISE)

    def poll(self) -> Progress:
        """What became of it."""
        return self._progress

    def practised(self, success: bool, reason: str) -> None:
        """The reward model's verdict on the episode."""
        text = f"the policy did not reset the scene ({reason})"
        self._progress = DONE if success else Progress(Stage.FAILED, text)

    def end(self) -> None:
        """Its episode ends like every other."""
