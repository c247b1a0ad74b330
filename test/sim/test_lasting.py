"""Scenes that last: when the simulated robot goes on from where its blocks lie, and how."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from efm_sim.config import Workspace
from efm_sim.lasting import CONTACT, LEAST_GAP, tasks, unusable
from efm_sim.scene_request import SceneRequest
from efm_sim.start import PUSHER_GAP, START_TARGET_GAP
from efm_sim.tasks import canonical_instruction, parse_instruction
from efm_sim.world import SUCCESS_DISTANCE, World

SPACE = Workspace(low=(0.2, -0.2), high=(0.6, 0.2))
MIDDLE = (0.4, 0.0)


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def test_blocks_stay_and_task_and_tool_follow_from_the_seed(world):
    world.reset(3)
    for _ in range(10):
        world.step((0.1, 0.05))
    left = world.save_state()
    blocks = world.blocks
    assert world.go_on_or_reset(8) == ""
    assert world.blocks == blocks  # to the bit
    start = world.save_state()
    for name, (x, y, _) in blocks.items():
        assert math.dist(world.effector, (x, y)) >= PUSHER_GAP - 1e-9, name
        assert start["blocks"][name][3:] == [0.0, 0.0, 0.0]
    world.reset(99)
    world.restore_state(left)
    assert world.go_on_or_reset(8) == ""
    assert world.save_state() == start  # of seed and what was left alone
    world.restore_state(left)
    world.go_on_or_reset(9)
    assert world.save_state() != start


def test_no_drawn_task_is_solved_already(world):
    world.reset(3)
    (x, y, _), near = world.blocks["red moon"], START_TARGET_GAP - 0.01
    poses = {**world.blocks, "blue cube": (x + near if x < 0.4 else x - near, y, 0.0)}
    world.place(poses, (0.25, 0.0))
    for seed in range(40):
        if world.go_on_or_reset(seed):
            continue
        assert set(world.target) != {"red moon", "blue cube"}
        assert parse_instruction(world.instruction) == world.target
        assert not world.succeeded()


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ((0.61, 0.0), "fallen off"),
        ((0.4, -0.21), "fallen off"),
        ((0.2 + CONTACT - 0.001, 0.2 - CONTACT + 0.001), "stuck in a corner"),
        ((0.201, 0.0), ""),  # along the border it can still be pushed
        ((0.2 + CONTACT + 0.001, 0.199), ""),
    ],
)
def test_fallen_and_stuck_blocks(place, wrong):
    said = unusable(SPACE, {"red moon": place, "blue cube": MIDDLE})
    assert (wrong in said) if wrong else said == ""


def test_the_pusher_must_fit_behind_the_block():
    # Straight away from a border at 1 mm there is no room; towards it there is.
    found = tasks(SPACE, {"a": (0.201, 0.0), "b": MIDDLE})
    assert found == [("b", "a")]
    assert unusable(SPACE, {"a": MIDDLE, "b": (0.45, 0.0)}) == "no block can be pushed to another"


def test_blocks_that_have_gathered_still_have_tasks_but_never_a_solved_one():
    gathered = {"a": MIDDLE, "b": (0.445, 0.0), "c": (0.4, 0.045)}  # b to c: 64 mm
    assert sorted(tasks(SPACE, gathered)) == [("b", "c"), ("c", "b")]
    far = {**gathered, "d": (0.5, 0.08)}  # 128 mm, 97 mm, 106 mm away
    assert {frozenset(pair) for pair in tasks(SPACE, far)} == {frozenset("ad"), frozenset("cd")}
    assert LEAST_GAP > SUCCESS_DISTANCE


def test_a_scene_that_cannot_last_is_drawn_as_by_reset(world):
    world.reset(3)
    poses = {**world.blocks, "green star": (0.61, 0.1, 0.0)}
    world.place(poses, (0.25, 0.0))
    assert world.go_on_or_reset(12) == "the green star has fallen off"
    drawn = world.save_state()
    world.reset(12)
    assert world.save_state() == drawn
    blocks = {n: (0.3 + 0.05 * i, 0.0, 0.0) for i, n in enumerate(world.blocks)}
    world.place(blocks, (0.25, 0.1))
    a, b = list(blocks)[:2]  # 5 cm apart
    assert "can't begin" in world.go_on_or_reset(4, canonical_instruction(a, b))


def test_the_request_is_one_of_three():
    assert SceneRequest.read('{"lasting": true, "seed": 4}').lasting
    with pytest.raises(ValueError, match="lasting decides"):
        SceneRequest.read('{"lasting": true, "present": true}')
