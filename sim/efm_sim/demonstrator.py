"""A scripted demonstrator: pushes one block to another from the true state, like a person would.

It goes round behind the block, pushes it with lateral correction and steers round the others. A
style makes it human: slower, shaky, hesitating, with detours and different ways round; scale 0 is
a clean expert. Frame: the robot's base; metres, seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_sim.tasks import ALL_BLOCKS, parse_instruction

Vector = NDArray[np.float64]

CLEARANCE, CLOSEST = 0.043, 0.033
"""Distances in m from a block's centre at which the pusher likes to pass, and passes if it must."""
BLOCK_CLEARANCE = 0.058
"""Distance in m between centres at which a pushed block passes another one."""
PUSH_GAIN = 4.0
"""Lateral correction while pushing, 1/s."""


@dataclass(frozen=True)
class TruthState:
    """What the demonstrator looks at: pusher and block centres, each (2,) in m, base frame.

    target: (block to move, block to move it to). done: the simulator's truth says success.
    """

    effector: Vector
    blocks: Mapping[str, Vector]
    target: tuple[str, str]
    done: bool

    @classmethod
    def from_scalars(cls, scalars: Mapping[str, float], instruction: str) -> TruthState:
        """From the named scalars of `World.truth` (the topic truth/state) and the instruction.

        Raises ValueError when the instruction names a block that the scalars lack.
        """
        blocks = {}
        for name in ALL_BLOCKS:
            key = name.replace(" ", "_")
            if f"{key}_x" in scalars:
                blocks[name] = np.array([scalars[f"{key}_x"], scalars[f"{key}_y"]])
        target = parse_instruction(instruction)
        missing = [name for name in target if name not in blocks]
        if missing:
            raise ValueError(
                f"instruction {instruction!r} names {missing}, truth has {sorted(blocks)}; "
                "ask for blocks in play"
            )
        effector = np.array([scalars["ee_x"], scalars["ee_y"]])
        return cls(effector, blocks, target, scalars["success"] > 0.5)


@dataclass(frozen=True)
class Style:
    """How one episode is driven.

    speed: share of the fastest speed. tremor: standard deviation in m/s of the correlated noise.
    smoothing: share of the last command kept at each tick (0 to 1). pause_rate: chance per tick
    to hesitate. pause_ticks: longest hesitation. side: way round obstacles (+1 left, -1 right,
    0 the shorter). standoff: distance in m behind the block at which pushing begins. aim_error:
    standard deviation in m of a slow drift of the pusher across the push. detour: length in m of
    a sidestep on the way to the block, 0 for none.
    """

    speed: float = 1.0
    tremor: float = 0.0
    smoothing: float = 0.0
    pause_rate: float = 0.0
    pause_ticks: int = 0
    side: int = 0
    standoff: float = 0.046
    aim_error: float = 0.0
    detour: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, scale: float) -> Style:
        """A person's style for one episode; 0 gives the clean expert, 1 a person, more is worse."""
        return cls(
            speed=1.0 - scale * float(rng.uniform(0.0, 0.32)),
            tremor=scale * float(rng.uniform(0.008, 0.04)),
            smoothing=min(0.8, scale * float(rng.uniform(0.04, 0.36))),
            pause_rate=scale * float(rng.uniform(0.0, 0.036)),
            pause_ticks=5 if scale > 0 else 0,
            side=int(rng.choice([-1, 0, 0, 0, 1])) if scale > 0 else 0,
            standoff=0.046 + scale * float(rng.uniform(-0.0016, 0.016)),
            aim_error=scale * float(rng.uniform(0.0, 0.004)),
            detour=scale * float(max(0.0, rng.uniform(-0.048, 0.056))),
        )


class Demonstrator:
    """Drives one episode; make a new one (or `restart`) for the next.

    seed: everything random about the episode. scale: see `Style.draw`. speed_limit: m/s per axis.
    low, high: corners (x, y) in m of the workspace that the pusher may use.
    """

    def __init__(
        self,
        seed: int,
        scale: float = 1.0,
        speed_limit: float = 0.2,
        control_hz: float = 10.0,
        low: tuple[float, float] = (0.20, -0.20),
        high: tuple[float, float] = (0.60, 0.20),
    ) -> None:
        self._scale, self._limit, self._period = scale, speed_limit, 1.0 / control_hz
        self._low, self._high = np.array(low), np.array(high)
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Begin another episode with another style."""
        self._rng = np.random.default_rng([abs(int(seed)), 77])
        self.style = Style.draw(self._rng, self._scale)
        self._tremor, self._last = np.zeros(2), np.zeros(2)
        self._aim = 0.0
        self._pause = 0
        self._pushing = False
        self._detour: Vector | None = None
        self._started = False

    def act(self, truth: TruthState) -> Vector:
        """The velocity command (2,) in m/s, base frame, for the next control period."""
        if truth.done:  # lets go of the stick
            self._last = np.zeros(2)
            return np.zeros(2)
        wanted = self._wanted(truth)
        style = self.style
        self._drift()
        if self._hesitates():
            wanted = np.zeros(2)
        command = style.smoothing * self._last + (1.0 - style.smoothing) * wanted
        self._last = command
        if self._pause == 0:
            command = command + self._tremor
        return np.clip(command, -self._limit, self._limit)

    def _drift(self) -> None:
        """Advance the correlated noises (first-order autoregressive, stationary deviation kept)."""
        keep = 0.7
        fresh = np.sqrt(1.0 - keep**2)
        self._tremor = keep * self._tremor + fresh * self._rng.normal(0, self.style.tremor, 2)
        self._aim = 0.9 * self._aim + np.sqrt(1 - 0.81) * self._rng.normal(0, self.style.aim_error)

    def _hesitates(self) -> bool:
        if self._pause > 0:
            self._pause -= 1
        elif self._rng.random() < self.style.pause_rate:
            self._pause = int(self._rng.integers(2, self.style.pause_ticks + 1))
        return self._pause > 0

    def _wanted(self, truth: TruthState) -> Vector:
        """The noiseless velocity (2,) in m/s: push when behind the block, else go there."""
        block = truth.blocks[truth.target[0]]
        goal = self._block_goal(truth)
        direction = _unit(goal - block)
        across = np.array([-direction[1], direction[0]])
        offset = truth.effector - block
        along, lateral = float(offset @ direction), float(offset @ across)
        reach = self.style.standoff + (0.016 if self._pushing else 0.008)
        narrow = 0.021 if self._pushing else 0.011
        near = 0.002 if self._pushing else 0.010  # the pusher may lie deep in a moon's bite
        self._pushing = -reach < along < -near and abs(lateral) < narrow
        if self._pushing:
            correction = np.clip(PUSH_GAIN * (self._aim - lateral), -0.1, 0.1)
            return self.style.speed * self._limit * _unit(
                direction + correction / self._limit * 1.6 * across
            )
        behind = block - self.style.standoff * direction
        behind = np.clip(behind, self._low, self._high)
        return self._travel(truth, self._with_detour(truth.effector, behind))

    def _with_detour(self, position: Vector, behind: Vector) -> Vector:
        """The point to go to now: a sidestep first where the style has one."""
        if not self._started:
            self._started = True
            way = behind - position
            if self.style.detour > 0.0 and np.linalg.norm(way) > 0.05:
                side = 1.0 if self._rng.random() < 0.5 else -1.0
                middle = position + float(self._rng.uniform(0.2, 0.8)) * way
                across = np.array([-way[1], way[0]]) / np.linalg.norm(way)
                self._detour = np.clip(
                    middle + side * self.style.detour * across, self._low, self._high
                )
        if self._detour is not None and np.linalg.norm(self._detour - position) < 0.03:
            self._detour = None
        return behind if self._detour is None else self._detour

    def _block_goal(self, truth: TruthState) -> Vector:
        """Where to push the block (2,): the other block, or past one in the way."""
        name, destination = truth.target
        start, goal = truth.blocks[name], truth.blocks[destination]
        others = [p for n, p in truth.blocks.items() if n not in truth.target]
        radius = BLOCK_CLEARANCE - 0.008
        index = _first_in_the_way(start, goal, others, [radius] * len(others))
        if index is None:
            return goal
        blocking = others[index]
        direction = _unit(goal - start)
        across = np.array([-direction[1], direction[0]])
        side = -np.sign(float((blocking - start) @ across)) or 1.0
        return np.clip(
            blocking + side * BLOCK_CLEARANCE * across, self._low + 0.03, self._high - 0.03
        )

    def _travel(self, truth: TruthState, destination: Vector) -> Vector:
        """Velocity (2,) in m/s towards `destination`, round every block in the way."""
        position = truth.effector
        way = destination - position
        distance = float(np.linalg.norm(way))
        obstacles = list(truth.blocks.values())
        # A destination close to a block is reached all the same, by passing that one closer.
        radii = [
            float(np.clip(np.linalg.norm(destination - o) - 0.003, CLOSEST, CLEARANCE))
            for o in obstacles
        ]
        index = _first_in_the_way(position, destination, obstacles, radii)
        if index is None:
            heading = _unit(way)
        else:
            heading = self._round(position, destination, obstacles[index], radii[index])
        speed = min(self.style.speed * self._limit, distance / self._period)
        return speed * heading

    def _round(
        self, position: Vector, destination: Vector, obstacle: Vector, radius: float
    ) -> Vector:
        """Unit direction (2,) that passes `obstacle` at `radius` m, on the style's side."""
        to_obstacle = obstacle - position
        distance = float(np.linalg.norm(to_obstacle))
        towards = to_obstacle / max(distance, 1e-9)
        across = np.array([-towards[1], towards[0]])
        side = float(self.style.side)
        if side == 0.0:
            side = 1.0 if float((destination - obstacle) @ across) >= 0.0 else -1.0
        # Tangent to the circle from outside; from within also outwards again.
        sine = min(1.0, radius / max(distance, 1e-9))
        heading = np.sqrt(1.0 - sine**2) * towards + side * sine * across
        if distance < radius:
            heading = heading - towards * (radius - distance) / 0.01
        return _unit(heading)


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-9 else np.zeros(2)


def _first_in_the_way(
    start: Vector, end: Vector, obstacles: Sequence[Vector], radii: Sequence[float]
) -> int | None:
    """Index of the first obstacle whose disc the straight way start..end enters; None if free."""
    line = end - start
    length = float(np.linalg.norm(line))
    found, nearest = None, np.inf
    for index, (centre, radius) in enumerate(zip(obstacles, radii, strict=True)):
        along = float((centre - start) @ line) / max(length, 1e-9)
        foot = start + min(along, length) * _unit(line)
        inside = float(np.linalg.norm(foot - centre)) < radius
        if 0.0 < along < length + radius and inside and along < nearest:
            found, nearest = index, along
    return found
