"""Block geometry in code: outlines, flat-shaded prisms to look at, boxes to collide with.

All lengths in metres, in the block's own frame: origin at the middle, z up from the underside.
Every block is 35 to 47 mm wide. Two touching blocks always have their origins less than 50 mm
apart, whichever way they are turned: "next to" by LanguageTable's rule. A moon's origin is the
middle of its outer circle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HEIGHT = 0.020
"""Height of every block, m."""
BLOCK_RADIUS = 0.025
"""No block reaches farther than this from its origin, in m."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with their own vertices, so that each facet has one normal.

    vertices: (V, 3) m; normals: (V, 3); indices: (3 * triangles,).
    """

    vertices: list[list[float]]
    normals: list[list[float]]
    indices: list[int]


@dataclass(frozen=True)
class Box:
    """A box standing in the block's frame: centre (x, y) m, half sizes (x, y) m, yaw rad."""

    centre: tuple[float, float]
    half: tuple[float, float]
    yaw: float = 0.0


@dataclass(frozen=True)
class Shape:
    """One block shape.

    outline: (N, 2) m, counter-clockwise. caps: triangles of the top face as outline indices; the
    index N stands for the origin. boxes: their union approximates the outline to 2 mm, in a
    moon's bite to 3 mm.
    """

    outline: Array
    caps: tuple[tuple[int, int, int], ...]
    boxes: tuple[Box, ...]


def _polar(radius: Array | float, angle: Array | float) -> Array:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _fan(count: int) -> tuple[tuple[int, int, int], ...]:
    return tuple((count, i, (i + 1) % count) for i in range(count))


def _cube() -> Shape:
    half = 0.0175
    corners = np.array([[half, -half], [half, half], [-half, half], [-half, -half]])
    return Shape(corners, _fan(4), (Box((0.0, 0.0), (half, half)),))


def _pentagon() -> Shape:
    radius, count = 0.022, 5
    outline = _polar(radius, np.arange(count) * 2 * np.pi / count)
    inner, side = radius * np.cos(np.pi / count), radius * np.sin(np.pi / count)
    boxes = []
    for i in range(count):  # one box from each side to the centre: their union is the pentagon
        yaw = (2 * i + 1) * np.pi / count
        x, y = _polar(inner / 2, yaw)
        boxes.append(Box((float(x), float(y)), (inner / 2, side), yaw))
    return Shape(outline, _fan(count), tuple(boxes))


def _star() -> Shape:
    outer, inner, count = 0.0235, 0.0105, 5
    radii = np.where(np.arange(2 * count) % 2 == 0, outer, inner)
    outline = _polar(radii, np.arange(2 * count) * np.pi / count)
    length, width = 0.0215, 0.0042  # the tip is blunted where the box is wider than the ray
    boxes = []
    for i in range(count):
        yaw = i * 2 * np.pi / count
        x, y = _polar(length / 2, yaw)
        boxes.append(Box((float(x), float(y)), (length / 2, width), yaw))
    return Shape(outline, _fan(2 * count), tuple(boxes))


def _moon() -> Shape:
    """A crescent: a disc less a disc to its right; a strip of quadrilaterals between two arcs."""
    outer, inner, offset, count = 0.0235, 0.0165, 0.0150, 9
    # Angle at which the two circles meet, seen from each centre.
    meet_x = (offset**2 + outer**2 - inner**2) / (2 * offset)
    meet_y = np.sqrt(outer**2 - meet_x**2)
    start_outer, start_inner = np.arctan2(meet_y, meet_x), np.arctan2(meet_y, meet_x - offset)
    outside = _polar(outer, np.linspace(start_outer, 2 * np.pi - start_outer, count))
    inside = _polar(inner, np.linspace(start_inner, 2 * np.pi - start_inner, count))
    inside = inside + np.array([offset, 0.0])
    outline = np.concatenate([outside, inside[-2:0:-1]])
    inner_ring = [0, *range(len(outline) - 1, count - 1, -1), count - 1]
    caps = [(i, i + 1, inner_ring[i]) for i in range(1, count - 1)]
    caps += [(i + 1, inner_ring[i + 1], inner_ring[i]) for i in range(count - 2)]
    boxes = []
    half, pieces = 0.0068, 6
    wide = np.arctan2(half, outer)  # half the angle that a box spans
    span = (2 * np.pi - 2 * start_outer) / pieces
    for angle in start_outer + (np.arange(pieces) + 0.5) * span:
        # Along the ray: from the inner arc (its mean over the box's width) to the outer one.
        rays = angle + np.array([-wide, 0.0, wide])
        exits = offset * np.cos(rays) + np.sqrt(inner**2 - (offset * np.sin(rays)) ** 2)
        near, far = float(exits.mean()), float(np.sqrt(outer**2 - half**2))
        x, y = _polar((near + far) / 2, angle)
        boxes.append(Box((float(x), float(y)), ((far - near) / 2, half), float(angle)))
    return Shape(outline, tuple(caps), tuple(boxes))


def prism(shape: Shape, height: float = HEIGHT) -> Mesh:
    """The shape as a flat-shaded prism without its underside, z from 0 to `height` (m)."""
    vertices = [[*corner, height] for corner in [*shape.outline.tolist(), [0.0, 0.0]]]
    normals = [[0.0, 0.0, 1.0]] * len(vertices)
    indices = [index for triangle in shape.caps for index in triangle]
    following = np.roll(shape.outline, -1, axis=0)
    for (ax, ay), (bx, by) in zip(shape.outline.tolist(), following.tolist(), strict=True):
        length = float(np.hypot(bx - ax, by - ay))
        first = len(vertices)
        vertices += [[ax, ay, 0.0], [bx, by, 0.0], [bx, by, height], [ax, ay, height]]
        normals += [[(by - ay) / length, (ax - bx) / length, 0.0]] * 4
        indices += [first, first + 1, first + 2, first, first + 2, first + 3]
    return Mesh(vertices, normals, indices)


def disc(radius: float, corners: int = 12) -> Shape:
    """A regular polygon that looks round (radius in m); it has no boxes to collide with."""
    angles = np.arange(corners) * 2 * np.pi / corners
    return Shape(_polar(radius, angles), _fan(corners), ())


def bar(length: float, half_width: float, pieces: int) -> Shape:
    """A strip along x from 0 to `length` (m), cut across into `pieces`; nothing to collide with.

    Short triangles: TinyRenderer visits each triangle's bounding rectangle, which is large for a
    long thin one.
    """
    along = np.linspace(0.0, length, pieces + 1)
    lower = np.stack([along, np.full_like(along, -half_width)], axis=1)
    upper = np.stack([along, np.full_like(along, half_width)], axis=1)
    caps: list[tuple[int, int, int]] = []
    last = 2 * pieces + 1  # index of the corner above corner 0
    for i in range(pieces):
        caps += [(i, i + 1, last - i), (i + 1, last - i - 1, last - i)]
    return Shape(np.concatenate([lower, upper[::-1]]), tuple(caps), ())


SHAPES: dict[str, Shape] = {
    "moon": _moon(),
    "cube": _cube(),
    "star": _star(),
    "pentagon": _pentagon(),
}
