"""Episodes from bags, for learning: an explicit list of topics that holds no truth.

Whatever the simulator knows (`truth/*`, `labels.truth`) is never read here, so that changing it in
a copied bag cannot change a weight or a threshold.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from efm_core import messages, topics
from efm_core.actions import ActionSpace
from efm_core.bags import EpisodeReader
from efm_core.episode import Mode
from efm_trainer.alignment import HeardMessages
from efm_trainer.episode_data import EpisodeData, without_truth

_log = logging.getLogger(__name__)


class EpisodeRefusedError(ValueError):
    """An episode that must not be learnt from, with the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class SkippedEpisode:
    """An episode that was left out: its directory and why."""

    path: Path
    reason: str


def learning_topics(robot: str, cameras: Sequence[str]) -> dict[str, str]:
    """Absolute topic name -> role, for all that the trainer may read; truth is not among them."""
    names = {f"/{robot}/{topics.camera(c).name}": f"image/{c}" for c in cameras}
    names |= {
        f"/{robot}/{topics.JOINT_STATES.name}": "state",
        f"/{robot}/{topics.DECISION.name}": "decision",
        f"/{robot}/{topics.GUARD_STATE.name}": "guard",
        f"/{robot}/{topics.REWARD_STATE.name}": "reward",
    }
    return names


def load_episode(path: Path, cameras: Sequence[str] = ("front",)) -> EpisodeData:
    """Read one finished episode.

    Raises EpisodeRefusedError for mode evaluation and for an episode without images or without an
    action space; errors of the bag itself (cut, corrupt) pass through from efm_core.bags.
    """
    reader = EpisodeReader(path)
    record = without_truth(reader.record)
    if record.mode is Mode.EVALUATION:
        raise EpisodeRefusedError(
            f"{path}: mode is evaluation; evaluation episodes are never learnt from. "
            "Point the trainer at a demo or practice data set"
        )
    if not record.action_space:
        raise EpisodeRefusedError(
            f"{path}/episode.json: action_space is empty; record with an action space"
        )
    space = ActionSpace.model_validate(record.action_space)
    heard = HeardMessages(space)
    roles = learning_topics(record.robot, cameras)
    for topic, type_name, _, raw in reader.messages(list(roles)):
        heard.take(roles[topic], messages.deserialize(raw, type_name))
    try:
        return heard.assemble(record, cameras)
    except ValueError as error:
        raise EpisodeRefusedError(f"{path}: {error}") from error


def load_episodes(
    paths: Iterable[Path], cameras: Sequence[str] = ("front",)
) -> tuple[list[EpisodeData], list[SkippedEpisode]]:
    """Read many; what cannot be read is skipped with its reason, never silently."""
    episodes: list[EpisodeData] = []
    skipped: list[SkippedEpisode] = []
    for path in paths:
        try:
            episodes.append(load_episode(path, cameras))
        except (ValueError, OSError, EOFError) as error:
            skipped.append(SkippedEpisode(path, str(error)))
            _log.warning("skipped %s: %s", path, error)
    return episodes, skipped
