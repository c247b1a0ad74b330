"""Builds the board, the arm and the blocks in a PyBullet client; lengths in m, masses in kg."""

from __future__ import annotations

import numpy as np
import pybullet

from efm_sim import arm
from efm_sim.shapes import HEIGHT, SHAPES, Mesh, bar, disc, prism

PUSHER_RADIUS = 0.0125
MASS = 0.05
FOOT = 0.0025
"""Height of the foot that carries a block, m: outlines collide above it, friction acts below."""
COLOUR_VALUES: dict[str, tuple[float, float, float]] = {
    "red": (0.92, 0.12, 0.12),
    "blue": (0.10, 0.25, 0.95),
    "green": (0.05, 0.62, 0.15),
    "yellow": (0.98, 0.85, 0.05),
}
BOARD_COLOUR = (0.70, 0.70, 0.72)
LINK_COLOUR = (0.88, 0.88, 0.90)
PUSHER_COLOUR = (0.07, 0.05, 0.10)
LINK_HEIGHT = 0.056
PUSHER_BOTTOM, PUSHER_TOP = 0.006, 0.052
LINK_HALF_WIDTH = 0.003


def build_table(client: int) -> int:
    """What carries the blocks, to be felt and not seen: top at z = 0, ends far away.

    Larger than the board: a block pushed over the board's edge still lies on it. Returns its id.
    """
    collision = pybullet.createCollisionShape(
        pybullet.GEOM_BOX, halfExtents=[10.0, 10.0, 0.05],
        collisionFramePosition=[0.0, 0.0, -0.05], physicsClientId=client,
    )
    # Without a visual shape PyBullet would draw the collision shape: give it one out of sight.
    hidden = pybullet.createVisualShape(
        pybullet.GEOM_MESH, vertices=[[0.0, 0.0, -9.0]] * 3, indices=[0, 1, 2],
        normals=[[0.0, 0.0, 1.0]] * 3, physicsClientId=client,
    )
    table = pybullet.createMultiBody(
        0.0, collision, hidden, [0.0, 0.0, 0.0], useMaximalCoordinates=True, physicsClientId=client
    )
    pybullet.changeDynamics(
        table, -1, lateralFriction=1.0, restitution=0.0, physicsClientId=client
    )
    return int(table)


def build_board(client: int, low: tuple[float, float], high: tuple[float, float]) -> int:
    """The board to be seen: the rectangle low..high (m, base frame) at z = 0; returns its id."""
    (x0, y0), (x1, y1) = low, high
    visual = pybullet.createVisualShape(
        pybullet.GEOM_MESH,
        vertices=[[x0, y0, 0.0], [x1, y0, 0.0], [x1, y1, 0.0], [x0, y1, 0.0]],
        indices=[0, 1, 2, 0, 2, 3], normals=[[0.0, 0.0, 1.0]] * 4,
        rgbaColor=[*BOARD_COLOUR, 1.0], physicsClientId=client,
    )
    return int(pybullet.createMultiBody(0.0, -1, visual, physicsClientId=client))


def build_block(client: int, name: str, position: tuple[float, float]) -> int:
    """A block of ALL_BLOCKS lying at `position` (m); returns its id.

    It stands on a small foot: four contact points with the board whatever its outline. Its
    inertia about the horizontal axes is large, so that it slides and turns but never tips.
    """
    colour, kind = name.split()
    shape = SHAPES[kind]
    visual = _visual(client, prism(shape), COLOUR_VALUES[colour])
    halves = [[0.011, 0.011, FOOT / 2]]
    centres = [[0.0, 0.0, FOOT / 2]]
    yaws = [0.0]
    for box in shape.boxes:
        bottom = FOOT + 0.0015
        halves.append([*box.half, (HEIGHT - bottom) / 2])
        centres.append([*box.centre, (HEIGHT + bottom) / 2])
        yaws.append(box.yaw)
    collision = pybullet.createCollisionShapeArray(
        shapeTypes=[pybullet.GEOM_BOX] * len(halves), halfExtents=halves,
        collisionFramePositions=centres,
        collisionFrameOrientations=[[0.0, 0.0, np.sin(a / 2), np.cos(a / 2)] for a in yaws],
        physicsClientId=client,
    )
    block = pybullet.createMultiBody(
        MASS, collision, visual, [*position, 0.0], useMaximalCoordinates=True,
        physicsClientId=client,
    )
    pybullet.changeDynamics(
        block, -1, mass=MASS, lateralFriction=0.5, restitution=0.0,
        linearDamping=0.0, angularDamping=0.0, localInertiaDiagonal=[1e-3, 1e-3, 1.4e-5],
        activationState=pybullet.ACTIVATION_STATE_DISABLE_SLEEPING, physicsClientId=client,
    )
    return int(block)


def _visual(
    client: int,
    mesh: Mesh,
    colour: tuple[float, float, float],
    position: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> int:
    return int(
        pybullet.createVisualShape(
            pybullet.GEOM_MESH, vertices=mesh.vertices, indices=mesh.indices,
            normals=mesh.normals, rgbaColor=[*colour, 1.0], visualFramePosition=position,
            physicsClientId=client,
        )
    )


def build_arm(client: int) -> int:
    """The two-link arm with its base at the origin; joints 0 and 1 turn, link 2 is the pusher.

    Only the pusher collides. Returns the body's id.
    """
    length = PUSHER_TOP - PUSHER_BOTTOM
    collision = pybullet.createCollisionShape(
        pybullet.GEOM_CYLINDER, radius=PUSHER_RADIUS, height=length, physicsClientId=client
    )
    look = disc(PUSHER_RADIUS)
    links = [
        _visual(client, prism(bar(size, LINK_HALF_WIDTH, 12), 2 * LINK_HALF_WIDTH), LINK_COLOUR,
                (0.0, 0.0, LINK_HEIGHT - LINK_HALF_WIDTH))
        for size in (arm.UPPER, arm.FORE)
    ]
    links.append(_visual(client, prism(look, length), PUSHER_COLOUR, (0.0, 0.0, -length / 2)))
    straight = [0.0, 0.0, 0.0, 1.0]
    body = int(pybullet.createMultiBody(
        baseMass=0.0,
        basePosition=[0.0, 0.0, 0.0],
        linkMasses=[1.0, 1.0, 0.2],
        linkCollisionShapeIndices=[-1, -1, collision],
        linkVisualShapeIndices=links,
        linkPositions=[[0.0, 0.0, 0.0], [arm.UPPER, 0.0, 0.0],
                       [arm.FORE, 0.0, PUSHER_BOTTOM + length / 2]],
        linkOrientations=[straight] * 3,
        linkInertialFramePositions=[[arm.UPPER / 2, 0.0, LINK_HEIGHT],
                                    [arm.FORE / 2, 0.0, LINK_HEIGHT], [0.0, 0.0, 0.0]],
        linkInertialFrameOrientations=[straight] * 3,
        linkParentIndices=[0, 1, 2],
        linkJointTypes=[pybullet.JOINT_REVOLUTE, pybullet.JOINT_REVOLUTE, pybullet.JOINT_FIXED],
        linkJointAxis=[[0.0, 0.0, 1.0]] * 3,
        physicsClientId=client,
    ))
    for link in range(3):
        pybullet.changeDynamics(
            body, link, lateralFriction=0.3, restitution=0.0, linearDamping=0.0,
            angularDamping=0.0, jointDamping=0.0, physicsClientId=client,
        )
    return body
