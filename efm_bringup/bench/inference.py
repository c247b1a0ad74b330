"""How long the network takes to answer: policy and reward model together, by batch size."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from efm_bringup.bench import material
from efm_bringup.bench.result import Figure, Finding, Settings, rated, timed
from efm_bringup.bench.timing import Shown, Work, alternate, spread
from efm_core.observation import Observation, draws
from efm_model.inference import Engine

MEASURED = (
    "`Engine.infer` on pictures of different scenes: preprocessing, the frozen trunk once for both "
    "roles, the policy's tokens drawn, steps-to-go. One thread. Engine: the back end that the "
    "robots use (ONNX Runtime where it agrees with torch). Baseline: the same engine on torch."
)


def answers(brain: Engine, seen: Sequence[Observation]) -> Work:
    """A call of both roles on all of `seen` at once."""
    tokens = brain.action_space.tokens
    numbers = np.stack([draws(0, "bench", o.tick, tokens) for o in seen])

    def work() -> object:
        return brain.infer(seen, numbers, material.TEMPERATURE)

    return work


def measure_inference(
    batches: Sequence[int] = (1, 4, 8, 16),
    rounds: int = 200,
    seed: int = 0,
    shown: Shown | None = None,
) -> Finding:
    """Time `rounds` answers of each batch size on both back ends, in turn."""
    with tempfile.TemporaryDirectory(prefix="efm-bench-") as name:
        fleet = material.bench_fleet(Path(name))
        fast = material.engine(fleet, seed, "auto")
        plain = material.engine(fleet, seed, "torch")
        seen = material.observations(fleet, max(batches), seed)
    works: dict[str, Work] = {}
    for batch in batches:
        works[f"fast {batch}"] = answers(fast, seen[:batch])
        works[f"torch {batch}"] = answers(plain, seen[:batch])
    taken = {key: spread(s) for key, s in alternate(works, rounds, shown=shown).items()}
    figures: list[Figure] = []
    for batch in batches:
        ours, theirs = taken[f"fast {batch}"], taken[f"torch {batch}"]
        label = f"batch of {batch}"
        figures.append(timed(f"{label}", "ms", ours, 1e3, "torch", theirs))
        figures.append(rated(f"{label}, answers", "robots/s", batch, ours, "torch", theirs))
    settings: Settings = {"backend": fast.backend, "rounds": rounds, "seed": seed}
    return Finding(measured=MEASURED, settings=settings, figures=tuple(figures))
