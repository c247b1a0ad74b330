"""Point masses that are pushed to goals: the authors' smallest world, many copies at once.

The square [-1, 1]^2 in m, a mass of 1 kg moved by forces of at most 1 N per axis, ten physics steps
of 0.02 s per action (0.2 s), success within 0.15 m of the goal. Frame: the square's middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_core.actions import ActionDim, ActionSpace

Array = NDArray[np.float64]

RADIUS = 0.15
LIMIT = 140
"""Actions after which an episode has failed."""
SUBSTEPS, STEP_SECONDS = 10, 0.02
SPACE = ActionSpace(
    dims=tuple(ActionDim(name=n, unit="N", low=-1.0, high=1.0, bins=21) for n in ("x", "y")),
    kind="absolute",
    rate=1.0 / (SUBSTEPS * STEP_SECONDS),
)
STATE = 8
_WAY_POINTS = 5
_SPRING, _DAMPER = 1.6, 2.2
"""The demonstrator's controller, N/m and N s/m: sluggish, so that it could be much faster."""


@dataclass(slots=True)
class Masses:
    """N masses: position, velocity and goal, each (N, 2) in m and m/s."""

    position: Array
    velocity: Array
    goal: Array

    @classmethod
    def at_random(cls, rng: np.random.Generator, count: int) -> Masses:
        """At rest anywhere, goals anywhere but within reach already."""
        position = rng.uniform(-1.0, 1.0, (count, 2))
        goal = rng.uniform(-1.0, 1.0, (count, 2))
        near = np.linalg.norm(goal - position, axis=1) < 2 * RADIUS
        while near.any():
            goal[near] = rng.uniform(-1.0, 1.0, (int(near.sum()), 2))
            near = np.linalg.norm(goal - position, axis=1) < 2 * RADIUS
        return cls(position, np.zeros((count, 2)), goal)

    def state(self) -> NDArray[np.float32]:
        """What the policy sees, float32 (N, 8): position, velocity, goal, goal - position."""
        parts = [self.position, self.velocity, self.goal, self.goal - self.position]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def step(self, force: Array) -> None:
        """Push with `force` (N, 2) in N for one action; walls stop what runs into them."""
        push = np.clip(force, -1.0, 1.0)
        for _ in range(SUBSTEPS):
            self.velocity = self.velocity + STEP_SECONDS * push
            moved = self.position + STEP_SECONDS * self.velocity
            self.position = np.clip(moved, -1.0, 1.0)
            self.velocity = np.where(moved == self.position, self.velocity, 0.0)

    @property
    def reached(self) -> NDArray[np.bool_]:
        """Whether each mass is at its goal, bool (N,)."""
        return np.asarray(np.linalg.norm(self.goal - self.position, axis=1) < RADIUS)


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """Rows of successful demonstrations, one below the other.

    states: float32 (M, 8). bins: int64 (M, 2), -1 in the last row of an episode. steps: int64
    (M,), actions left to the goal. lengths: int64 (episodes,), actions of each.
    """

    states: NDArray[np.float32]
    bins: NDArray[np.int64]
    steps: NDArray[np.int64]
    lengths: NDArray[np.int64]


def demonstrate(count: int, seed: int) -> Demonstrations:
    """`count` scripted demonstrations that wander through five random points to the goal."""
    rng = np.random.default_rng((seed, 1))
    masses = Masses.at_random(rng, count)
    stations = rng.uniform(-1.0, 1.0, (count, _WAY_POINTS, 2))
    heading = np.zeros(count, dtype=np.int64)
    states, bins, ended = [], [], np.full(count, -1)
    for tick in range(LIMIT + 1):
        final = heading >= _WAY_POINTS
        done = masses.reached & final & (ended < 0)
        ended[done] = tick
        states.append(masses.state())
        target = stations[np.arange(count), np.minimum(heading, _WAY_POINTS - 1)]
        target = np.where(final[:, None], masses.goal, target)
        force = _SPRING * (target - masses.position) - _DAMPER * masses.velocity
        chosen = SPACE.encode(np.clip(force, -1.0, 1.0))
        bins.append(chosen)
        masses.step(SPACE.decode(chosen))
        near = np.linalg.norm(target - masses.position, axis=1) < RADIUS
        heading = heading + (near & ~final)
        if (ended >= 0).all():
            break
    return _rows(np.stack(states, 1), np.stack(bins, 1), ended)


def _rows(
    states: NDArray[np.float32], bins: NDArray[np.int64], ended: NDArray[np.int64]
) -> Demonstrations:
    kept = np.flatnonzero(ended > 0)
    rows: list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]] = []
    for episode in kept.tolist():
        end = int(ended[episode])
        tokens = bins[episode, : end + 1].copy()
        tokens[end] = -1
        rows.append((states[episode, : end + 1], tokens, np.arange(end, -1, -1)))
    all_states, all_bins, steps = (np.concatenate(part) for part in zip(*rows, strict=True))
    return Demonstrations(all_states, all_bins, steps, ended[kept])
