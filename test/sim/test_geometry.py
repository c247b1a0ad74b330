"""Block shapes, the arm's kinematics and the camera's projection."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_sim import arm
from efm_sim.camera import FrontCamera
from efm_sim.shapes import BLOCK_RADIUS, HEIGHT, SHAPES, Shape, prism
from efm_sim.world import SUCCESS_DISTANCE, World, WorldConfig


def shoelace(points: np.ndarray) -> float:
    """Signed area of a polygon (N, 2), positive when counter-clockwise."""
    after = np.roll(points, -1, axis=0)
    return float((points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]).sum() / 2)


@pytest.mark.parametrize("name", SHAPES)
def test_top_face_covers_the_outline_once(name: str) -> None:
    shape = SHAPES[name]
    corners = np.concatenate([shape.outline, [[0.0, 0.0]]])
    areas = [shoelace(corners[list(triangle)]) for triangle in shape.caps]
    assert min(areas) > 0.0  # all seen from above
    assert sum(areas) == pytest.approx(shoelace(shape.outline), rel=1e-9)


def box_corners(shape: Shape) -> np.ndarray:
    """Corners of all collision boxes, (4 * boxes, 2) in m."""
    corners = []
    for box in shape.boxes:
        cos, sin = np.cos(box.yaw), np.sin(box.yaw)
        for sx, sy in itertools.product((-1, 1), (-1, 1)):
            x, y = sx * box.half[0], sy * box.half[1]
            corners.append([box.centre[0] + cos * x - sin * y, box.centre[1] + sin * x + cos * y])
    return np.array(corners)


@pytest.mark.parametrize("name", SHAPES)
def test_collision_boxes_reach_as_far_as_the_outline(name: str) -> None:
    seen, felt = SHAPES[name].outline, box_corners(SHAPES[name])
    for angle in np.linspace(0.0, 2 * np.pi, 24, endpoint=False):
        direction = np.array([np.cos(angle), np.sin(angle)])
        assert (felt @ direction).max() == pytest.approx((seen @ direction).max(), abs=0.0022)


def test_touching_blocks_are_next_to_each_other() -> None:
    """Two farthest corners in line is the widest touching pair; it must count as success."""
    points = np.concatenate([p for s in SHAPES.values() for p in (s.outline, box_corners(s))])
    reach = np.linalg.norm(points, axis=1).max()
    assert reach <= BLOCK_RADIUS
    assert 2 * reach < SUCCESS_DISTANCE


@pytest.mark.parametrize("name", SHAPES)
def test_prism_is_flat_shaded_and_as_high_as_a_block(name: str) -> None:
    mesh = prism(SHAPES[name])
    vertices, normals = np.array(mesh.vertices), np.array(mesh.normals)
    assert vertices.shape == normals.shape
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0)
    assert (vertices[:, 2].min(), vertices[:, 2].max()) == (0.0, HEIGHT)
    for triangle in np.array(mesh.indices).reshape(-1, 3):
        a, b, c = vertices[triangle]
        facing = np.cross(b - a, c - a)
        assert facing @ normals[triangle[0]] > 0.0


@given(st.floats(0.06, 0.62), st.floats(-0.3, 0.3))
def test_inverse_then_forward_is_the_identity(x: float, y: float) -> None:
    np.testing.assert_allclose(arm.forward(*arm.inverse(x, y)), (x, y), atol=1e-9)


def test_straight_arm_points_forward() -> None:
    assert arm.forward(0.0, 0.0) == (arm.UPPER + arm.FORE, 0.0)
    with pytest.raises(ValueError, match="outside the arm's reach"):
        arm.inverse(1.0, 0.0)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (320, 180), (48, 96)])
def test_the_board_fills_the_image_and_no_more(width: int, height: int) -> None:
    low, high = (0.2, -0.2), (0.6, 0.2)
    corners = [(x, y, 0.0) for x in (0.2, 0.6) for y in (-0.2, 0.2)]
    pixels = FrontCamera(width, height, low, high).project(corners)
    assert pixels.min() > -1e-6
    assert np.all(pixels < np.array([width, height]) + 1e-6)
    extent = pixels.max(axis=0) - pixels.min(axis=0)
    assert np.max(extent / [width, height]) == pytest.approx(1.0)
    far_left, near_right = pixels[0], pixels[3]
    assert far_left[1] < near_right[1]  # the robot's side is at the top
    assert far_left[0] < near_right[0]  # +y is to the right


def test_each_block_is_seen_where_the_projection_says() -> None:
    world = World(WorldConfig(image_width=256, image_height=256, supersampling=1))
    colours = {"red": 0, "green": 1, "blue": 2}
    poses = {"red moon": (0.3, -0.1, 0.0), "blue cube": (0.45, 0.12, 0.0),
             "green star": (0.52, -0.05, 0.0)}
    world.place(poses, (0.25, 0.15))
    picture = world.render().astype(int)
    for name, (x, y, _) in poses.items():
        channel = colours[name.split()[0]]
        others = [c for c in range(3) if c != channel]
        mask = picture[:, :, channel] - picture[:, :, others].max(axis=2) > 60
        rows, columns = np.nonzero(mask)
        expected = world.camera.project([(x, y, HEIGHT / 2)])[0]
        centre = np.array([columns.mean(), rows.mean()]) + 0.5
        assert np.linalg.norm(centre - expected) < 5.0  # 3 mm: perspective and the moon's bite
        world_area = shoelace(SHAPES[name.split()[1]].outline)
        assert mask.sum() * (0.43 / 250) ** 2 == pytest.approx(world_area, rel=0.5)
    world.close()


def test_the_kept_background_gives_the_same_picture_as_drawing_the_board() -> None:
    size = {"image_width": 96, "image_height": 96}
    fast = World(WorldConfig(**size))
    fast.reset(4)
    whole = World(WorldConfig(**size, shadows=True))
    whole.reset(4)
    shaded = whole.render()
    drawn = whole.camera.render(whole._engine._client, shadows=False)
    np.testing.assert_array_equal(fast.render(), drawn)
    assert np.any(shaded != drawn)  # and shadows do fall when asked for
    fast.close()
    whole.close()
