"""Features of a frozen trunk: computed once per observation, kept in memory, optionally on disk.

A cache entry is keyed by the SHA-256 of the trunk, the image bytes and the instruction, so that
neither a changed weight nor a changed bag can ever meet an old entry.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from efm_core.steps_to_go import StepsToGoBins
from efm_model.model import EmbodiedModel
from efm_model.trunk_runner import Backend, TrunkRunner, trunk_runner
from efm_model.weights import trunk_hash
from efm_trainer.episode_data import EpisodeData
from efm_trainer.stored_pictures import picture_digest


@dataclass(frozen=True, slots=True)
class _Trunk:
    """A model, the hash of its trunk's weights, and what runs them."""

    model: EmbodiedModel
    weights: str
    run: TrunkRunner


class EpisodeFeatures(np.ndarray):
    """Features of one episode that know where they come from: float32 (N, F), else an array.

    Whoever has those of the policy's trunk can so ask for those of the reward's, which is another
    one where each role has an adapter of its own. Rows taken of it are plain features.
    """

    _ask: Callable[[EmbodiedModel], NDArray[np.float32]] | None = None

    @classmethod
    def wrap(
        cls, features: NDArray[np.float32], ask: Callable[[EmbodiedModel], NDArray[np.float32]]
    ) -> EpisodeFeatures:
        """The same numbers, without a copy. ask: model -> features of its trunk."""
        found = features.view(cls)
        found._ask = ask
        return found

    def of(self, model: EmbodiedModel) -> NDArray[np.float32]:
        """The same episode's features by the trunk of `model`."""
        return self if self._ask is None else self._ask(model)


class FeatureCache:
    """`features(episode)` -> float32 (N, F), the trunk's output at every observation.

    directory: where .npy files are kept too; None keeps them in memory alone.
    limit_bytes: memory bound; the oldest entries go first.
    batch: observations in one forward pass. backend: what runs the trunk; "auto" is what the
        robots use (`efm_model.inference.Engine`), so that d computed here equals d published live.
    """

    def __init__(
        self,
        model: EmbodiedModel,
        directory: Path | None = None,
        limit_bytes: int = 512 * 1024 * 1024,
        batch: int = 128,
        backend: Backend = "torch",
    ) -> None:
        self._directory, self._backend = directory, backend
        self._limit, self._batch = limit_bytes, batch
        self._trunks: list[_Trunk] = []
        self._own = self._trunk_of(model)
        self._kept: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._bytes = 0

    def features(
        self, episode: EpisodeData, model: EmbodiedModel | None = None
    ) -> NDArray[np.float32]:
        """Trunk features of all N observations, float32 (N, F).

        model: whose trunk, None for that of the cache's own; equal trunks share what is kept.
        """
        trunk = self._own if model is None else self._trunk_of(model)
        found = self._features(episode, trunk)

        def ask(other: EmbodiedModel) -> NDArray[np.float32]:
            asked = self._trunk_of(other)
            return found if asked.weights == trunk.weights else self._features(episode, asked)

        return EpisodeFeatures.wrap(found, ask)

    def _features(self, episode: EpisodeData, trunk: _Trunk) -> NDArray[np.float32]:
        key = self._key(episode, trunk)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        path = None if self._directory is None else self._directory / f"{key}.npy"
        if path is not None and path.exists():
            result = np.load(path, allow_pickle=False)
        else:
            result = self._compute(episode, trunk)
            if path is not None:
                _save(path, result)
        self._remember(key, result)
        return result

    def _trunk_of(self, model: EmbodiedModel) -> _Trunk:
        for trunk in self._trunks:
            if trunk.model is model:
                return trunk
        weights = trunk_hash(model.trunk)
        equal = [trunk.run for trunk in self._trunks if trunk.weights == weights]
        run = equal[0] if equal else trunk_runner(model, weights, self._backend)
        self._trunks.append(_Trunk(model, weights, run))
        return self._trunks[-1]

    def _key(self, episode: EpisodeData, trunk: _Trunk) -> str:
        # Back ends differ in the last digits: their features are kept apart.
        digest = hashlib.sha256(f"{trunk.weights}/{trunk.run.backend}".encode())
        digest.update(episode.instruction.encode())
        for name in sorted(episode.images):
            digest.update(name.encode())
            digest.update(picture_digest(episode.images[name]).encode())
        return digest.hexdigest()

    def _compute(self, episode: EpisodeData, trunk: _Trunk) -> NDArray[np.float32]:
        preprocessor = trunk.model.preprocessor
        tokens = preprocessor.tokens(episode.instruction)
        rows = len(episode)
        parts = []
        for start in range(0, rows, self._batch):
            chosen = range(start, min(start + self._batch, rows))
            images = np.stack(
                [preprocessor.images({k: v[i] for k, v in episode.images.items()}) for i in chosen]
            )
            parts.append(trunk.run(images, np.tile(tokens, (len(chosen), 1))))
        return np.concatenate(parts)

    def _remember(self, key: str, value: NDArray[np.float32]) -> None:
        self._kept[key] = value
        self._bytes += value.nbytes
        while self._bytes > self._limit and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes


def predicted_steps(
    model: EmbodiedModel, features: NDArray[np.float32], bins: StepsToGoBins
) -> NDArray[np.float64]:
    """d(o, g) at every row of `features` (N, F) -> float64 (N,), in steps.

    Those that a cache gives for an episode are taken from the trunk of `model`, whosever they are.
    """
    if isinstance(features, EpisodeFeatures):
        features = features.of(model)
    with torch.inference_mode():
        logits = model.steps_to_go_logits(torch.from_numpy(features))
        return bins.expectation(torch.softmax(logits.double(), dim=-1).numpy())


def fit_standardisation(
    model: EmbodiedModel, episodes: Callable[[], Sequence[EpisodeData]], most: int = 256
) -> None:
    """Standardise the features of a backbone that comes without statistics; else do nothing.

    episodes: what to take mean and deviation over; `most` observations, evenly spread. A function
    of the data alone, so that a resumed run finds the same features again.
    """
    standardise = getattr(model.trunk, "standardise", None)
    if standardise is None or getattr(model.trunk, "fitted", True):
        return
    chosen = episodes()
    rows = [(episode, i) for episode in chosen for i in range(len(episode))]
    picked = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))
    images, tokens = [], []
    for index in picked:
        episode, i = rows[index]
        images.append(model.preprocessor.images({k: v[i] for k, v in episode.images.items()}))
        tokens.append(model.preprocessor.tokens(episode.instruction))
    found = model.features(np.stack(images), np.stack(tokens)).double()
    standardise(found.mean(dim=0).float(), found.std(dim=0, correction=0).float())


def all_features(cache: FeatureCache, episodes: Sequence[EpisodeData]) -> NDArray[np.float32]:
    """Features of many episodes one below the other, float32 (sum N, F)."""
    return np.concatenate([cache.features(episode) for episode in episodes])


def _save(path: Path, array: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    os.replace(partial, path)
