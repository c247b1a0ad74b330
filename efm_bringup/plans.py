"""Plans of episodes on simulated robots: scene seeds drawn apart per purpose, split over robots."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from efm_core.episode import Mode
from efm_core.plan import EpisodePlan, PlannedEpisode

DEMONSTRATION_LIMIT = 150
"""Control ticks in which a demonstrator must be done (15 s at 10 Hz)."""


def scene_seed(seed: int, purpose: str, index: int) -> int:
    """The seed of a start scene, 0..2^31-1: a function of the run's seed, purpose and index.

    Purposes ("demo", "practice", "evaluation") never share a stream, so no evaluation scene is
    drawn from the seeds of a training scene.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def shared_out(
    episodes: Sequence[PlannedEpisode], robots: Sequence[str]
) -> dict[str, tuple[PlannedEpisode, ...]]:
    """Robot -> its episodes, dealt like cards so that every robot gets every split."""
    return {robot: tuple(episodes[i :: len(robots)]) for i, robot in enumerate(robots)}


def demonstration_plan(
    robots: Sequence[str],
    train: int,
    validation: int,
    seed: int,
    limit: int = DEMONSTRATION_LIMIT,
    data_set: str = "demo",
) -> EpisodePlan:
    """`train` + `validation` demonstrations by the robots' demonstrators, no model in charge.

    Raises ValueError without a robot.
    """
    if not robots:
        raise ValueError("a plan needs at least one robot; the fleet file lists none")
    episodes = [
        PlannedEpisode(
            index=i,
            scene={"seed": scene_seed(seed, "demo", i)},
            limit=limit,
            split="train" if i < train else "validation",
        )
        for i in range(train + validation)
    ]
    return EpisodePlan(
        plan_id=f"demo-{seed}-{train}-{validation}",
        mode=Mode.DEMO,
        seed=seed,
        data_set=data_set,
        episodes=shared_out(episodes, robots),
    )
