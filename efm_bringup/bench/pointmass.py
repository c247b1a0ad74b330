"""The recipe on point masses: what practice brings, by the default and by the paper's update."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from efm_bringup.bench.result import Figure, Finding
from efm_bringup.bench.timing import Shown
from efm_bringup.learning.pointmass import PointmassSettings
from efm_bringup.learning.pointmass import run as run_pointmass
from efm_trainer.improve import ImproveSettings

MEASURED = (
    "Masses in a square, seen by their true state: 8-vector in, two force tokens and steps-to-go "
    "out. Cloned from demonstrations that wander through five points, then practised in rounds of "
    "2,048 actions, rewarded and stopped by the frozen steps-to-go head. Means over seeds; "
    "success: the true distance within 140 actions, on starts of the seed's own that nothing was "
    "trained on, tokens drawn at temperature 1. Baseline: the paper's REINFORCE (c = 0.05, no "
    "baseline, one pass of 32 minibatches of 64, Adam 1e-4) from the same cloned weights."
)
_KINDS = {"default": ImproveSettings(), "paper": ImproveSettings.paper()}


def measure_pointmass(
    seeds: int = 3, rounds: int = 64, demonstrations: int = 10_000, shown: Shown | None = None
) -> Finding:
    """Run both updates for `seeds` seeds from 0 on."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in _KINDS}
    total, done = seeds * len(_KINDS) * rounds, 0
    for seed in range(seeds):
        settings = PointmassSettings(seed=seed, rounds=rounds, demonstrations=demonstrations)
        for kind, improve in _KINDS.items():
            before = done

            def told(figures: dict[str, float], start: int = before) -> None:
                if shown is not None:
                    shown(start + int(figures["round"]), total)

            found[kind].append(run_pointmass(settings, improve, told))
            done += rounds
    figures = (
        _single("cloned: success", "%", found["default"], "cloned/success", 100.0),
        _single("cloned: actions to the goal", "actions", found["default"], "cloned/actions"),
        _both("practised: success", "%", found, "practised/success", 100.0),
        _both("practised: lowest seed", "%", found, "practised/success", 100.0, np.min),
        _both("practised: actions to the goal", "actions", found, "practised/actions"),
    )
    return Finding(
        measured=MEASURED, figures=figures,
        settings={"seeds": seeds, "rounds": rounds, "demonstrations": demonstrations},
    )  # fmt: skip


def _single(
    name: str, unit: str, runs: Sequence[dict[str, float]], key: str, scale: float = 1.0
) -> Figure:
    value = scale * float(np.mean([run[key] for run in runs]))
    return Figure(name=name, unit=unit, value=value, count=len(runs))


def _both(
    name: str, unit: str, found: dict[str, list[dict[str, float]]], key: str,
    scale: float = 1.0, over: Callable[[list[float]], float] = np.mean,
) -> Figure:  # fmt: skip
    values = {k: scale * float(over([run[key] for run in runs])) for k, runs in found.items()}
    return Figure(
        name=name, unit=unit, value=values["default"], count=len(found["default"]),
        baseline="paper's update", baseline_value=values["paper"],
    )  # fmt: skip
