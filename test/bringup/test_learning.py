from __future__ import annotations

import json

import numpy as np
import pytest

from efm_bringup.learning import benchmark
from efm_bringup.learning.protocol import PRESETS, SEEDS, Protocol
from efm_bringup.learning.run import frozen_hash
from efm_bringup.learning.summary import nested_difference, page, read_runs
from efm_core.reset_free import NO_SCENE

TINY = Protocol(
    arms=("default", "cloning"), sizes=(5,), seeds=1, budgets=(4, 8), cloning_budgets=(3,),
    starts=3, per_round=4, limit=20, calibration=2, sft_steps=20,
)  # fmt: skip


def test_parts_are_disjoint_and_the_hash_knows_every_field():
    drawn = [seed for seeds in SEEDS.values() for seed in seeds]
    assert len(set(drawn)) == len(drawn) == 24
    assert len({preset.hash() for preset in PRESETS.values()}) == 4
    assert TINY.hash() != TINY.model_copy(update={"limit": 21}).hash()
    assert TINY.hash() != TINY.hash("other settings")
    for preset in PRESETS.values():
        assert all(budget % preset.per_round == 0 for budget in preset.budgets)


def test_nested_difference_is_wider_than_one_over_starts_alone():
    rng = np.random.default_rng(0)
    before = rng.random((4, 100)) < 0.5
    gains = np.array([0.4, 0.3, 0.0, 0.1])  # seeds differ
    after = before | (rng.random((4, 100)) < gains[:, None])
    mean, (low, high) = nested_difference(before, after)
    assert mean == pytest.approx(after.mean() - before.mean())
    assert low < mean < high
    alone = np.array([(after[s].mean() - before[s].mean()) for s in range(4)])
    assert high - low > alone.std()
    with pytest.raises(ValueError, match="equal"):
        nested_difference(before, after[:2])


def test_a_cut_benchmark_goes_on_to_the_same_figures(tmp_path, monkeypatch):
    monkeypatch.setitem(benchmark.PRESETS, "fast", TINY)
    heard: list[str] = []
    assert benchmark.run_benchmark("fast", "dev", tmp_path / "whole", 60.0, heard.append)
    cuts = 0
    while not benchmark.run_benchmark("fast", "dev", tmp_path / "cut", 0.0, heard.append):
        cuts += 1
    assert cuts == 3 + 2  # default: start, 4, 8; cloning: start, 3
    for name in ("default-5-1000.json", "cloning-5-1000.json"):
        whole, cut = (
            json.loads((tmp_path / kind / "fast-dev" / name).read_text())
            for kind in ("whole", "cut")
        )
        assert {**whole, "seconds": 0} == {**cut, "seconds": 0}
        assert whole["protocol"] == frozen_hash(TINY)
    assert len(whole["sft"]["success"]) == 3
    assert "practice" in " ".join(heard)
    text = (tmp_path / "whole" / "fast-dev.md").read_text()
    assert "## 5 demonstrations, default" in text
    assert not list((tmp_path / "whole" / "fast-dev" / ".state").glob("*.safetensors"))


def test_another_protocol_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(benchmark.PRESETS, "fast", TINY)
    benchmark.run_benchmark("fast", "dev", tmp_path, 0.0, lambda _: None)
    other = TINY.model_copy(update={"limit": 21})
    monkeypatch.setitem(benchmark.PRESETS, "fast", other)
    with pytest.raises(ValueError, match="under protocol"):
        benchmark.run_benchmark("fast", "dev", tmp_path, 0.0, lambda _: None)


def test_only_what_was_frozen_runs_on_test_seeds(tmp_path):
    for preset, written in benchmark.FROZEN.items():
        assert written == frozen_hash(PRESETS[preset])
    with pytest.raises(ValueError, match="nothing was frozen"):
        benchmark.run_benchmark("fast", "test", tmp_path, 0.0, lambda _: None)


def test_an_arm_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fast has no cloning; its arms are default, reinforce"):
        benchmark.run_benchmark("fast", "dev", tmp_path, 0.0, lambda _: None, arms=["cloning"])


def test_a_page_needs_runs(tmp_path):
    with pytest.raises(ValueError, match="no run"):
        page(read_runs(tmp_path), {})


def test_practice_without_resets_goes_on_across_cuts_and_says_what_it_cost(tmp_path, monkeypatch):
    tiny = TINY.model_copy(update={"arms": ("reset_free",), "per_round": 16, "budgets": (16, 32)})
    monkeypatch.setitem(benchmark.PRESETS, "fast", tiny)
    benchmark.run_benchmark("fast", "dev", tmp_path / "whole", 60.0, lambda _: None)
    while not benchmark.run_benchmark("fast", "dev", tmp_path / "cut", 0.0, lambda _: None):
        pass
    whole, cut = (
        json.loads((tmp_path / kind / "fast-dev" / "reset_free-5-1000.json").read_text())
        for kind in ("whole", "cut")
    )
    assert {**whole, "seconds": 0} == {**cut, "seconds": 0}
    first, second = whole["budgets"].values()
    assert (first["practised"], second["practised"]) == (16, 16)
    assert first["resets"][NO_SCENE] == 8  # one for each robot
    assert NO_SCENE not in second["resets"]
    resets = sum(sum(m["resets"].values()) for m in (first, second))
    text = (tmp_path / "whole" / "fast-dev.md").read_text()
    assert f"Interventions: {100 * resets / 32:.1f} for each 100 of 32 practice episodes" in text


def test_what_concerns_resets_counts_where_a_protocol_practises_without():
    free = PRESETS["reset-free"]
    assert frozen_hash(free) != frozen_hash(free.model_copy(update={"arms": ("default",)}))
