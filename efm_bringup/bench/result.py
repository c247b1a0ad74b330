"""What a benchmark found, as a JSON file that the page is made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from efm_bringup.bench.machine import Machine
from efm_bringup.bench.timing import Spread

Settings = dict[str, str | int | float]
"""What was chosen: name -> value."""


class Figure(BaseModel):
    """One measured quantity beside its baseline.

    value: the median (or a plain count or share) in `unit`. p99, maximum: of the same samples,
    None where they say nothing. count: samples. baseline: what `baseline_value` (same unit) was
    measured on, "" without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    unit: str
    value: float
    p99: float | None = None
    maximum: float | None = None
    count: Annotated[int, Field(ge=0)]
    baseline: str = ""
    baseline_value: float | None = None

    @property
    def ratio(self) -> float | None:
        """value / baseline_value, None without a baseline above zero."""
        if not self.baseline_value:
            return None
        return self.value / self.baseline_value


class BenchResult(BaseModel):
    """The figures of one benchmark, how they came about and on which machine.

    command: what to type to measure them again. measured: what exactly is measured, for the page.
    settings: what else was chosen, such as seed and size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    command: str
    measured: str
    settings: Settings
    figures: tuple[Figure, ...]
    machine: Machine

    def figure(self, name: str) -> Figure:
        """The figure called `name`. Raises KeyError."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)


class Finding(BaseModel):
    """What a benchmark's function returns: a `BenchResult` less command and machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measured: str
    settings: Settings = Field(default_factory=dict)
    figures: Annotated[tuple[Figure, ...], Field(min_length=1)]


def timed(
    name: str,
    unit: str,
    taken: Spread,
    scale: float = 1e3,
    baseline: str = "",
    against: Spread | None = None,
) -> Figure:
    """A duration as a figure: the spread's seconds times `scale` (1e3: ms)."""
    return Figure(
        name=name,
        unit=unit,
        value=taken.median * scale,
        p99=None if taken.p99 is None else taken.p99 * scale,
        maximum=taken.maximum * scale,
        count=taken.count,
        baseline=baseline if against is not None else "",
        baseline_value=None if against is None else against.median * scale,
    )


def rated(
    name: str,
    unit: str,
    amount: float,
    taken: Spread,
    baseline: str = "",
    against: Spread | None = None,
) -> Figure:
    """A rate as a figure: `amount` per median second."""
    return Figure(
        name=name,
        unit=unit,
        value=amount / taken.median,
        count=taken.count,
        baseline=baseline if against is not None else "",
        baseline_value=None if against is None else amount / against.median,
    )


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by rename: whoever reads, or an interrupt, finds the old or the new text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_result(folder: Path, result: BenchResult) -> Path:
    """Write `<folder>/<what>.json`; its path."""
    path = folder / f"{result.what}.json"
    write_atomically(path, result.model_dump_json(indent=1) + "\n")
    return path


def read_results(folder: Path) -> list[BenchResult]:
    """Every result in `folder`, by name. Raises ValueError naming file and field."""
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(BenchResult.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise ValueError(
                f"{path}, field '{where}': {error.errors()[0]['msg']}; measure it again with "
                f"`efm bench {path.stem} --write`"
            ) from error
    return results
