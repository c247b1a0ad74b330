"""Whether the scene is ready for an episode: judged by the reward model, by a picture, or not."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from efm_core import messages, topics
from efm_core.bags import BagError, read_episode
from efm_core.reset_settings import Check, ImageCheck, RewardCheck
from efm_core.topics import Topic
from efm_episode_manager.session import Session

GRID = 32
_BRIGHTNESS = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue: luma of ITU-R BT.601."""


class SceneCheck(Protocol):
    """Looks at the first observation of an announced episode.

    topic: name of the topic that it judges, "" for none.
    """

    topic: str

    def begin(self, session: Session) -> None:
        """Another episode is announced."""
        ...

    def look(self, data: bytes) -> None:
        """A message (CDR) of the topic that belongs to this episode."""
        ...

    @property
    def verdict(self) -> str | None:
        """None before it is known, "" for a ready scene, else what is wrong."""
        ...


class Unchecked:
    """Takes every scene."""

    topic = ""
    verdict = ""

    def begin(self, session: Session) -> None:
        """Nothing to be done."""

    def look(self, data: bytes) -> None:
        """Never called."""


class ByReward:
    """Steps-to-go of the first picture: finite, and more than `least_steps`."""

    topic = topics.REWARD_STATE.name

    def __init__(self, settings: RewardCheck) -> None:
        self._least = settings.least_steps
        self.verdict: str | None = None

    def begin(self, session: Session) -> None:
        """Without a reward model nobody can judge: taken as it is."""
        self.verdict = None if session.needs_reward else ""

    def look(self, data: bytes) -> None:
        """reward/state."""
        message = messages.deserialize(data, topics.REWARD_STATE.type)
        steps = messages.read_named_scalars(message)["steps_to_go"]
        if self.verdict is None:
            good = math.isfinite(steps) and steps > self._least
            wrong = f"{steps:.2f} steps to go, it needs more than {self._least:g}"
            self.verdict = "" if good else f"the scene is not at a start: {wrong}"


class ByPicture:
    """The first picture of a camera, compared with a reference."""

    def __init__(self, settings: ImageCheck, camera: Topic) -> None:
        """Raises ValueError when the reference can't be read."""
        self.topic = camera.name
        self._type, self._limit = camera.type, settings.distance
        self._reference = grid(read_reference(settings.reference, camera))
        self.verdict: str | None = None

    def begin(self, session: Session) -> None:
        """Wait for its first picture."""
        self.verdict = None

    def look(self, data: bytes) -> None:
        """A picture."""
        if self.verdict is not None:
            return
        try:
            found = grid(messages.read_image(messages.deserialize(data, self._type)))
        except ValueError as error:
            self.verdict = f"the picture can't be judged: {error}"
            return
        distance = float(np.abs(found - self._reference).mean())
        good = distance <= self._limit
        wrong = f"{distance:.1f} grey levels, allowed are {self._limit:g}"
        self.verdict = "" if good else f"the picture differs from the reference by {wrong}"


def grid(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """uint8 (H, W, 3) RGB -> mean brightness 0..255 of GRID x GRID cells, float64 (GRID, GRID).

    A picture smaller than the grid repeats its pixels.
    """
    grey = picture.astype(np.float64) @ _BRIGHTNESS
    rows, columns = (_cells(size) for size in grey.shape)
    return np.array([[grey[r, c].mean() for c in columns] for r in rows])


def _cells(size: int) -> list[slice]:
    edges = [size * i // GRID for i in range(GRID + 1)]
    return [slice(a, max(b, a + 1)) for a, b in pairwise(edges)]


def read_reference(path: Path, camera: Topic) -> NDArray[np.uint8]:
    """The picture of a file, or the first one of a camera in a recorded episode, (H, W, 3) RGB.

    Raises ValueError naming the path and what to give instead.
    """
    if not path.exists():
        raise ValueError(
            f"reset.check.reference {path} is not there; give a picture, or the directory of a "
            "recorded episode that began as every episode should"
        )
    return _first_picture(path, camera) if path.is_dir() else _read_file(path)


def _read_file(path: Path) -> NDArray[np.uint8]:
    import cv2

    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"reset.check.reference {path} is no picture; give a PNG or JPEG file")
    return np.asarray(pixels[:, :, ::-1], dtype=np.uint8)


def _first_picture(path: Path, camera: Topic) -> NDArray[np.uint8]:
    try:
        for topic, kind, _, data in read_episode(path):
            if topic.endswith(f"/{camera.name}"):
                return messages.read_image(messages.deserialize(data, kind))
    except BagError as error:
        raise ValueError(f"reset.check.reference {path}: {error}") from error
    raise ValueError(f"reset.check.reference {path} holds no picture of {camera.name}")


def make_check(settings: Check, cameras: tuple[Topic, ...]) -> SceneCheck:
    """The check that is described. Raises ValueError for a reference that can't be read."""
    if isinstance(settings, RewardCheck):
        return ByReward(settings)
    if isinstance(settings, ImageCheck):
        named = {topic.name.split("/")[1]: topic for topic in cameras}
        return ByPicture(settings, named.get(settings.camera, cameras[0]))
    return Unchecked()
