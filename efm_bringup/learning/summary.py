"""docs/learning.md: every figure of the learning benchmark, made from its result files."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Runs = dict[tuple[str, int], dict[int, dict[str, Any]]]
"""(arm, size) -> seed -> the run's JSON."""

_HEAD = """# Does practice help? Measured

Block to block from images, simulated, in one process with the parts that run on the robots;
success by the simulator's truth within {limit} ticks on {starts} common start states at
temperature {temperature}, the detector not ending the episode; alone: truth was true when the
robot's own detector said stop. The trunk saw rendered scenes of this simulator in pre-training, no
demonstration and no reward. Intervals: 95 %, bootstrap over seeds, then start states, of the
paired difference to the same seed after fine-tuning. Protocol {protocol}, part {part}.
"""


def nested_difference(
    before: ArrayLike, after: ArrayLike, seed: int = 0, resamples: int = 4000
) -> tuple[float, tuple[float, float]]:
    """Mean of after - before, (S seeds, N starts) outcomes, with its 95 % interval.

    Seeds are resampled with replacement, then start states, the same ones for every seed, because
    the starts are common (two-stage bootstrap, percentile). Raises ValueError for other shapes.
    """
    x, y = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.size == 0:
        raise ValueError(f"outcomes must be two equal (seeds, starts), got {x.shape}, {y.shape}")
    difference = y - x
    generator = np.random.default_rng(seed)
    seeds, starts = difference.shape
    means = np.empty(resamples)
    for k in range(resamples):
        rows = generator.integers(seeds, size=seeds)
        columns = generator.integers(starts, size=starts)
        means[k] = difference[rows][:, columns].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), (float(low), float(high))


def read_runs(folder: Path) -> Runs:
    """All result files of a folder."""
    runs: Runs = defaultdict(dict)
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        runs[run["arm"], int(run["size"])][int(run["seed"])] = run
    return dict(runs)


def outcomes(measured: dict[str, Any], which: str = "success") -> NDArray[np.float64]:
    """The string of 0 and 1 of one evaluation -> float64 (starts,)."""
    return np.array([float(letter) for letter in measured[which]])


def page(runs: Runs, facts: dict[str, str]) -> str:
    """The page as Markdown. Raises ValueError without any run."""
    if not runs:
        raise ValueError("no run to make a page from; run `efm bench learning` first")
    lines = [_HEAD.format(**facts)]
    for (arm, size), by_seed in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0])):
        lines += _section(arm, size, by_seed)
    lines += ["```", facts["command"], "```", ""]
    return "\n".join(lines)


def _section(arm: str, size: int, by_seed: dict[int, dict[str, Any]]) -> list[str]:
    seeds = sorted(by_seed)
    budgets = sorted({int(b) for run in by_seed.values() for b in run["budgets"]})
    what = "further demonstrations" if arm == "cloning" else "practice episodes"
    lines = [
        f"## {size} demonstrations, {arm}", "",
        f"| {what} | seeds | success | alone | difference, points | ticks | detector | by seed |",
        "|---|---|---|---|---|---|---|---|",
        _row("0", [by_seed[s]["sft"] for s in seeds], None),
    ]  # fmt: skip
    for budget in budgets:
        there = [s for s in seeds if str(budget) in by_seed[s]["budgets"]]
        after = [by_seed[s]["budgets"][str(budget)] for s in there]
        lines.append(_row(str(budget), after, [by_seed[s]["sft"] for s in there]))
    needed = [m for s in seeds for m in by_seed[s]["budgets"].values() if "resets" in m]
    return [*lines, "", *([_resets(needed), ""] if needed else [])]


def _resets(needed: Sequence[dict[str, Any]]) -> str:
    """What practice without resets cost: how often a scene was made anew all the same."""
    count, episodes = Counter[str](), sum(m["practised"] for m in needed)
    for measured in needed:
        count.update(measured["resets"])
    why = "; ".join(f"{reason}: {n}" for reason, n in count.most_common())
    rate = 100 * count.total() / max(episodes, 1)
    return (
        f"Interventions: {rate:.1f} for each 100 of {episodes} practice episodes ({why or 'none'})."
    )


def _row(
    name: str, after: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]] | None
) -> str:
    rates = [100 * outcomes(m).mean() for m in after]
    alone = np.mean([100 * outcomes(m, "autonomous").mean() for m in after])
    ticks = np.mean([m["ticks"] for m in after if m["ticks"] is not None] or [np.nan])
    precision = np.mean([m["detector"]["precision"] for m in after])
    recall = np.mean([m["detector"]["recall"] for m in after])
    gain = ""
    if before is not None:
        mean, (low, high) = nested_difference(
            np.stack([outcomes(m) for m in before]), np.stack([outcomes(m) for m in after])
        )
        gain = f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    cells = [
        name, str(len(after)), f"{np.mean(rates):.1f} %", f"{alone:.1f} %", gain, f"{ticks:.1f}",
        f"{precision:.2f} / {recall:.2f}", ", ".join(f"{rate:.1f}" for rate in rates),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"
