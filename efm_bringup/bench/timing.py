"""Timing pieces of work against each other: rounds take turns, so that a busy minute hits all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEWEST_FOR_P99 = 100
"""Below this many samples the 99th percentile would only be another name for the maximum."""

Work = Callable[[], object]
Shown = Callable[[int, int], None]
"""Called with (rounds done, rounds in all)."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How samples lie, in their own unit. p99 is None below `FEWEST_FOR_P99` samples."""

    median: float
    p99: float | None
    maximum: float
    count: int


def spread(samples: ArrayLike) -> Spread:
    """Median, 99th percentile (linear interpolation), maximum and count of samples (N,).

    Raises ValueError without a sample or with one that is not finite.
    """
    values = np.asarray(samples, dtype=np.float64).reshape(-1)
    if not values.size:
        raise ValueError("nothing was measured; give more rounds or seconds")
    if not np.isfinite(values).all():
        raise ValueError("a sample is not finite; the measurement is broken")
    return Spread(
        median=float(np.median(values)),
        p99=float(np.quantile(values, 0.99)) if values.size >= FEWEST_FOR_P99 else None,
        maximum=float(values.max()),
        count=int(values.size),
    )


def alternate(
    works: Mapping[str, Work],
    rounds: int,
    calls: int = 1,
    shown: Shown | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, NDArray[np.float64]]:
    """Seconds of every call of each work, float64 (rounds x calls,), by the work's name.

    Every work runs once beforehand (caches, lazy imports), uncounted. In each round all works run
    `calls` times, in turning order, so that none always follows the same other one.
    """
    for work in works.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for done in range(rounds):
        for name in _turned(list(works), done):
            for _ in range(calls):
                begin = clock()
                works[name]()
                taken[name].append(clock() - begin)
        if shown is not None:
            shown(done + 1, rounds)
    return {name: np.array(values) for name, values in taken.items()}


def _turned(names: Sequence[str], by: int) -> list[str]:
    first = by % len(names)
    return [*names[first:], *names[:first]]
