"""`report.json` of a demo: the figures under the names that others rely on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from efm_bringup.demo_page import write_demo_page
from efm_bringup.demo_state import DemoState
from efm_core.episode import EpisodeRecord, Mode
from efm_core.fleet import FleetDescription
from efm_core.registry import Registry
from efm_trainer.intervals import paired_difference

REPORT = "report.json"
ROLES = ("sft", "self_improved")


def write_report(state: DemoState, fleet: FleetDescription, run_dir: Path) -> Path:
    """Write `report.json` and `report.html`, print the gist, return the first one's path."""
    report = make_report(state, fleet)
    path = run_dir / REPORT
    path.write_text(json.dumps(report, indent=1) + "\n")
    page = write_demo_page(state, fleet, run_dir, report)
    for role in ROLES:
        print(f"{role:14} {_proportion(report[role])}")
    low, high = report["paired_difference"]["interval"]
    mean, wall = report["paired_difference"]["mean"], report["wall_seconds"]
    print(f"{'difference':14} {100 * mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]")
    print(f"{'time':14} {wall:.0f} s")
    print(f"{'report':14} {page}")
    return path


def make_report(state: DemoState, fleet: FleetDescription) -> dict[str, Any]:
    """All figures of a complete demo; rates in 0..1, times in s.

    The difference is self-improved minus SFT over the same start states, with the 95 % interval
    of a paired bootstrap.
    """
    figures, seconds = state.figures, dict(state.seconds)
    evaluation = figures["evaluation"]
    records = all_records(fleet.data_dir)
    modes = Counter(record.mode for record in records)
    transports = Counter(record.transport for record in records)
    mean, interval = paired_difference(
        evaluation["sft"]["outcomes"], evaluation["self_improved"]["outcomes"]
    )
    return {
        **{role: _rates(evaluation[role]) for role in ROLES},
        "paired_difference": {"mean": mean, "interval": list(interval)},
        "practice_episodes": modes[Mode.PRACTICE],
        "demo_episodes": modes[Mode.DEMO],
        "episodes_by_transport": {
            "dds": transports["dds"], "in_process": transports["in_process"]
        },
        "human_interventions": sum(
            len(record.interventions) for record in records if record.mode is not Mode.DEMO
        ),
        "labels_asked": sum(
            record.labels.operator is not None for record in records if record.mode is not Mode.DEMO
        ),
        "detector": {name: figures["calibration"][name] for name in ("precision", "recall")},
        "evaluation_detector": {role: evaluation[role]["detector"] for role in ROLES},
        "robots": len(fleet.robots),
        "seed": state.settings.seed,
        "wall_seconds": round(max(state.wall_seconds, sum(seconds.values())), 3),
        "seconds_by_phase": seconds,
        "data_dir": str(fleet.data_dir),
        "models": Registry(fleet.models_dir).versions(),
        "repetition": figures["repetition"],
        "settings": state.settings.model_dump(),
    }  # fmt: skip


def all_records(data_dir: Path) -> list[EpisodeRecord]:
    """Every finished episode below the data root."""
    return [
        EpisodeRecord.model_validate_json(file.read_text())
        for file in sorted(data_dir.glob("*/*/episode.json"))
        if file.parent.suffix != ".partial"
    ]


def _rates(evaluation: dict[str, Any]) -> dict[str, Any]:
    names = ("success", "autonomous_success", "episodes", "interval")
    return {name: evaluation[name] for name in names}


def _proportion(rates: dict[str, Any]) -> str:
    low, high = rates["interval"]
    return (
        f"{100 * rates['success']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of "
        f"{rates['episodes']} start states, by itself {100 * rates['autonomous_success']:.1f} %"
    )
