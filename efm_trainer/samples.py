"""Demonstrations -> supervised samples: what a person made the robot do, and how far it was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efm_core.episode import Mode, Outcome
from efm_trainer.episode_data import SOURCE_TELEOP, EpisodeData

if TYPE_CHECKING:
    from efm_trainer.sft_lora import Observations


@dataclass(frozen=True, slots=True)
class Labels:
    """Targets of one episode's N observations.

    bins: int64 (N, tokens), the encoded commands that followed; -1 where no person commanded.
    steps: int64 (N,), steps to the episode's success; -1 where it is not known.
    """

    bins: NDArray[np.int64]
    steps: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SftSamples:
    """Observations of many episodes with their targets; M rows, see `Labels`.

    features: float32 (M, F), of the frozen trunk; or, where an adapter learns, int64 (M,), row
    numbers of `observations`. episodes: number of episodes they come from.
    """

    features: NDArray[np.float32] | NDArray[np.int64]
    bins: NDArray[np.int64]
    steps: NDArray[np.int64]
    episodes: int
    observations: Observations | None = None


def labels_of(
    episode: EpisodeData, clone_failures: bool = False, clone_pauses: bool = False
) -> Labels:
    """Targets for one episode of any mode but evaluation.

    Action: the bins of what the guard executed, at ticks that a person moved (source teleop), in
    demonstrations and in interventions alike; chunks running past the end are filled with rest.
    A demonstration that failed teaches no action unless `clone_failures`, a tick of rest in the
    middle (a person thinking) none unless `clone_pauses`.
    Steps-to-go: end - t in successful demonstrations, 0 for the still frames after the end. An
    autonomous success gives none: the model must not confirm its own detector.
    Raises ValueError for mode evaluation.
    """
    if episode.record.mode is Mode.EVALUATION:
        raise ValueError(
            f"episode {episode.record.episode_id}: mode is evaluation; it is never learnt from"
        )
    space, rows = episode.space, len(episode)
    bins = np.full((rows, space.tokens), -1, dtype=np.int64)
    steps = np.full(rows, -1, dtype=np.int64)
    demonstration = episode.record.mode is Mode.DEMO
    if not demonstration or episode.succeeded or clone_failures:
        moved = np.flatnonzero(episode.source[: episode.end_row] == SOURCE_TELEOP)
        for row in moved.tolist():
            bins[row] = _chunk_bins(episode, row)
        if space.kind == "delta" and not clone_pauses:
            rest = space.encode(np.zeros((space.chunk, space.size))).reshape(space.tokens)
            bins[(bins == rest).all(axis=1)] = -1
    if demonstration and episode.succeeded:
        steps[:] = _steps_left(episode)
    return Labels(bins, steps)


def _chunk_bins(episode: EpisodeData, row: int) -> NDArray[np.int64]:
    space = episode.space
    taken = episode.executed[row : min(row + space.chunk, episode.end_row)]
    taken = taken[: _leading(episode, row, len(taken))]
    rest = np.zeros(space.size) if space.kind == "delta" else taken[-1]
    padding = np.broadcast_to(rest, (space.chunk - len(taken), space.size))
    return space.encode(np.concatenate([taken, padding])).reshape(space.tokens)


def _leading(episode: EpisodeData, row: int, length: int) -> int:
    """How many of `length` rows from `row` on were commanded by the person without a break."""
    mine = episode.source[row : row + length] == SOURCE_TELEOP
    mine[1:] &= episode.contiguous[row : row + length - 1]
    return length if mine.all() else int(np.argmin(mine))


def _steps_left(episode: EpisodeData) -> NDArray[np.int64]:
    """Control periods from each stamp to the end's, 0 after it: int64 (N,)."""
    end = episode.stamps[episode.end_row]
    periods = (end - episode.stamps) * episode.record.rate / 1e9
    return np.maximum(np.rint(periods), 0).astype(np.int64)


def usable_for_sft(episode: EpisodeData) -> bool:
    """Whether an episode is complete: not interrupted, not ended by a fault."""
    return episode.record.outcome not in (Outcome.INTERRUPTED, Outcome.FAULT)


def is_validation(episode: EpisodeData, share: float, declared: bool) -> bool:
    """Whether an episode validates.

    declared: whether any episode of the set says split "validation"; then the records decide.
    Otherwise a share of about `share` is chosen by a hash of the episode id, the same for ever.
    """
    if declared:
        return episode.record.split == "validation"
    digest = hashlib.sha256(episode.record.episode_id.encode()).digest()
    return int.from_bytes(digest[:4], "little") / 2**32 < share


def join_samples(
    episodes: Sequence[EpisodeData],
    features: Sequence[NDArray[np.float32]] | Sequence[NDArray[np.int64]],
    clone_failures: bool = False,
    clone_pauses: bool = False,
    observations: Observations | None = None,
) -> SftSamples:
    """One below the other; features, observations: see `SftSamples`.

    Raises ValueError without any episode.
    """
    if not episodes:
        raise ValueError("no episode to take samples from")
    labels = [labels_of(episode, clone_failures, clone_pauses) for episode in episodes]
    return SftSamples(
        features=np.concatenate(list(features)),
        bins=np.concatenate([label.bins for label in labels]),
        steps=np.concatenate([label.steps for label in labels]),
        episodes=len(episodes),
        observations=observations,
    )
