"""`report.html` of a demo, from its report.json, its phases' figures and some of its bags."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efm_bringup.demo_state import DemoState
from efm_core.checkpoint import verify_checkpoint
from efm_core.episode import EpisodeRecord, Outcome
from efm_core.fleet import FleetDescription
from efm_core.registry import Registry
from efm_trainer.report_page import write_page
from efm_trainer.report_plots import Example, read_example

PAGE = "report.html"
_EXAMPLES = 2
"""Start states to show, for each of both policies."""


def write_demo_page(
    state: DemoState, fleet: FleetDescription, run_dir: Path, report: Mapping[str, Any]
) -> Path:
    """Write the page; returns its path."""
    reward = state.figures["calibration"]["reward"]
    detector = verify_checkpoint(Registry(fleet.models_dir).path(reward)).detector
    return write_page(
        run_dir / PAGE,
        report,
        state.figures["fine-tuning"].get("history", []),
        practice_rounds(fleet.data_dir / "practice"),
        _examples(fleet.data_dir),
        detector.threshold if detector else None,
    )


def practice_rounds(data_set: Path) -> list[dict[str, float]]:
    """Per round: practised (episodes before it), detected and truth as rates in 0..1."""
    rounds: dict[int, list[EpisodeRecord]] = defaultdict(list)
    for record, _ in _records(data_set):
        rounds[record.round].append(record)
    result, practised = [], 0
    for number in sorted(rounds):
        records = rounds[number]
        count = len(records)
        detected = sum(r.outcome is Outcome.SUCCESS for r in records) / count
        truth = sum(r.labels.truth is True for r in records) / count
        result.append({"practised": float(practised), "detected": detected, "truth": truth})
        practised += count
    return result


def _examples(data_dir: Path) -> list[Example]:
    """The first start states that only the improved policy reaches, before and after."""
    sets = [data_dir / f"evaluation_{name}" for name in ("sft", "self_improved")]
    before, after = ({r.index: (r, path) for r, path in _records(s)} for s in sets)
    both = sorted(set(before) & set(after))
    gained = [i for i in both if after[i][0].labels.truth and not before[i][0].labels.truth]
    chosen = (gained + [i for i in both if i not in gained])[:_EXAMPLES]
    return [read_example(side[i][1]) for i in chosen for side in (before, after)]


def _records(data_set: Path) -> list[tuple[EpisodeRecord, Path]]:
    return [
        (EpisodeRecord.model_validate(json.loads(file.read_text())), file.parent)
        for file in sorted(data_set.glob("*/episode.json"))
        if file.parent.suffix != ".partial"
    ]
