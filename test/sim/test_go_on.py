"""Practice without resets in the simulated world: another task for the scene as it lies."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from efm_sim.scene_request import SceneRequest
from efm_sim.start import START_TARGET_GAP
from efm_sim.tasks import canonical_instruction, parse_instruction
from efm_sim.world import SUCCESS_DISTANCE, World

NAMES = ("red moon", "blue cube", "green star", "yellow pentagon")


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def spread(world, **changed):
    """Blocks 0.12 m apart on a square, but for those that are `changed`."""
    corners = [(0.34, -0.06), (0.46, -0.06), (0.34, 0.06), (0.46, 0.06)]
    poses = {n: (x, y, 0.0) for n, (x, y) in zip(NAMES, corners, strict=True)}
    poses |= {name.replace("_", " "): (*place, 0.0) for name, place in changed.items()}
    world.place(poses, (0.25, 0.0))


def test_nothing_moves_and_the_task_is_a_function_of_seed_and_draw(world):
    spread(world)
    before = world.save_state()
    drawn = []
    for draw in range(6):
        world.go_on(5, draw=draw)
        drawn.append(world.instruction)
        after = world.save_state()
        assert {**after, "instruction": ""} == {**before, "instruction": ""}
        assert world.target == parse_instruction(world.instruction)
        assert not world.succeeded()
    world.go_on(5, draw=2)
    assert world.instruction == drawn[2]
    assert len(set(drawn)) > 3


def test_pairs_that_are_done_or_out_of_reach_are_not_asked_for(world):
    spread(world, blue_cube=(0.34 + START_TARGET_GAP - 0.02, -0.06), green_star=(0.62, 0.1))
    for seed in range(60):
        world.go_on(seed)
        assert "green star" not in world.target
        assert set(world.target) != {"red moon", "blue cube"}
        places = [world.blocks[name][:2] for name in world.target]
        assert math.dist(*places) >= START_TARGET_GAP


def test_a_scene_without_a_task_says_so(world):
    spread(world, blue_cube=(0.7, 0.0), green_star=(0.7, 0.1), yellow_pentagon=(0.7, -0.1))
    before = world.instruction
    with pytest.raises(ValueError, match=r"no two of \['red moon'\] in reach are apart"):
        world.go_on(1)
    with pytest.raises(ValueError, match=r"\['blue cube'\] out of reach; reset the scene"):
        world.go_on(1, canonical_instruction("red moon", "blue cube"))
    assert world.instruction == before


def test_what_is_done_already_is_refused(world):
    spread(world, blue_cube=(0.34 + SUCCESS_DISTANCE - 0.005, -0.06))
    with pytest.raises(ValueError, match="done already"):
        world.go_on(1, canonical_instruction("red moon", "blue cube"))


def test_a_request_has_one_scene():
    assert SceneRequest.read('{"present": true, "draw": 2, "seed": 4}').draw == 2
    with pytest.raises(ValueError, match="present keeps the scene"):
        SceneRequest.read('{"present": true, "state": {}}')
