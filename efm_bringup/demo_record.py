"""Demos over many seeds as one table: a small file per seed, and the page made from them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efm_bringup.demo_report import REPORT, ROLES

_KEPT = (
    *ROLES, "paired_difference", "practice_episodes", "demo_episodes", "human_interventions",
    "labels_asked", "detector", "evaluation_detector", "repetition", "robots", "seed",
    "wall_seconds", "seconds_by_phase", "settings",
)  # fmt: skip

_HEAD = """# The demo over seeds

Every row is one run of `efm demo --seed N`: demonstrations and practice over ROS 2, evaluation on
200 start states (success by the simulator's truth within the limit, temperature 0.5, 95 % Wilson
intervals; the difference is paired over start states, 95 % bootstrap). "Alone": truth was true
when the robot's own detector said stop. Detector: precision (truth at the first firing) / recall
(fired in true successes) over those 200 episodes, after demonstrations and after practice. This
page is made by `efm demos --seeds SEEDS`, which runs what is missing.

| seed | demonstrations | alone | practice | alone | paired difference | detector | episodes | s |
|---|---|---|---|---|---|---|---|---|
"""


def keep(run_dir: Path, folder: Path) -> Path:
    """Copy what matters of a run's report to `folder/seed<N>.json`, atomically; its path.

    Raises FileNotFoundError when the run has no report.
    """
    report = json.loads((run_dir / REPORT).read_text())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed{report['seed']}.json"
    partial = path.with_suffix(".partial")
    kept = {name: report[name] for name in _KEPT if name in report}
    partial.write_text(json.dumps(kept, indent=1) + "\n")
    os.replace(partial, path)
    return path


def read_record(folder: Path) -> list[dict[str, Any]]:
    """All kept reports by seed. Raises ValueError when two were run with other settings."""
    reports = [json.loads(path.read_text()) for path in folder.glob("seed*.json")]
    settings = [{**report["settings"], "seed": 0} for report in reports]
    if any(other != settings[0] for other in settings):
        raise ValueError(
            f"{folder} holds reports of different settings; move the old ones away and run again"
        )
    return sorted(reports, key=lambda report: int(report["seed"]))


def page(reports: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, one row per seed, with a line of counts below."""
    rows = [_row(report) for report in reports]
    gains = [report["paired_difference"] for report in reports]
    better = sum(gain["mean"] > 0 for gain in gains)
    surely = sum(gain["interval"][0] > 0 for gain in gains)
    means = [100 * sum(r[role]["success"] for r in reports) / len(reports) for role in ROLES]
    last = (
        f"\n{better} of {len(reports)} improve, {surely} with an interval above 0; on average "
        f"{means[0]:.1f} % to {means[1]:.1f} %.\n"
    )
    return _HEAD + "\n".join(rows) + "\n" + last


def _row(report: dict[str, Any]) -> str:
    gain = report["paired_difference"]
    low, high = (100 * bound for bound in gain["interval"])
    cells = [str(report["seed"])]
    for role in ROLES:
        lower, upper = (100 * bound for bound in report[role]["interval"])
        cells.append(f"{100 * report[role]['success']:.1f} % [{lower:.1f}, {upper:.1f}]")
        cells.append(f"{100 * report[role]['autonomous_success']:.1f} %")
    cells.append(f"{100 * gain['mean']:+.1f} [{low:+.1f}, {high:+.1f}]")
    cells.append(", ".join(_detector(report["evaluation_detector"][role]) for role in ROLES))
    cells += [str(report["practice_episodes"]), f"{report['wall_seconds']:.0f}"]
    return "| " + " | ".join(cells) + " |"


def _detector(quality: dict[str, float]) -> str:
    return f"{quality['precision']:.2f} / {quality['recall']:.2f}"
