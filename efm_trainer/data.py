"""Episodes from bags, for learning: an explicit list of topics that holds no truth.

Whatever the simulator knows (`truth/*`, `labels.truth`) is never read here, so that changing it in
a copied bag cannot change a weight or a threshold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efm_core import messages, topics
from efm_core.actions import ActionSpace
from efm_core.bags import EpisodeReader
from efm_core.camera_intake import Frame
from efm_core.episode import EpisodeRecord, Mode
from efm_trainer.alignment import HeardMessages
from efm_trainer.episode_data import EpisodeData, without_truth
from efm_trainer.stored_pictures import Pictures, decoded

_log = logging.getLogger(__name__)


class EpisodeRefusedError(ValueError):
    """An episode that must not be learnt from, with the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class SkippedEpisode:
    """An episode that was left out: its directory (or `RemoteEpisode`) and why."""

    path: Any
    reason: str


def learning_topics(robot: str, cameras: Sequence[str], clock: str = "lockstep") -> dict[str, str]:
    """Absolute topic name -> role, for all that the trainer may read; truth is not among them.

    A camera is on one of two topics, raw or compressed. The pose is part of an observation in
    real time alone.
    """
    names = {
        f"/{robot}/{topics.camera(c, compressed).name}": f"image/{c}"
        for c in cameras
        for compressed in (False, True)
    }
    if clock == "real":
        names[f"/{robot}/{topics.EE_POSE.name}"] = f"state/{topics.EE_POSE.name}"
    names |= {
        f"/{robot}/{topics.JOINT_STATES.name}": f"state/{topics.JOINT_STATES.name}",
        f"/{robot}/{topics.DECISION.name}": "decision",
        f"/{robot}/{topics.GUARD_STATE.name}": "guard",
        f"/{robot}/{topics.REWARD_STATE.name}": "reward",
    }
    return names


def learnable_record(path: Path) -> EpisodeRecord:
    """The record of an episode that may be learnt from, without its truth.

    Raises EpisodeRefusedError for mode evaluation, for an episode marked unusable and for one
    without an action space, BagError for a record that cannot be read.
    """
    record = without_truth(EpisodeReader(path).record)
    if record.mode is Mode.EVALUATION:
        raise EpisodeRefusedError(
            f"{path}: mode is evaluation; evaluation episodes are never learnt from. "
            "Point the trainer at a demo or practice data set"
        )
    if not record.action_space:
        raise EpisodeRefusedError(
            f"{path}/episode.json: action_space is empty; record with an action space"
        )
    if record.unusable:
        raise EpisodeRefusedError(
            f"{path}: marked unusable: {record.unusable}; mend the camera and record anew"
        )
    return record


def load_episode(
    path: Path,
    cameras: Sequence[str] = ("front",),
    join: Callable[[Sequence[Frame]], Pictures] = decoded,
) -> EpisodeData:
    """Read one finished episode.

    join: see `HeardMessages.assemble`. Raises EpisodeRefusedError for one that `learnable_record`
    refuses and for one without images; errors of the bag itself (cut, corrupt) pass through from
    efm_core.bags.
    """
    record = learnable_record(path)
    space = ActionSpace.model_validate(record.action_space)
    heard = HeardMessages(space, record)
    roles = learning_topics(record.robot, cameras, record.clock)
    for topic, type_name, received_ns, raw in EpisodeReader(path).messages(list(roles)):
        heard.take(roles[topic], messages.deserialize(raw, type_name), received_ns)
    try:
        return heard.assemble(record, cameras, join)
    except ValueError as error:
        raise EpisodeRefusedError(f"{path}: {error}") from error


def load_episodes(
    paths: Iterable[Any],
    cameras: Sequence[str] = ("front",),
    load: Callable[[Any, Sequence[str]], EpisodeData] = load_episode,
) -> tuple[list[EpisodeData], list[SkippedEpisode]]:
    """Read many; what cannot be read is skipped with its reason, never silently.

    paths: what `load` takes, by default folders. load: reads one; raises as `load_episode` does.
    """
    episodes: list[EpisodeData] = []
    skipped: list[SkippedEpisode] = []
    for path in paths:
        try:
            episodes.append(load(path, cameras))
        except (ValueError, OSError, EOFError) as error:
            skipped.append(SkippedEpisode(path, str(error)))
            _log.warning("skipped %s: %s", path, error)
    return episodes, skipped
