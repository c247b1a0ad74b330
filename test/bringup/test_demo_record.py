from __future__ import annotations

import json
from pathlib import Path

import pytest

from efm_bringup.commands.demos import _seeds
from efm_bringup.demo_record import keep, page, read_record


def report(seed: int, before: float, after: float, low: float, limit: int = 60) -> dict:
    rates = {"autonomous_success": 0.25, "episodes": 200, "interval": [0.3, 0.7]}
    detector = {"precision": 0.9, "recall": 0.75}
    return {
        "sft": {"success": before, **rates}, "self_improved": {"success": after, **rates},
        "paired_difference": {"mean": after - before, "interval": [low, 0.4]},
        "evaluation_detector": {"sft": detector, "self_improved": detector},
        "practice_episodes": 576,
        "seed": seed, "wall_seconds": 512.4, "settings": {"seed": seed, "limit": limit},
        "data_dir": "/somewhere",
    }  # fmt: skip


def run_of(folder: Path, made: dict) -> Path:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(made))
    return folder


def test_the_record_keeps_figures_and_counts_who_improves(tmp_path):
    record = tmp_path / "record"
    for seed, after, low in ((2, 0.8, 0.1), (0, 0.65, -0.02), (1, 0.55, -0.1)):
        keep(run_of(tmp_path / f"seed{seed}", report(seed, 0.6, after, low)), record)
    kept = read_record(record)
    assert [r["seed"] for r in kept] == [0, 1, 2]
    assert "data_dir" not in kept[0]  # paths of a machine stay there
    text = page(kept)
    row = "| 2 | 60.0 % [30.0, 70.0] | 25.0 % | 80.0 % [30.0, 70.0] | 25.0 % | "
    assert row + "+20.0 [+10.0, +40.0] | 0.90 / 0.75, 0.90 / 0.75 | 576 | 512 |" in text
    # seeds 0 and 2 improve, only seed 2's interval lies above 0; means 60 and (80 + 65 + 55) / 3
    assert "2 of 3 improve, 1 with an interval above 0; on average 60.0 % to 66.7 %" in text


def test_other_settings_do_not_mix(tmp_path):
    record = tmp_path / "record"
    keep(run_of(tmp_path / "a", report(0, 0.6, 0.7, 0.1)), record)
    keep(run_of(tmp_path / "b", report(1, 0.6, 0.7, 0.1, limit=40)), record)
    with pytest.raises(ValueError, match="different settings"):
        read_record(record)


def test_seeds_are_numbers_and_ranges():
    assert _seeds("0-2,7") == [0, 1, 2, 7]
    with pytest.raises(ValueError, match="ranges like"):
        _seeds("a")
