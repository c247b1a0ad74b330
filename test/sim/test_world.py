"""The world: repeatable, restorable, physical, and honest about wrong input."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pybullet
import pytest

from efm_sim.start import BORDER, PUSHER_GAP, START_GAP, START_TARGET_GAP
from efm_sim.tasks import ALL_BLOCKS, BLOCKS, parse_instruction
from efm_sim.world import SUCCESS_DISTANCE, Workspace, World, WorldConfig


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def wander(world: World, steps: int, seed: int = 0) -> None:
    """Drive about, through blocks, for `steps` control periods."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        nearest = min(world.blocks.values(), key=lambda p: math.dist(p[:2], world.effector))
        world.step(4.0 * (np.array(nearest[:2]) - world.effector) + rng.normal(0.0, 0.1, 2))


def test_the_same_seed_gives_the_same_bits_whatever_happened_before(world: World) -> None:
    fresh = World()
    fresh.reset(7)
    wander(fresh, 25)
    for past in (1, 2):
        world.reset(past)
        wander(world, 10 + past, past)
        world.reset(7)
        wander(world, 25)
        assert world.save_state() == fresh.save_state()
        np.testing.assert_array_equal(world.render(), fresh.render())
    assert world.scene_hash == fresh.scene_hash
    fresh.close()


def test_different_seeds_give_different_scenes(world: World) -> None:
    hashes = set()
    for seed in (*range(20), -1):
        world.reset(seed)
        hashes.add(world.scene_hash)
    assert len(hashes) == 21


def test_a_state_saved_as_json_in_mid_push_continues_bit_for_bit(world: World) -> None:
    world.reset(3)
    wander(world, 12)
    text = json.dumps(world.save_state())
    picture = world.render()
    wander(world, 15, seed=5)
    expected = world.save_state()
    other = World()
    other.restore_state(json.loads(text))
    np.testing.assert_array_equal(other.render(), picture)
    assert other.save_state() == json.loads(text)
    wander(other, 15, seed=5)
    assert other.save_state() == expected
    other.close()


def test_saving_does_not_disturb(world: World) -> None:
    world.reset(9)
    wander(world, 20)
    expected = world.save_state()
    world.reset(9)
    rng_free = np.random.default_rng(0)
    for _ in range(20):
        nearest = min(world.blocks.values(), key=lambda p: math.dist(p[:2], world.effector))
        world.save_state()
        world.render()
        world.step(4.0 * (np.array(nearest[:2]) - world.effector) + rng_free.normal(0.0, 0.1, 2))
    assert world.save_state() == expected


@pytest.mark.parametrize("blocks", [None, BLOCKS])
def test_start_scenes_keep_their_distances(blocks: tuple[str, ...] | None) -> None:
    config = WorldConfig() if blocks is None else WorldConfig(blocks_in_play=blocks)
    world = World(config)
    low, high = np.array(config.workspace.low), np.array(config.workspace.high)
    for seed in range(60):
        world.reset(seed)
        names, poses = list(world.blocks), np.array(list(world.blocks.values()))
        gaps = np.linalg.norm(poses[:, None, :2] - poses[None, :, :2], axis=2)
        assert gaps[np.triu_indices(len(names), 1)].min() >= START_GAP
        assert world.distance >= START_TARGET_GAP
        assert np.all(poses[:, :2] >= low + BORDER)
        assert np.all(poses[:, :2] <= high - BORDER)
        assert np.linalg.norm(poses[:, :2] - world.effector, axis=1).min() >= PUSHER_GAP - 1e-6
        assert world.target == parse_instruction(world.instruction)
        assert not world.succeeded()
    world.close()


def test_a_given_instruction_keeps_the_scene_of_the_seed_where_it_fits(world: World) -> None:
    world.reset(11)
    drawn, scene = world.instruction, world.blocks
    world.reset(11, drawn)
    assert (world.instruction, world.blocks) == (drawn, scene)
    world.reset(11, "push the blue cube to the red moon")
    assert world.target == ("blue cube", "red moon")
    assert world.distance >= START_TARGET_GAP


def test_the_arm_goes_where_the_velocity_leads(world: World) -> None:
    world.place({}, (0.35, 0.0))
    for velocity in ([0.15, -0.05], [-0.2, 0.2], [0.0, 0.1]):
        before = world.effector
        world.step(velocity)
        np.testing.assert_allclose(world.effector - before, np.array(velocity) / 10, atol=2e-4)
    before = world.effector
    world.step([0.0, 0.0])
    np.testing.assert_allclose(world.effector, before, atol=2e-4)


def test_steps_are_clipped_to_the_limit_and_the_workspace(world: World) -> None:
    world.place({}, (0.55, 0.0))
    before = world.effector
    world.step([9.0, -9.0])
    np.testing.assert_allclose(world.effector - before, [0.02, -0.02], atol=2e-4)
    for _ in range(6):
        world.step([9.0, 0.0])
    assert world.effector[0] == pytest.approx(world.config.workspace.high[0], abs=2e-4)


def test_a_pushed_block_moves_with_the_pusher_and_a_distant_one_not_at_all(world: World) -> None:
    world.place({"blue cube": (0.40, 0.0, 0.0), "green star": (0.40, 0.15, 1.0)}, (0.40, -0.06))
    star = world.blocks["green star"]
    for _ in range(4):  # 80 mm; the cube's side and the pusher's radius meet after 30 mm
        world.step([0.0, 0.2])
    x, y, _ = world.blocks["blue cube"]
    travelled = 0.080 - (0.060 - 0.0175 - 0.0125)
    assert y == pytest.approx(travelled, abs=0.008)
    assert x == pytest.approx(0.40, abs=0.01)
    assert world.blocks["green star"] == star


def test_blocks_push_blocks(world: World) -> None:
    world.place({"blue cube": (0.40, 0.0, 0.0), "red moon": (0.40, 0.06, 1.5)}, (0.40, -0.06))
    for _ in range(8):
        world.step([0.0, 0.2])
    assert world.blocks["red moon"][1] > 0.11


def test_blocks_left_out_of_a_period_would_not_have_moved() -> None:
    """Stepping with every block in the engine moves the blocks that were left out by nothing."""
    quick, full = World(), World()
    full._movable = lambda *_: dict(full._blocks)  # type: ignore[method-assign]
    left_out = 0
    for seed in range(8):
        quick.reset(seed)
        rng = np.random.default_rng(seed)
        for _ in range(25):
            state = quick.save_state()
            full.restore_state(state)
            nearest = min(quick.blocks.values(), key=lambda p: math.dist(p[:2], quick.effector))
            velocity = 4.0 * (np.array(nearest[:2]) - quick.effector) + rng.normal(0.0, 0.1, 2)
            quick.step(velocity)
            full.step(velocity)
            for name, pose in quick.blocks.items():
                if list(pose) == state["blocks"][name][:3]:
                    left_out += 1
                    assert math.dist(full.blocks[name][:2], pose[:2]) < 1e-6
    assert left_out > 200
    quick.close()
    full.close()


def test_blocks_hardly_rise_or_tilt_within_a_period(world: World) -> None:
    """The state is planar: what the engine lifts or tilts within 0.1 s must be negligible."""
    engine = world._engine
    for seed in range(5):
        world.reset(seed)
        rng = np.random.default_rng(seed)
        for _ in range(30):
            nearest = min(world.blocks.values(), key=lambda p: math.dist(p[:2], world.effector))
            velocity = 4.0 * (np.array(nearest[:2]) - world.effector) + rng.normal(0.0, 0.1, 2)
            before = world.blocks
            world.step(velocity)
            for name, pose in world.blocks.items():
                if pose != before[name]:
                    (_, _, z), turned = pybullet.getBasePositionAndOrientation(
                        engine._ids[name], physicsClientId=engine._client
                    )
                    assert abs(z) < 5e-4
                    assert math.hypot(*turned[:2]) < 0.005


def test_success_is_the_distance_between_the_two_centres(world: World) -> None:
    world.reset(0, "push the blue cube to the green star")
    poses = dict(world.blocks)
    for gap, expected in ((SUCCESS_DISTANCE - 1e-4, True), (SUCCESS_DISTANCE + 1e-4, False)):
        poses |= {"blue cube": (0.4, 0.0, 0.0), "green star": (0.4 + gap, 0.0, 0.0),
                  "red moon": (0.3, 0.15, 0.0), "yellow pentagon": (0.5, 0.15, 0.0)}
        world.place(poses, (0.3, -0.15))
        truth = world.truth()
        assert world.succeeded() is expected
        assert truth["success"] == float(expected)
        assert truth["distance"] == pytest.approx(gap)
        assert (truth["blue_cube_x"], truth["ee_y"]) == pytest.approx((0.4, -0.15))


def test_an_observation_holds_image_instruction_and_proprioception(world: World) -> None:
    world.reset(2)
    seen = world.observe(tick=3, stamp_ns=17)
    assert seen.images["front"].shape == (64, 64, 3)
    assert seen.images["front"].dtype == np.uint8
    assert (seen.tick, seen.stamp_ns, seen.instruction) == (3, 17, world.instruction)
    assert set(seen.state) == {"ee_x", "ee_y", "shoulder", "elbow"}
    assert not any(name.replace(" ", "_") in key for key in seen.state for name in ALL_BLOCKS)


@pytest.mark.parametrize("velocity", [[0.1], [0.1, 0.1, 0.1], [math.nan, 0.0], [math.inf, 0.0]])
def test_a_wrong_velocity_is_refused(world: World, velocity: list[float]) -> None:
    with pytest.raises(ValueError, match="two finite numbers"):
        world.step(velocity)


def test_wrong_scenes_are_refused_by_name(world: World) -> None:
    world.reset(0)
    state = world.save_state()
    with pytest.raises(ValueError, match="not in play"):
        world.reset(0, "push the red star to the blue cube")
    with pytest.raises(ValueError, match="no 'joints'"):
        world.restore_state({k: v for k, v in state.items() if k != "joints"})
    with pytest.raises(ValueError, match="commanded"):
        world.restore_state({**state, "commanded": [0.3, math.nan]})
    with pytest.raises(ValueError, match="same blocks_in_play"):
        world.restore_state({**state, "blocks": {}})
    assert world.save_state() == state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks_in_play": ("red moon", "red banana")}, "red banana"),
        ({"blocks_in_play": ("red moon", "red moon")}, "repeated"),
        ({"physics_hz": 125, "control_hz": 10}, "multiple"),
        ({"workspace": {"low": (0.2, -0.5), "high": (0.7, 0.5)}}, "reaches"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldConfig.model_validate(options)


def test_too_many_blocks_for_the_board_are_refused() -> None:
    config = WorldConfig(blocks_in_play=ALL_BLOCKS, workspace=Workspace(high=(0.4, 0.0)))
    world = World(config, scene=False)
    with pytest.raises(ValueError, match="do not fit"):
        world.reset(0)
    world.close()
