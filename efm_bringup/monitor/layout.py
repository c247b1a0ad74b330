"""Where each robot of a fleet is drawn: the frame of its markers and its place in it.

Robots say where things are in their own base frame, and all bases may be called `base`. A viewer
shows what is published in its fixed frame without any tf, so the whole fleet is drawn in one
frame: a single robot in its own base frame, as it is, where a lab's tf tree and robot model fit;
several side by side in `fleet`, a drawing board, each moved by a constant offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_core.fleet import FleetDescription, RobotDescription
from efm_core.limits import CARTESIAN, position_box

BOARD = "fleet"
"""Frame of the markers of a fleet of several robots."""
COLUMNS = 4
GAP = 0.3
"""Free space between two robots' boxes, m: their texts need it."""
_UNLIMITED = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Frame in which a robot is drawn and the offset (3,), m, from its base to that frame."""

    frame: str
    offset: NDArray[np.float64]


def places(fleet: FleetDescription) -> dict[str, Place]:
    """The place of every robot by name.

    Rows of four, seen from behind the robots (looking along +x): the first robot is on the left
    and at the origin, further rows lie nearer to the viewer.
    """
    if len(fleet.robots) == 1:
        robot = fleet.robots[0]
        return {robot.name: Place(robot.space.frame, np.zeros(3))}
    sizes = [np.ptp(extent(robot), axis=0) + GAP for robot in fleet.robots]
    depth, width, _ = np.max(sizes, axis=0).tolist()
    steps = [(i // COLUMNS, i % COLUMNS) for i in range(len(fleet.robots))]
    return {
        robot.name: Place(BOARD, np.array([0.0 - depth * row, 0.0 - width * column, 0.0]))
        for robot, (row, column) in zip(fleet.robots, steps, strict=True)
    }


def fixed_frame(fleet: FleetDescription) -> str:
    """The frame that every marker of the fleet is in."""
    return next(iter(places(fleet).values())).frame


def workspace(robot: RobotDescription) -> NDArray[np.float64] | None:
    """The guard's box of positions, corners low and high, float64 (2, 3), m, base frame.

    None where the guard limits x or y on no side; a box without limits in z is flat, at z = 0.
    """
    corners = _limits(robot)
    if not np.all(np.isfinite(corners[:, :2])):
        return None
    return np.where(np.isfinite(corners), corners, 0.0)


def extent(robot: RobotDescription) -> NDArray[np.float64]:
    """Corners low and high, (2, 3), m, of what the robot's picture takes up; never infinite."""
    corners = _limits(robot)
    default = np.array([[-_UNLIMITED] * 2 + [0.0], [_UNLIMITED] * 2 + [0.0]])
    return np.where(np.isfinite(corners), corners, default)


def _limits(robot: RobotDescription) -> NDArray[np.float64]:
    low, high = position_box(robot.space, robot.guard_settings("real").workspace)
    corners = np.array([[-np.inf] * 3, [np.inf] * 3])
    for i, name in enumerate(robot.space.names):
        if name in CARTESIAN:
            corners[:, CARTESIAN.index(name)] = low[i], high[i]
    return corners
