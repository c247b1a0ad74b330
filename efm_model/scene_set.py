"""Labelled scenes for pre-training the backbone: pictures with the objects' positions, no actions.

The arrays come from outside (the simulator renders them); this module knows no simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from efm_model.geometry import DECIMETRE


@dataclass(frozen=True)
class SceneSet:
    """N pictures of a board and where things are on it.

    images: uint8 (N, H, W, 3) RGB.
    pusher: float32 (N, 2), m, robot base frame.
    names: the K kinds of block, e.g. "red moon".
    positions: float32 (N, K, 2), m, robot base frame; NaN where that block is not in the scene.
    """

    images: NDArray[np.uint8]
    pusher: NDArray[np.float32]
    names: tuple[str, ...]
    positions: NDArray[np.float32]

    def __post_init__(self) -> None:
        count, kinds = len(self.images), len(self.names)
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(
                f"scene images are {self.images.dtype} {self.images.shape}, expected uint8 NHWC"
            )
        if self.pusher.shape != (count, 2) or self.positions.shape != (count, kinds, 2):
            raise ValueError(
                f"scene labels: pusher {self.pusher.shape}, positions {self.positions.shape}, "
                f"expected ({count}, 2) and ({count}, {kinds}, 2)"
            )
        if not np.all(self.present.sum(axis=1) >= 2):
            raise ValueError("a scene holds fewer than two blocks: nothing can be asked about it")

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which blocks are in each scene, bool (N, K)."""
        result: NDArray[np.bool_] = np.isfinite(self.positions[..., 0])
        return result


class SceneSource(Protocol):
    """Where pre-training gets its scenes and sentences; the simulator's side implements it.

    recipe: JSON-compatible description of how scenes are drawn, written beside the weights.
    vocabulary: every word that `phrase` can use.
    """

    recipe: dict[str, object]
    vocabulary: tuple[str, ...]

    def train(self) -> SceneSet:
        """The training scenes; the same ones at every call."""
        ...

    def gate(self) -> dict[str, SceneSet]:
        """Held-out scenes by name; "default" holds the blocks in play, "held_out" unseen pairs."""
        ...

    def calibration(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where points of the board appear: image coordinates (M, 2), board positions (M, 2).

        Image coordinates run from -1 to 1, column then row, outer edge to outer edge; positions
        in m, robot base frame, at about half the height of a block. Only the start of training
        uses them, so a few millimetres of error do no harm.
        """
        ...

    def phrase(self, rng: np.random.Generator, a: str, b: str) -> str:
        """A random sentence that asks to bring block `a` to block `b`."""
        ...


@dataclass(frozen=True)
class Questions:
    """A batch of scenes with one question each; positions in dm, robot base frame.

    images: uint8 (B, H, W, 3); texts: B instructions; targets: float32 (B, 3, 2) of pusher, A, B;
    others: float32 (B, K, 2), the remaining blocks, NaN where there is none.
    """

    images: NDArray[np.uint8]
    texts: list[str]
    targets: NDArray[np.float32]
    others: NDArray[np.float32]
    pairs: NDArray[np.int64]


def ask(
    scenes: SceneSet,
    rows: NDArray[np.int64],
    rng: np.random.Generator,
    source: SceneSource,
    near: float = 0.3,
) -> Questions:
    """Draw one question per scene of `rows`: two different blocks, in random words.

    With probability `near` block A is the one next to the pusher: contact matters most later.
    """
    present, where = scenes.present[rows], scenes.positions[rows]
    chances = np.where(present, rng.random(present.shape), -1.0)
    order = np.argsort(-chances, axis=1)
    a, b = order[:, 0], order[:, 1]
    distance = np.linalg.norm(where - scenes.pusher[rows][:, None], axis=-1)
    closest = np.nanargmin(np.where(present, distance, np.nan), axis=1)
    use = rng.random(len(rows)) < near
    b = np.where(use & (closest == b), a, b)
    a = np.where(use, closest, a)
    index = np.arange(len(rows))
    targets = np.stack([scenes.pusher[rows], where[index, a], where[index, b]], axis=1)
    others = where.copy()
    others[index, a] = np.nan
    others[index, b] = np.nan
    texts = [
        source.phrase(rng, scenes.names[i], scenes.names[j]) for i, j in zip(a, b, strict=True)
    ]
    return Questions(
        images=scenes.images[rows],
        texts=texts,
        targets=(targets / DECIMETRE).astype(np.float32),
        others=(others / DECIMETRE).astype(np.float32),
        pairs=np.stack([a, b], axis=1),
    )
