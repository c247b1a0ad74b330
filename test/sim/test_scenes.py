"""Rendered scenes: labels, held-out pairs, repeatability."""

from __future__ import annotations

import numpy as np
import pytest

from efm_sim.scenes import TOUCHING_M, TRAINING_BLOCKS, render_scenes
from efm_sim.tasks import DEFAULT_BLOCKS, HELD_OUT_PAIRS
from efm_sim.world import World, WorldConfig

CONFIG = WorldConfig()


def test_labels_agree_with_each_other_and_with_the_world() -> None:
    batch = render_scenes(CONFIG, seed=1, count=40)
    assert batch.images.shape == (40, 64, 64, 3)
    assert batch.images.dtype == np.uint8
    np.testing.assert_array_equal(batch.present, np.isfinite(batch.poses).all(axis=2))
    counts = batch.present.sum(axis=1)
    assert counts.min() >= 2
    assert counts.max() <= 8
    world = World(CONFIG.model_copy(update={"blocks_in_play": batch.names}), scene=False)
    for i in range(5):
        poses = {
            n: tuple(map(float, p))
            for n, p, there in zip(batch.names, batch.poses[i], batch.present[i], strict=True)
            if there
        }
        world.place(poses, batch.effector[i])
        difference = np.abs(world.render().astype(int) - batch.images[i])
        assert (difference > 40).sum() <= 6  # labels are float32, the scene was float64
    world.close()


def test_a_scene_depends_on_its_seed_and_number_alone() -> None:
    whole = render_scenes(CONFIG, seed=5, count=12)
    part = render_scenes(CONFIG, seed=5, count=4, first=8)
    np.testing.assert_array_equal(whole.images[8:], part.images)
    np.testing.assert_array_equal(whole.poses[8:], part.poses)
    other = render_scenes(CONFIG, seed=6, count=4)
    assert np.any(other.images != whole.images[:4])


def test_a_scene_of_the_blocks_in_play_looks_as_in_an_episode() -> None:
    """The picture does not depend on which other blocks a world could show."""
    episode = World(CONFIG)
    episode.reset(3)
    scene = World(CONFIG.model_copy(update={"blocks_in_play": TRAINING_BLOCKS}), scene=False)
    scene.place(episode.blocks, episode.effector)
    np.testing.assert_array_equal(scene.render(), episode.render())
    episode.close()
    scene.close()


def test_held_out_pairs_stay_out_unless_asked_for() -> None:
    assert not set(TRAINING_BLOCKS) & set(HELD_OUT_PAIRS)
    assert set(DEFAULT_BLOCKS) <= set(TRAINING_BLOCKS)
    asked = render_scenes(CONFIG, seed=0, count=3, blocks=HELD_OUT_PAIRS, count_range=(2, 3))
    assert asked.names == HELD_OUT_PAIRS


def test_scenes_hold_close_pairs_and_contacts_but_no_overlaps() -> None:
    batch = render_scenes(WorldConfig(image_width=16, image_height=16), seed=2, count=150)
    closest, contact = [], []
    for poses, present, effector in zip(batch.poses, batch.present, batch.effector, strict=True):
        centres = poses[present, :2]
        gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2)
        closest.append(gaps[np.triu_indices(len(centres), 1)].min())
        contact.append(np.linalg.norm(centres - effector, axis=1).min())
    assert min(closest) >= TOUCHING_M - 1e-6
    assert np.mean(np.array(closest) < 0.05) > 0.4
    assert 0.2 < np.mean(np.array(contact) < 0.045) < 0.7


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="count_range"):
        render_scenes(CONFIG, seed=0, count=1, blocks=("red moon",))
