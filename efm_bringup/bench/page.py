"""docs/performance.md, made from the result files: nothing in it is written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from efm_bringup.bench.machine import Machine
from efm_bringup.bench.result import BenchResult, Figure

_TITLES = {
    "simulator": "Simulated world",
    "inference": "Inference",
    "command-path": "From picture to command",
    "reward": "Reward tick",
    "guard": "Guard",
    "bags": "Bags",
    "trainer": "Trainer",
    "pointmass": "Learning: point masses",
}
_HEAD = """# Performance

Figures of the suite's parts, each beside a baseline measured in the same run: works take turns in
every round, medians count, and what else the machine did meanwhile hits all of them alike. The
99th percentile is left out below 100 samples. Measure again with the command under each table;
`efm bench page` makes this page from `docs/performance/*.json`.
"""


def page(results: Iterable[BenchResult]) -> str:
    """The page as Markdown. Raises ValueError without any result."""
    found = sorted(results, key=_order)
    if not found:
        raise ValueError("no result to make a page from; run `efm bench WHAT --write` first")
    return "\n".join([_HEAD, *(_section(result) for result in found)])


def _order(result: BenchResult) -> tuple[int, str]:
    known = list(_TITLES)
    place = known.index(result.what) if result.what in known else len(known)
    return place, result.what


def _section(result: BenchResult) -> str:
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in result.settings.items()
    )
    lines = [
        f"## {_TITLES.get(result.what, result.what)}",
        "",
        result.measured,
        "",
        *_table(result.figures),
        "",
        "```",
        result.command,
        "```",
        f"{_machine(result.machine)}{'; ' + settings if settings else ''}.",
        "",
    ]
    return "\n".join(lines)


def _table(figures: Sequence[Figure]) -> list[str]:
    spreads = any(figure.maximum is not None for figure in figures)
    against = any(figure.baseline for figure in figures)
    head = ["figure", "unit", "median" if spreads else "value"]
    head += ["p99", "max"] if spreads else []
    head += ["count"]
    head += ["baseline", "its value", "ratio"] if against else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for figure in figures:
        cells = [figure.name, figure.unit, number(figure.value)]
        cells += [number(figure.p99), number(figure.maximum)] if spreads else []
        cells += [f"{figure.count:,}"]
        if against:
            cells += [figure.baseline, number(figure.baseline_value), number(figure.ratio)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def number(value: float | None) -> str:
    """Three significant digits, thousands apart, "" for None."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _machine(machine: Machine) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    return (
        f"{machine.date}; {machine.cores} cores, {machine.cpu}, {machine.kernel}, load "
        f"{machine.load} at the start; Python {machine.python}, {libraries}"
    )
