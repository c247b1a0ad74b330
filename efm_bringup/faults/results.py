"""Outcomes of fault rounds: appended one line each, so that a run goes on where it was cut."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Trial:
    """What a series of rounds does: cause, clock ("" without a fleet) and signal ("" = none)."""

    cause: str
    clock: str = ""
    signal: str = ""

    @property
    def name(self) -> str:
        """Such as `inference-real-kill`; also the name of its file below docs/faults."""
        return "-".join(part for part in (self.cause, self.clock, self.signal) if part).lower()


@dataclass(frozen=True, slots=True)
class Round:
    """One round: what was measured (s, or counts) and what was not as promised.

    number: 0, 1, ...; with the seed it fixes the random moment. figures: name -> value.
    problems: one sentence each, empty for a round that passed.
    """

    trial: Trial
    number: int
    seed: int
    figures: Mapping[str, float] = field(default_factory=dict)
    problems: Sequence[str] = ()
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything was as promised."""
        return not self.problems


class RoundLog:
    """The rounds of a run folder, in `rounds.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, done: Round) -> None:
        """Append one round."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(done)) + "\n")

    def read(self) -> list[Round]:
        """All rounds so far; a last line that was cut is left out.

        Raises ValueError naming the line that can't be read.
        """
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        rounds = []
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            if not line.endswith("\n"):
                break
            try:
                content: dict[str, Any] = json.loads(line)
                rounds.append(Round(**{**content, "trial": Trial(**content["trial"])}))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number}: {error}; delete the line or the run folder"
                ) from error
        if text and not text.endswith("\n"):
            self.path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
        return rounds


def of_trial(rounds: Iterable[Round], trial: Trial, seed: int) -> list[Round]:
    """The rounds of one trial under one seed."""
    return [r for r in rounds if r.trial == trial and r.seed == seed]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(trial: Trial, rounds: Sequence[Round], command: str) -> dict[str, Any]:
    """Counts, distribution of every figure and every kind of problem, ready for JSON."""
    figures: dict[str, dict[str, float]] = {}
    for name in sorted({name for r in rounds for name in r.figures}):
        values = [r.figures[name] for r in rounds if name in r.figures]
        figures[name] = {
            "n": len(values),
            "p50": round(percentile(values, 0.5), 4),
            "p99": round(percentile(values, 0.99), 4),
            "worst": round(max(values), 4),
        }
    return {
        **asdict(trial),
        "rounds": len(rounds),
        "passed": sum(r.passed for r in rounds),
        "figures": figures,
        "problems": dict(Counter(problem for r in rounds for problem in r.problems)),
        "notes": dict(Counter(r.note for r in rounds if r.note)),
        "seeds": sorted({r.seed for r in rounds}),
        "command": command,
    }


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table, one line per trial: passed/rounds, p50, p99 and worst of its figures."""
    lines = ["| trial | passed | figures: p50 / p99 / worst |", "|---|---|---|"]
    for found in summaries:
        name = Trial(found["cause"], found["clock"], found["signal"]).name
        figures = "; ".join(
            f"{figure} {v['p50']:.4g} / {v['p99']:.4g} / {v['worst']:.4g}"
            for figure, v in found["figures"].items()
        )
        lines.append(f"| {name} | {found['passed']}/{found['rounds']} | {figures} |")
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- table: written by `efm faults --docs` -->", "<!-- end of table -->"


def write_table(docs: Path) -> None:
    """Put the table of all `docs/faults/*.json` into `docs/faults.md`, between its two marks.

    Raises ValueError when the page has no marks.
    """
    page = docs / "faults.md"
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Faults\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} lacks the line {BEGIN!r} or {END!r}; put both in again")
    files = sorted((docs / "faults").glob("*.json"))
    summaries = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{table(summaries)}{END}{after}", encoding="utf-8")
