"""Rendered scenes with labels for grounding pre-training: no physics, no demonstration, no action.

Blocks and pusher are put anywhere, as episodes pass through them: apart, side by side, touching,
with the pusher free or against a block. Each scene depends on (seed, its index) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_sim.config import Workspace, WorldConfig
from efm_sim.tasks import ALL_BLOCKS, HELD_OUT_PAIRS
from efm_sim.world import World

TRAINING_BLOCKS: tuple[str, ...] = tuple(b for b in ALL_BLOCKS if b not in HELD_OUT_PAIRS)
"""The pairs that pre-training may show."""
TOUCHING_M = 0.037
"""Distance in m of two centres that just about touch; scenes keep at least this distance."""
_PUSHER_CONTACT_M = 0.026
_OVERSHOOT = 0.02
_ATTEMPTS = 40


@dataclass(frozen=True)
class SceneBatch:
    """N rendered scenes; positions in the robot's base frame.

    images: uint8 (N, H, W, 3), RGB. effector: float32 (N, 2), pusher (x, y) in m.
    names: the K blocks that could occur, columns of the next two.
    present: bool (N, K). poses: float32 (N, K, 3), x, y in m and yaw in rad; NaN where absent.
    """

    images: NDArray[np.uint8]
    effector: NDArray[np.float32]
    names: tuple[str, ...]
    present: NDArray[np.bool_]
    poses: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Scene:
    """One drawn scene: block name -> (x, y, yaw) in m, m, rad, and the pusher's (x, y) in m."""

    poses: dict[str, tuple[float, float, float]]
    pusher: tuple[float, float]


def draw_scene(
    rng: np.random.Generator,
    workspace: Workspace,
    blocks: Sequence[str] = TRAINING_BLOCKS,
    count_range: tuple[int, int] = (2, 8),
) -> Scene:
    """A random scene with count_range[0]..count_range[1] (inclusive) different blocks of `blocks`.

    A third of the blocks stand within a few millimetres of another one, a third of the scenes
    have the pusher against a block. Blocks for which there is no room are left out.
    """
    low, high = np.array(workspace.low), np.array(workspace.high)
    count = int(rng.integers(count_range[0], min(count_range[1], len(blocks)) + 1))
    chosen = rng.permutation(len(blocks))[:count]
    pusher = rng.uniform(low, high)
    centres: list[NDArray[np.float64]] = []
    poses: dict[str, tuple[float, float, float]] = {}
    for index in chosen:
        centre = _place_block(rng, low - _OVERSHOOT, high + _OVERSHOOT, centres, pusher)
        if centre is not None:
            centres.append(centre)
            yaw = float(rng.uniform(-np.pi, np.pi))
            poses[blocks[int(index)]] = (float(centre[0]), float(centre[1]), yaw)
    return Scene(poses, (float(pusher[0]), float(pusher[1])))


def _place_block(
    rng: np.random.Generator,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    others: list[NDArray[np.float64]],
    pusher: NDArray[np.float64],
) -> NDArray[np.float64] | None:
    """A free centre (2,) in m, near the pusher or another block now and then; None without room."""
    kind = float(rng.random())
    against_pusher = not others and kind < 1 / 3
    beside_other = bool(others) and kind < 1 / 3
    for _ in range(_ATTEMPTS):
        if against_pusher or beside_other:
            anchor = pusher if against_pusher else others[int(rng.integers(len(others)))]
            closest = _PUSHER_CONTACT_M if against_pusher else TOUCHING_M
            radius = closest + abs(float(rng.normal(0.0, 0.008)))
            angle = float(rng.uniform(-np.pi, np.pi))
            centre = anchor + radius * np.array([np.cos(angle), np.sin(angle)])
            if np.any(centre < low) or np.any(centre > high):
                continue
        else:
            centre = rng.uniform(low, high)
        if np.linalg.norm(centre - pusher) < _PUSHER_CONTACT_M:
            continue
        if all(np.linalg.norm(centre - other) >= TOUCHING_M for other in others):
            return centre
    return None


def iterate_scenes(
    config: WorldConfig,
    seed: int,
    count: int,
    blocks: Sequence[str] = TRAINING_BLOCKS,
    count_range: tuple[int, int] = (2, 8),
    first: int = 0,
) -> Iterator[tuple[Scene, NDArray[np.uint8]]]:
    """Scenes number first..first + count - 1 of `seed`, each with its picture uint8 (H, W, 3).

    The picture is the one that a World of the same image settings shows. Raises ValueError when
    fewer blocks are given than a scene needs.
    """
    if len(blocks) < count_range[0] or not 0 <= count_range[0] <= count_range[1]:
        raise ValueError(
            f"count_range={count_range} with {len(blocks)} blocks: "
            "give 0 <= low <= high and at least `low` blocks"
        )
    world = World(config.model_copy(update={"blocks_in_play": tuple(blocks)}), scene=False)
    try:
        for index in range(first, first + count):
            rng = np.random.default_rng([seed, index])
            scene = draw_scene(rng, config.workspace, blocks, count_range)
            world.place(scene.poses, scene.pusher)
            yield scene, world.render()
    finally:
        world.close()


def render_scenes(
    config: WorldConfig,
    seed: int,
    count: int,
    blocks: Sequence[str] = TRAINING_BLOCKS,
    count_range: tuple[int, int] = (2, 8),
    first: int = 0,
) -> SceneBatch:
    """`count` scenes of `iterate_scenes` in arrays, 12 kB a scene at 64 px."""
    names = tuple(blocks)
    column = {name: i for i, name in enumerate(names)}
    shape = (count, config.image_height, config.image_width, 3)
    images = np.empty(shape, dtype=np.uint8)
    effector = np.empty((count, 2), dtype=np.float32)
    poses = np.full((count, len(names), 3), np.nan, dtype=np.float32)
    scenes = iterate_scenes(config, seed, count, blocks, count_range, first)
    for i, (scene, picture) in enumerate(scenes):
        images[i], effector[i] = picture, scene.pusher
        for name, pose in scene.poses.items():
            poses[i, column[name]] = pose
    return SceneBatch(images, effector, names, ~np.isnan(poses[:, :, 0]), poses)
