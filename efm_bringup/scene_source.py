"""Rendered scenes for pre-training the backbone, drawn by a recipe and kept in shards on disk.

Half of the scenes hold three or four of the blocks in play, half two to eight of all pairs that
are not held out. Labels are the simulator's object positions; there is no demonstration, action
or reward anywhere in here.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efm_model.scene_set import SceneSet
from efm_sim.camera import FrontCamera
from efm_sim.config import WorldConfig
from efm_sim.scenes import TRAINING_BLOCKS, render_scenes
from efm_sim.tasks import (
    ALL_BLOCKS,
    DEFAULT_BLOCKS,
    HELD_OUT_PAIRS,
    VOCABULARY,
    phrase_instruction,
)

SHARD = 8192
"""Scenes per shard: about 100 MB on disk."""
GATE_SCENES = 1500


@dataclass(frozen=True, slots=True)
class Shard:
    """`count` scenes of `seed` from number `first` on, with counts[0]..counts[1] of `blocks`."""

    name: str
    seed: int
    blocks: tuple[str, ...]
    counts: tuple[int, int]
    first: int = 0
    count: int = SHARD


def training_shards(scenes: int, seed: int) -> list[Shard]:
    """At least `scenes` scenes in pairs of shards: blocks in play, and all pairs shown."""
    pairs = max(1, -(-scenes // (2 * SHARD)))
    shards = []
    for i in range(pairs):
        shards += [
            Shard(f"play_{i}", 2 * seed + 1, DEFAULT_BLOCKS, (3, 4), i * SHARD),
            Shard(f"general_{i}", 2 * seed + 2, TRAINING_BLOCKS, (2, 8), i * SHARD),
        ]
    return shards


def gate_shards(seed: int) -> dict[str, Shard]:
    """Held-out scenes: the blocks in play, pairs shown in training, all pairs (held out ones too).

    Their seeds are never those of training scenes.
    """
    base = 10_000_000 + 3 * seed
    kinds = {"default": DEFAULT_BLOCKS, "general": TRAINING_BLOCKS, "held_out": ALL_BLOCKS}
    return {
        name: Shard(f"gate_{name}", base + i, blocks, (4, 4), 0, GATE_SCENES)
        for i, (name, blocks) in enumerate(kinds.items())
    }


class RenderedScenes:
    """An `efm_model.scene_set.SceneSource` from the simulator; renders what is not in `folder`."""

    def __init__(self, folder: Path, scenes: int, seed: int = 0, workers: int = 1) -> None:
        self._folder = folder
        self._workers = workers
        self._train, self._gate = training_shards(scenes, seed), gate_shards(seed)
        self.vocabulary: tuple[str, ...] = VOCABULARY
        self.recipe: dict[str, object] = {
            "command": f"efm pretrain --scenes {scenes} --seed {seed}",
            "world": WorldConfig().model_dump(mode="json"),
            "scenes": SHARD * len(self._train),
            "seed": seed,
            "blocks_in_play": list(DEFAULT_BLOCKS),
            "held_out_pairs": list(HELD_OUT_PAIRS),
        }

    def render(self, progress: Callable[[int, int], None]) -> None:
        """Render every missing shard; `progress(done, total)` in scenes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        shards = [*self._gate.values(), *self._train]
        total = sum(shard.count for shard in shards)
        missing = [shard for shard in shards if not _path(self._folder, shard).exists()]
        done = total - sum(shard.count for shard in missing)
        progress(done, total)
        # A fresh interpreter per worker: the physics engine is not safe to fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self._workers, mp_context=context) as pool:
            jobs = {pool.submit(render_shard, self._folder, shard): shard for shard in missing}
            for job in as_completed(jobs):
                job.result()
                done += jobs[job].count
                progress(done, total)

    def train(self) -> SceneSet:
        """The training scenes; the same ones at every call."""
        return _load(self._folder, self._train)

    def gate(self) -> dict[str, SceneSet]:
        """Held-out scenes by name: default, general, held_out."""
        return {name: _load(self._folder, [shard]) for name, shard in self._gate.items()}

    def calibration(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A grid of board points: image coordinates (M, 2) in -1..1, board positions (M, 2) in m.

        Taken from the camera's own projection, at about half the height of a block.
        """
        config = WorldConfig()
        margin, space = config.camera_margin_m, config.workspace
        low = (space.low[0] - margin, space.low[1] - margin)
        high = (space.high[0] + margin, space.high[1] + margin)
        camera = FrontCamera(config.image_width, config.image_height, low, high)
        x, y = np.meshgrid(
            np.linspace(low[0], high[0], 15), np.linspace(low[1], high[1], 15), indexing="ij"
        )
        board = np.stack([x.ravel(), y.ravel()], axis=1)
        pixels = camera.project(np.column_stack([board, np.full(len(board), 0.01)]))
        return pixels / (config.image_width, config.image_height) * 2.0 - 1.0, board

    def phrase(self, rng: np.random.Generator, a: str, b: str) -> str:
        """A random sentence that asks to bring block `a` to block `b`."""
        return phrase_instruction(rng, a, b)


def render_shard(folder: Path, shard: Shard) -> None:
    """Render one shard and put it in `folder` whole."""
    batch = render_scenes(
        WorldConfig(), shard.seed, shard.count, shard.blocks, shard.counts, shard.first
    )
    columns = [ALL_BLOCKS.index(name) for name in batch.names]
    positions = np.full((len(batch), len(ALL_BLOCKS), 2), np.nan, dtype=np.float32)
    positions[:, columns] = batch.poses[:, :, :2]
    path = _path(folder, shard)
    temporary = path.with_suffix(".partial.npz")
    np.savez(temporary, images=batch.images, pusher=batch.effector, positions=positions)
    temporary.replace(path)


def _path(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}_{shard.seed}.npz"


def _load(folder: Path, shards: Sequence[Shard]) -> SceneSet:
    """Join shards; scenes in which fewer than two blocks found room are left out."""
    parts = []
    for shard in shards:
        with np.load(_path(folder, shard), allow_pickle=False) as file:
            asked = np.isfinite(file["positions"][:, :, 0]).sum(axis=1) >= 2
            parts.append([file[name][asked] for name in ("images", "pusher", "positions")])
    images, pusher, positions = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SceneSet(images, pusher, ALL_BLOCKS, positions)
