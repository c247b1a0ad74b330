"""The simulated robot's world: board, blocks, planar pusher, camera, task and truth.

Frame: the robot's base, x forward over the board, y left; metres, rad, seconds. The whole state
is a handful of numbers: the same numbers and the same command give the same next state and the
same picture bit for bit, whatever this world or the process did before.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efm_core.observation import Observation
from efm_sim import arm
from efm_sim.bodies import PUSHER_RADIUS
from efm_sim.camera import FrontCamera
from efm_sim.config import Workspace, WorldConfig
from efm_sim.engine import BlockState, Engine, Joint
from efm_sim.lasting import next_start
from efm_sim.shapes import BLOCK_RADIUS
from efm_sim.start import START_TARGET_GAP, start_scene
from efm_sim.tasks import parse_instruction, phrase_instruction, sample_instruction

__all__ = ["SUCCESS_DISTANCE", "Pose", "Workspace", "World", "WorldConfig"]

SUCCESS_DISTANCE = 0.05
"""Centres closer than this, in m, are "next to" each other (LanguageTable's rule)."""
_SAFETY = 0.01
"""Metres added to every bound on how far something can move within one period."""

Pose = tuple[float, float, float]
"""x, y in m and yaw in rad, base frame."""


class World:
    """One simulated robot at one board. Not thread-safe; it owns one physics client."""

    def __init__(self, config: WorldConfig | None = None, scene: bool = True) -> None:
        """Build the world and, unless `scene` is False (then call `place`), `reset(0)` it."""
        self.config = config or WorldConfig()
        self._engine = Engine(self.config)
        self._blocks: dict[str, BlockState] = {}
        self._joints: list[Joint] = []
        self._commanded = (0.0, 0.0)
        self.seed = 0
        self.instruction = ""
        self.target: tuple[str, str] = ("", "")
        if scene:
            self.reset(0)

    def close(self) -> None:
        """Free the physics client; calling it again does nothing."""
        self._engine.close()

    @property
    def camera(self) -> FrontCamera:
        """The front camera, for projecting points into its picture."""
        return self._engine.camera

    # -- state ---------------------------------------------------------------------------------

    @property
    def effector(self) -> NDArray[np.float64]:
        """Pusher position (x, y) in m, base frame, float64 (2,), from the joint positions."""
        return np.array(arm.forward(self._joints[0][0], self._joints[1][0]))

    @property
    def joint_positions(self) -> dict[str, float]:
        """Joint name -> angle in rad."""
        return {name: state[0] for name, state in zip(arm.JOINTS, self._joints, strict=True)}

    @property
    def blocks(self) -> dict[str, Pose]:
        """Block in play -> (x, y, yaw) in m, m, rad, base frame."""
        return {name: (b.x, b.y, b.yaw) for name, b in self._blocks.items()}

    @property
    def distance(self) -> float:
        """Distance in m between the centres of the two blocks of the task."""
        a, b = (self._blocks[name] for name in self.target)
        return math.hypot(a.x - b.x, a.y - b.y)

    def succeeded(self) -> bool:
        """Truth: the two centres are closer than SUCCESS_DISTANCE."""
        return self.distance < SUCCESS_DISTANCE

    def truth(self) -> dict[str, float]:
        """All named scalars of the true state, for evaluation alone (m, rad; success 0 or 1)."""
        x, y = arm.forward(self._joints[0][0], self._joints[1][0])
        values = {"ee_x": x, "ee_y": y}
        for name, b in self._blocks.items():
            key = name.replace(" ", "_")
            values |= {f"{key}_x": b.x, f"{key}_y": b.y, f"{key}_yaw": b.yaw}
        return values | {"distance": self.distance, "success": float(self.succeeded())}

    def save_state(self) -> dict[str, Any]:
        """Everything the future depends on, as JSON types; exact through a JSON round trip."""
        return {
            "seed": self.seed,
            "instruction": self.instruction,
            "commanded": list(self._commanded),
            "joints": {n: list(s) for n, s in zip(arm.JOINTS, self._joints, strict=True)},
            "blocks": {name: list(astuple(block)) for name, block in self._blocks.items()},
        }

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `save_state`, bit for bit (same config).

        Raises ValueError naming the field that is missing or wrong; nothing has changed then.
        """
        target = parse_instruction(str(_field(state, "instruction")))
        blocks, joints = _field(state, "blocks"), _field(state, "joints")
        known = self.config.blocks_in_play
        if not set(target) <= set(blocks) <= set(known):
            raise ValueError(
                f"state.blocks={sorted(blocks)}, instruction about {list(target)}: this world has "
                f"{sorted(known)}; restore into a world with the same blocks_in_play"
            )
        placed = {n: BlockState(*_numbers(blocks, n, 6)) for n in known if n in blocks}
        x, y = _numbers(state, "commanded", 2)
        arm.inverse(x, y)
        moved = [_numbers(joints, name, 2) for name in arm.JOINTS]
        seed = int(_field(state, "seed"))
        self._joints = [(angle, speed) for angle, speed in moved]
        self._blocks, self._commanded, self.seed = placed, (x, y), seed
        self.instruction, self.target = str(state["instruction"]), target

    @property
    def scene_hash(self) -> str:
        """SHA-256 (hex) of config and state: equal hashes mean equal worlds."""
        content = {"config": self.config.model_dump(mode="json"), "state": self.save_state()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    # -- acting --------------------------------------------------------------------------------

    def reset(self, seed: int, instruction: str | None = None) -> None:
        """A new start scene, drawn from `seed` alone; without `instruction` one is drawn too.

        Blocks and pusher keep the distances of `efm_sim.start`. With an `instruction` about
        another pair the scene may differ, for its pair has a distance of its own to keep.
        Raises ValueError for an instruction that does not name two blocks in play.
        """
        rng = np.random.default_rng([abs(int(seed)), int(seed < 0)])
        names = self.config.blocks_in_play
        drawn = sample_instruction(rng, names)  # drawn in any case: the scene is the same
        text = drawn if instruction is None else instruction
        target = parse_instruction(text)
        missing = [name for name in target if name not in names]
        if missing:
            raise ValueError(f"instruction {text!r}: {missing} not in play; in play: {list(names)}")
        poses, pusher = start_scene(rng, self.config.workspace, names, target)
        self.seed, self.instruction, self.target = int(seed), text, target
        self.place(poses, pusher)

    def go_on(self, seed: int, instruction: str | None = None, draw: int = 0) -> None:
        """A new task for the scene as it lies; nothing moves.

        Without `instruction` one is drawn from (seed, draw) alone, about two blocks that the
        pusher reaches and that are START_TARGET_GAP or more apart. Raises ValueError when there
        is no such pair, and for an instruction about blocks out of reach, or next to each other.
        """
        space = self.config.workspace
        near = {
            name: (b.x, b.y)
            for name, b in self._blocks.items()
            if space.low[0] <= b.x <= space.high[0] and space.low[1] <= b.y <= space.high[1]
        }
        if instruction is None:
            rng = np.random.default_rng([abs(int(seed)), int(seed < 0), draw])
            pairs = [
                (a, b) for a in near for b in near
                if a != b and math.dist(near[a], near[b]) >= START_TARGET_GAP
            ]  # fmt: skip
            if not pairs:
                raise ValueError(f"no two of {sorted(near)} in reach are apart; reset the scene")
            target = pairs[int(rng.integers(len(pairs)))]
            text = phrase_instruction(rng, *target)
        else:
            text, target = instruction, parse_instruction(instruction)
            lost = [name for name in target if name not in near]
            if lost:
                raise ValueError(f"instruction {text!r}: {lost} out of reach; reset the scene")
            if math.dist(near[target[0]], near[target[1]]) < SUCCESS_DISTANCE:
                raise ValueError(f"instruction {text!r}: it is done already; ask for another")
        self.instruction, self.target = text, target

    def go_on_or_reset(self, seed: int, instruction: str | None = None) -> str:
        """Begin from where the blocks lie, or by `reset` where nobody can go on from there.

        The blocks stay exactly where they are, at rest; task and place of the tool are drawn from
        `seed` (`efm_sim.lasting`). Returns why a full reset was needed, "" where it was not.
        Raises ValueError as `reset` does.
        """
        found = next_start(seed, instruction, self.config.workspace, self.blocks)
        if isinstance(found, str):
            self.reset(seed, instruction)
            return found
        self.instruction, self.target, spot = found
        self.seed = int(seed)
        self.place(self.blocks, spot)
        return ""

    def place(self, poses: Mapping[str, Pose], pusher: Sequence[float]) -> None:
        """Put blocks and pusher somewhere at rest, without physics (m, rad, base frame).

        Blocks of the configuration that `poses` leaves out are taken away until the next call.
        Raises ValueError for a block that is not in play or a pusher out of the arm's reach.
        """
        names = self.config.blocks_in_play
        unknown = [name for name in poses if name not in names]
        if unknown:
            raise ValueError(f"poses name {unknown}; in play: {list(names)}")
        commanded = (float(pusher[0]), float(pusher[1]))
        self._joints = [(angle, 0.0) for angle in arm.inverse(*commanded)]
        self._commanded = commanded
        self._blocks = {name: BlockState(*poses[name]) for name in names if name in poses}

    def step(self, velocity: ArrayLike) -> None:
        """Move for one control period with `velocity` (2,) in m/s, base frame.

        The arm drives both joints at constant speed to where the velocity leads, clipped to
        max_step_m per axis and to the workspace; on 20 mm the pusher stays within 0.3 mm of the
        straight line. Raises ValueError for another shape or a value that is not finite.
        """
        array = np.asarray(velocity, dtype=np.float64)
        if array.shape != (2,) or not np.all(np.isfinite(array)):
            raise ValueError(f"velocity={velocity!r}: expected two finite numbers in m/s")
        period, space = 1.0 / self.config.control_hz, self.config.workspace
        move = np.clip(array * period, -self.config.max_step_m, self.config.max_step_m)
        x, y = np.clip(np.array(self._commanded) + move, space.low, space.high).tolist()
        start = arm.forward(self._joints[0][0], self._joints[1][0])
        active = self._movable(start, (x, y))
        angles = arm.inverse(x, y)
        speeds = [(a - joint[0]) / period for a, joint in zip(angles, self._joints, strict=True)]
        self._commanded = (x, y)
        self._joints, moved = self._engine.advance(self._joints, active, speeds)
        self._blocks |= moved

    def _movable(
        self, start: tuple[float, float], end: tuple[float, float]
    ) -> dict[str, BlockState]:
        """Blocks that may move while the pusher goes from start to end (m); others lie still.

        A resting block can only be moved by the pusher or by a block that moves, and no block
        gets farther than the pusher's stroke or its own speed carry it. Most blocks rest most of
        the time: leaving them out of the physics halves its cost and keeps them exactly in place.
        """
        stroke = math.dist(start, end)
        waiting = dict(self._blocks)
        frontier = [
            name
            for name, b in self._blocks.items()
            if b.moving
            or _segment_distance((b.x, b.y), start, end) < PUSHER_RADIUS + BLOCK_RADIUS + _SAFETY
        ]
        active = set(frontier)
        while frontier:
            mover = waiting.pop(frontier.pop())
            reach = 2 * BLOCK_RADIUS + stroke + mover.speed / self.config.control_hz + _SAFETY
            for name, b in waiting.items():
                if name not in active and math.hypot(b.x - mover.x, b.y - mover.y) < reach:
                    active.add(name)
                    frontier.append(name)
        return {name: b for name, b in self._blocks.items() if name in active}

    # -- seeing --------------------------------------------------------------------------------

    def render(self) -> NDArray[np.uint8]:
        """The front camera's picture now: uint8 (image_height, image_width, 3), RGB."""
        return self._engine.render(self._joints, self._blocks)

    def observe(self, tick: int = 0, stamp_ns: int = 0) -> Observation:
        """What the robot sees and feels: camera "front", ee_x, ee_y in m, joints in rad."""
        x, y = arm.forward(self._joints[0][0], self._joints[1][0])
        return Observation(
            images={"front": self.render()},
            instruction=self.instruction,
            stamp_ns=stamp_ns,
            tick=tick,
            state={"ee_x": x, "ee_y": y, **self.joint_positions},
        )


def _field(mapping: Mapping[str, Any], name: str) -> Any:
    if name not in mapping:
        raise ValueError(f"state has no '{name}'; give a dictionary that save_state wrote")
    return mapping[name]


def _numbers(mapping: Mapping[str, Any], name: str, count: int) -> tuple[float, ...]:
    values = tuple(float(v) for v in _field(mapping, name))
    if len(values) != count or not all(math.isfinite(v) for v in values):
        raise ValueError(f"state field '{name}'={values}: expected {count} finite numbers")
    return values


def _segment_distance(
    point: tuple[float, float], start: tuple[float, float], end: tuple[float, float]
) -> float:
    """Distance in m from a point to the segment start..end."""
    lx, ly = end[0] - start[0], end[1] - start[1]
    px, py = point[0] - start[0], point[1] - start[1]
    length2 = lx * lx + ly * ly
    along = 0.0 if length2 == 0.0 else min(1.0, max(0.0, (px * lx + py * ly) / length2))
    return math.hypot(px - along * lx, py - along * ly)
