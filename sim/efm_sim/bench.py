"""How fast the simulator is: functions that measure and return numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from efm_sim.config import WorldConfig
from efm_sim.demonstrator import Demonstrator, TruthState
from efm_sim.scenes import render_scenes
from efm_sim.world import World

LANGUAGE_TABLE = WorldConfig(
    image_width=320, image_height=180, supersampling=1, physics_hz=240, control_hz=10,
    blocks_in_play=(
        "red moon", "red pentagon", "blue moon", "blue cube",
        "green cube", "green star", "yellow star", "yellow pentagon",
    ),
)
"""LanguageTable's own setting: 180x320 pixels, 24 physics steps per action, eight blocks."""


@dataclass(frozen=True)
class Rate:
    """Items per second: by the clock on the wall, and per second of this process's CPU time.

    The second is what one undisturbed core would give; the first suffers from other processes.
    """

    wall: float
    cpu: float


def _measure(count: int, work: Callable[[], None]) -> Rate:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Rate(count / (time.perf_counter() - wall), count / (time.process_time() - cpu))


def steps_rate(config: WorldConfig | None = None, steps: int = 600, images: bool = True) -> Rate:
    """Control steps per second while a demonstrator pushes blocks; each with an observation.

    An episode has 30 steps; drawing its start scene and choosing the action are counted in.
    Without `images` the camera is left out.
    """
    world = World(config)

    def work() -> None:
        for step in range(steps):
            if step % 30 == 0:
                world.reset(step)
                person = Demonstrator(step)
            if images:
                world.observe()
            world.step(person.act(TruthState.from_scalars(world.truth(), world.instruction)))

    try:
        world.render()  # the first picture allocates
        return _measure(steps, work)
    finally:
        world.close()


def scenes_rate(config: WorldConfig | None = None, count: int = 500) -> Rate:
    """Labelled scenes for pre-training per second."""
    settings = config or WorldConfig()

    def work() -> None:
        render_scenes(settings, 0, count)

    return _measure(count, work)


def demonstrations_rate(episodes: int = 60, limit: int = 80) -> tuple[Rate, float]:
    """Demonstrated episodes per second with images, and the share that succeeded."""
    world = World()
    succeeded = 0

    def work() -> None:
        nonlocal succeeded
        for seed in range(episodes):
            world.reset(seed)
            person = Demonstrator(seed)
            for _ in range(limit):
                world.observe()
                if world.succeeded():
                    succeeded += 1
                    break
                world.step(person.act(TruthState.from_scalars(world.truth(), world.instruction)))

    try:
        rate = _measure(episodes, work)
    finally:
        world.close()
    return rate, succeeded / episodes


def measure_all() -> dict[str, float]:
    """Every figure under its name; rates per second, `_cpu` per second of CPU time."""
    demonstrations, success = demonstrations_rate()
    rates = {
        "steps_64px": steps_rate(),
        "steps_64px_one_sample": steps_rate(WorldConfig(supersampling=1)),
        "steps_without_image": steps_rate(images=False),
        "steps_180x320_24_substeps": steps_rate(LANGUAGE_TABLE, steps=150),
        "scenes_64px": scenes_rate(),
        "scenes_64px_one_sample": scenes_rate(WorldConfig(supersampling=1)),
        "demonstrations": demonstrations,
    }
    figures = {"demonstration_success": success}
    for name, rate in rates.items():
        figures |= {name: rate.wall, f"{name}_cpu": rate.cpu}
    return figures
