"""Features of a frozen trunk: computed once per observation, kept in memory, optionally on disk.

A cache entry is keyed by the SHA-256 of the trunk, the image bytes and the instruction, so that
neither a changed weight nor a changed bag can ever meet an old entry.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from efm_core.steps_to_go import StepsToGoBins
from efm_model.model import EmbodiedModel
from efm_model.trunk_runner import Backend, trunk_runner
from efm_model.weights import trunk_hash
from efm_trainer.episode_data import EpisodeData


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
        self._model = model
        self._directory = directory
        self._limit, self._batch = limit_bytes, batch
        weights = trunk_hash(model.trunk)
        self._run = trunk_runner(model, weights, backend)
        # Back ends differ in the last digits: their features are kept apart.
        self._trunk = f"{weights}/{self._run.backend}"
        self._kept: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._bytes = 0

    def features(self, episode: EpisodeData) -> NDArray[np.float32]:
        """Trunk features of all N observations, float32 (N, F)."""
        key = self._key(episode)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        path = None if self._directory is None else self._directory / f"{key}.npy"
        if path is not None and path.exists():
            result = np.load(path, allow_pickle=False)
        else:
            result = self._compute(episode)
            if path is not None:
                _save(path, result)
        self._remember(key, result)
        return result

    def _key(self, episode: EpisodeData) -> str:
        digest = hashlib.sha256(self._trunk.encode())
        digest.update(episode.instruction.encode())
        for name in sorted(episode.images):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(episode.images[name]).data)
        return digest.hexdigest()

    def _compute(self, episode: EpisodeData) -> NDArray[np.float32]:
        preprocessor = self._model.preprocessor
        tokens = preprocessor.tokens(episode.instruction)
        rows = len(episode)
        parts = []
        for start in range(0, rows, self._batch):
            chosen = range(start, min(start + self._batch, rows))
            images = np.stack(
                [preprocessor.images({k: v[i] for k, v in episode.images.items()}) for i in chosen]
            )
            parts.append(self._run(images, np.tile(tokens, (len(chosen), 1))))
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
    """d(o, g) at every row of `features` (N, F) -> float64 (N,), in steps."""
    with torch.inference_mode():
        logits = model.steps_to_go_logits(torch.from_numpy(features))
        return bins.expectation(torch.softmax(logits.double(), dim=-1).numpy())


def all_features(cache: FeatureCache, episodes: Sequence[EpisodeData]) -> NDArray[np.float32]:
    """Features of many episodes one below the other, float32 (sum N, F)."""
    return np.concatenate([cache.features(episode) for episode in episodes])


def _save(path: Path, array: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    os.replace(partial, path)
