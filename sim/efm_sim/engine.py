"""The physics and the camera behind the world: PyBullet as a function from state to state.

Frame: the robot's base; m, rad, s. Between two control periods blocks and arm are plain numbers.
Each period rewinds the engine to a snapshot, empties its caches and sets these numbers, so that
equal numbers give equal results bit for bit, whatever the engine did before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pybullet
from numpy.typing import NDArray

from efm_sim.bodies import build_arm, build_block, build_board, build_table
from efm_sim.camera import FrontCamera
from efm_sim.config import WorldConfig

Joint = tuple[float, float]
"""Angle in rad and speed in rad/s."""

_PARKED_X = 50.0
"""Where blocks wait that take no part, in m: off the table and out of the camera's sight."""
_REST_Z = -6e-6
"""Height in m at which a block's weight is carried (the solver's equilibrium penetration)."""
_MOTOR_TORQUE = 200.0


@dataclass(frozen=True, slots=True)
class BlockState:
    """A block between two control periods: x, y in m, yaw in rad, then m/s, m/s and rad/s.

    Blocks move in the plane; what little the engine lifts or tilts them within one period is
    dropped at its end.
    """

    x: float
    y: float
    yaw: float
    vx: float = 0.0
    vy: float = 0.0
    spin: float = 0.0

    @property
    def speed(self) -> float:
        """Speed of the centre in m/s."""
        return math.hypot(self.vx, self.vy)

    @property
    def moving(self) -> bool:
        """Faster than 0.1 mm/s or 0.01 rad/s; slower ones count as lying still."""
        return self.speed > 1e-4 or abs(self.spin) > 0.01


class Engine:
    """Owns one PyBullet client with the arm, the table and the blocks of `config`."""

    def __init__(self, config: WorldConfig) -> None:
        """Build everything once. Raises RuntimeError when PyBullet has no client left."""
        self._config = config
        self._client = pybullet.connect(pybullet.DIRECT)
        if self._client < 0:
            raise RuntimeError("PyBullet gave no physics client; close other worlds first")
        margin, space = config.camera_margin_m, config.workspace
        low = (space.low[0] - margin, space.low[1] - margin)
        high = (space.high[0] + margin, space.high[1] + margin)
        self.camera = FrontCamera(
            config.image_width, config.image_height, low, high, config.supersampling
        )
        board = build_board(self._client, low, high)
        if not config.shadows:  # a shadow falls on the board, so then it is drawn every time
            self.camera.keep_background(self._client)
            pybullet.removeBody(board, physicsClientId=self._client)
        self._build()

    def _build(self) -> None:
        client = self._client
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=1.0 / self._config.physics_hz,
            numSolverIterations=30,
            numSubSteps=0,
            deterministicOverlappingPairs=1,
            physicsClientId=client,
        )
        pybullet.setGravity(0.0, 0.0, -9.81, physicsClientId=client)
        build_table(client)
        self._arm = build_arm(client)
        self._ids = {
            name: build_block(client, name, (_PARKED_X + 0.1 * i, 0.0))
            for i, name in enumerate(self._config.blocks_in_play)
        }
        self._drive((0.0, 0.0))
        self._snapshot = pybullet.saveState(physicsClientId=client)

    def close(self) -> None:
        """Free the physics client; calling it again does nothing."""
        if self._client >= 0:
            pybullet.disconnect(physicsClientId=self._client)
            self._client = -1

    def advance(
        self, joints: Sequence[Joint], blocks: Mapping[str, BlockState], speeds: Sequence[float]
    ) -> tuple[list[Joint], dict[str, BlockState]]:
        """Drive the joints at `speeds` (rad/s) for one control period; the state afterwards.

        Only `blocks` take part; all others are out of the way.
        """
        client = self._client
        self._rewind()
        self._set(joints, blocks)
        self._drive(speeds)
        for _ in range(self._config.substeps):
            pybullet.stepSimulation(physicsClientId=client)
        measured = pybullet.getJointStates(self._arm, [0, 1], physicsClientId=client)
        after = {name: self._block(name) for name in blocks}
        return [(joint[0], joint[1]) for joint in measured], after

    def render(
        self, joints: Sequence[Joint], blocks: Mapping[str, BlockState]
    ) -> NDArray[np.uint8]:
        """The front camera's picture of this state: uint8 (H, W, 3), RGB."""
        self._set(joints, blocks)
        for i, name in enumerate(self._ids):
            if name not in blocks:
                pybullet.resetBasePositionAndOrientation(
                    self._ids[name], (_PARKED_X + 0.1 * i, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0),
                    physicsClientId=self._client,
                )
        return self.camera.render(self._client, self._config.shadows)

    def _rewind(self) -> None:
        """Back to the snapshot, with every cache as a body at rest far away leaves it.

        Restoring alone keeps contact points and the inertia tensors of the last orientation; one
        step with all blocks apart renews both.
        """
        pybullet.restoreState(self._snapshot, physicsClientId=self._client)
        self._drive((0.0, 0.0))
        pybullet.stepSimulation(physicsClientId=self._client)

    def _set(self, joints: Sequence[Joint], blocks: Mapping[str, BlockState]) -> None:
        client = self._client
        for index, (angle, speed) in enumerate(joints):
            pybullet.resetJointState(self._arm, index, angle, speed, physicsClientId=client)
        for name, b in blocks.items():
            turned = (0.0, 0.0, math.sin(b.yaw / 2), math.cos(b.yaw / 2))
            body = self._ids[name]
            pybullet.resetBasePositionAndOrientation(
                body, (b.x, b.y, _REST_Z), turned, physicsClientId=client
            )
            pybullet.resetBaseVelocity(
                body, (b.vx, b.vy, 0.0), (0.0, 0.0, b.spin), physicsClientId=client
            )

    def _block(self, name: str) -> BlockState:
        body = self._ids[name]
        (x, y, _), (qx, qy, qz, qw) = pybullet.getBasePositionAndOrientation(
            body, physicsClientId=self._client
        )
        (vx, vy, _), (_, _, spin) = pybullet.getBaseVelocity(body, physicsClientId=self._client)
        yaw = math.atan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz))
        return BlockState(x, y, yaw, vx, vy, spin)

    def _drive(self, speeds: Sequence[float]) -> None:
        """Set both joint motors to these speeds (rad/s)."""
        pybullet.setJointMotorControlArray(
            self._arm, [0, 1], pybullet.VELOCITY_CONTROL, targetVelocities=list(speeds),
            forces=[_MOTOR_TORQUE] * 2, physicsClientId=self._client,
        )
