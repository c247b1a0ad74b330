"""Benchmarks: their statistics, their files and page, and a small run of each."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_bringup.bench.machine import this_machine
from efm_bringup.bench.page import number, page
from efm_bringup.bench.path_ticks import State, pair_commands
from efm_bringup.bench.result import (
    BenchResult,
    Figure,
    Finding,
    read_results,
    timed,
    write_atomically,
    write_result,
)
from efm_bringup.bench.timing import FEWEST_FOR_P99, alternate, spread
from efm_bringup.bench.withheld import Withheld
from efm_bringup.cli import main


def result(what: str = "guard", **changes) -> BenchResult:
    fields = {
        "what": what, "command": f"efm bench {what} --write", "measured": f"What {what} is.",
        "settings": {"seed": 3}, "machine": this_machine(),
        "figures": (Figure(name="rate", unit="1/s", value=30.0, count=7, baseline="bare",
                           baseline_value=60.0),),
    }  # fmt: skip
    return BenchResult(**{**fields, **changes})


def assert_finite(finding: Finding) -> None:
    for figure in finding.figures:
        for value in (figure.value, figure.p99, figure.maximum, figure.baseline_value):
            assert value is None or (math.isfinite(value) and value >= 0.0), figure
    assert finding.measured
    assert len({figure.name for figure in finding.figures}) == len(finding.figures)


# ---- statistics ------------------------------------------------------------------------------


def test_spread_of_one_to_two_hundred():
    found = spread(range(1, 201))
    assert found.median == 100.5  # between the 100th and the 101st
    # 199 gaps between 200 values: 99 % of the way is gap 197.01, and value i lies at gap i - 1
    assert found.p99 == pytest.approx(1 + 0.99 * 199)
    assert (found.maximum, found.count) == (200.0, 200)


def test_few_samples_have_no_99th_percentile():
    assert spread(np.ones(FEWEST_FOR_P99 - 1)).p99 is None
    assert spread(np.ones(FEWEST_FOR_P99)).p99 == 1.0


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_nothing_or_nonsense_is_no_measurement(samples):
    with pytest.raises(ValueError, match=r"measured|finite"):
        spread(samples)


@given(st.lists(st.floats(0.0, 1e9), min_size=1, max_size=300))
def test_the_spread_lies_within_its_samples(samples):
    found = spread(samples)
    assert min(samples) <= found.median <= found.maximum == max(samples)
    if found.p99 is not None:
        assert found.median <= found.p99 * (1 + 1e-12)


def test_works_take_turns_and_every_call_is_timed():
    now, order = 0.0, []

    def working(name: str, seconds: float):
        def work() -> None:
            nonlocal now
            now += seconds
            order.append(name)

        return work

    shown = []
    taken = alternate(
        {"a": working("a", 1.0), "b": working("b", 2.0)}, 3, calls=2,
        shown=lambda done, total: shown.append((done, total)), clock=lambda: now,
    )  # fmt: skip
    assert taken["a"].tolist() == [1.0] * 6
    assert taken["b"].tolist() == [2.0] * 6
    assert "".join(order) == "ab" + "aabb" + "bbaa" + "aabb"  # once to warm up, then turning
    assert shown == [(1, 3), (2, 3), (3, 3)]


def test_durations_and_ratios():
    figure = timed("x", "ms", spread([0.002, 0.004]), 1e3, "bare", spread([0.001]))
    assert figure.value == pytest.approx(3.0)  # the median of 2 and 4 ms
    assert figure.maximum == pytest.approx(4.0)
    assert figure.ratio == pytest.approx(3.0)
    assert result().figure("rate").ratio == 0.5


# ---- pictures and their commands -------------------------------------------------------------


def test_a_command_belongs_to_the_state_that_was_sent_with_it():
    # Timer at 9 and 39, an answer to the picture of 20 between them, sent at 31.
    states = [State(9, False), State(20, True), State(39, True)]
    assert pair_commands(states, [10, 31, 40], frozenset({20})) == {20: 1}


def test_several_answers_in_a_row_each_get_their_own():
    states = [State(9, False), State(20, True), State(21, True), State(50, False)]
    assert pair_commands(states, [10, 30, 35, 51], frozenset({20, 21})) == {20: 1, 21: 2}


def test_a_lost_command_pairs_nothing_wrong():
    # The command sent at 31 got lost: the next one is the timer's.
    states = [State(9, False), State(20, True), State(39, False)]
    assert pair_commands(states, [10, 40], frozenset({20})) == {}


def test_a_hold_is_no_answer():
    states = [State(9, False), State(20, False), State(39, False)]
    assert pair_commands(states, [10, 31, 40], frozenset({20})) == {}


def test_before_the_first_timer_step_nothing_is_known():
    assert pair_commands([State(20, True)], [31], frozenset({20})) == {}


# ---- files and page --------------------------------------------------------------------------


def test_results_come_back_as_written(tmp_path):
    kept = [result("bags"), result("guard")]
    for one in reversed(kept):
        write_result(tmp_path, one)
    assert read_results(tmp_path) == kept


def test_an_interrupt_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_atomically(path, "old")

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_result_is_named(tmp_path):
    path = write_result(tmp_path, result("bags"))
    content = json.loads(path.read_text())
    content["figures"][0]["value"] = "many"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"bags\.json, field 'figures\.0\.value'.*efm bench bags"):
        read_results(tmp_path)


def test_the_page_shows_every_figure_and_its_command():
    text = page([result("trainer"), result("simulator")])
    assert text.index("## Simulated world") < text.index("## Trainer")
    for what in ("trainer", "simulator"):
        assert f"```\nefm bench {what} --write\n```" in text
    assert "| rate | 1/s | 30 | 7 | bare | 60 | 0.5 |" in text
    with pytest.raises(ValueError, match="efm bench WHAT --write"):
        page([])


def test_numbers_have_three_digits():
    assert [number(v) for v in (None, 0.0, 0.012345, 12.345, 1234567.8)] == [
        "", "0", "0.0123", "12.3", "1,234,568"
    ]  # fmt: skip


def test_measuring_keeping_and_the_page_as_commands(tmp_path, capsys):
    out = tmp_path / "performance"
    arguments = ["--rounds", "2", "--actions", "300", "--seed", "4"]
    assert main(["bench", "guard", *arguments, "--write", "--out", str(out)]) == 0
    assert main(["bench", "page", "--out", str(out)]) == 0
    command = "efm bench guard --rounds 2 --actions 300 --seed 4 --write"
    assert read_results(out)[0].command == command
    assert command in (tmp_path / "performance.md").read_text()
    assert capsys.readouterr().err.strip()  # progress


# ---- a small run of each ---------------------------------------------------------------------


def test_bags():
    from efm_bringup.bench.bags import measure_bags

    found = measure_bags(rounds=2, ticks=4)
    assert_finite(found)
    assert found.settings["messages"] > 4 * 10  # more than ten topics per tick


def test_guard_finds_no_violation():
    from efm_bringup.bench.guard import KINDS, measure_guard

    found = measure_guard(rounds=2, actions=600)
    assert_finite(found)
    figures = {figure.name: figure for figure in found.figures}
    assert all(figures[f"fuzz: {kind}"].value == 0 for kind in KINDS)
    assert figures["fuzz: violations in all"].count == 600


def test_inference():
    from efm_bringup.bench.inference import measure_inference

    found = measure_inference((1, 2), rounds=2)
    assert_finite(found)
    assert len(found.figures) == 4


def test_reward():
    from efm_bringup.bench.reward import measure_reward

    assert_finite(measure_reward(rounds=6, episode=4))


def test_trainer():
    from efm_bringup.bench.trainer import measure_trainer

    # The fifth demonstration is the first that validates; two practised ones fill a minibatch.
    assert_finite(measure_trainer(rounds=1, demos=5, practised=2))


def test_data():
    from efm_bringup.bench.data import measure_data

    found = measure_data(rounds=1, episodes=10, sizes=((64, 64),))
    assert_finite(found)
    names = [figure.name for figure in found.figures]
    assert "64x64 JPEG: random" in names
    assert "64x64 raw: waiting" in names
    assert found.settings["LeRobot"]  # said, installed or not


def test_another_environment_without_lerobot_is_refused(tmp_path):
    from efm_bringup.bench.lerobot_reader import find_lerobot

    with pytest.raises(ValueError, match="name a Python interpreter"):
        find_lerobot(str(tmp_path / "python"))
    if importlib.util.find_spec("lerobot") is None:
        assert find_lerobot() == ""
        with pytest.raises(ValueError, match="pip install lerobot"):
            find_lerobot(sys.executable)


def test_lerobot_that_fails_says_why(tmp_path):
    from efm_bringup.bench.lerobot_reader import LeRobotReader

    if importlib.util.find_spec("lerobot") is None:
        pictures = [np.zeros((2, 16, 16, 3), np.uint8)]
        with pytest.raises(RuntimeError, match="No module named 'lerobot'"):
            LeRobotReader(sys.executable, tmp_path / "video", pictures, [0])


def test_simulator(monkeypatch):
    import efm_sim.bench
    from efm_bringup.bench.simulator import measure_simulator

    def few() -> dict[str, float]:
        found = {"demonstration_success": 1.0}
        for name in ("steps_64px", "steps_without_image"):
            rate = efm_sim.bench.steps_rate(steps=3, images=name == "steps_64px")
            found |= {name: rate.wall, f"{name}_cpu": rate.cpu}
        return found

    monkeypatch.setattr(efm_sim.bench, "measure_all", few)
    found = measure_simulator()
    assert_finite(found)
    assert [f.baseline for f in found.figures if f.name == "steps 64px"] == ["steps without image"]


def test_what_the_host_withheld_is_kept_apart_from_the_time_before_and_after():
    second, taken = 1_000_000_000, iter([5.0, 5.0, 5.03, 5.03, 5.04])
    withheld = Withheld(100 * second, lambda: next(taken))
    for tenth in (1, 2, 3, 4):  # withheld between 0.1 and 0.2 s, 0.3 and 0.4 s
        withheld.look(tenth * second // 10 + 100 * second)
    assert withheld.seconds == pytest.approx(0.04)
    moments = ((99.0, 100.09), (100.15, 100.16), (101.3, 101.4), (101.41, 101.5), (98.0, 105.0))
    judged = [withheld.undisturbed(*(round(t * second) for t in span)) for span in moments]
    assert judged == [True, False, False, True, False]


def test_command_path():
    from efm_bringup.bench.command_path import measure_command_path

    found = measure_command_path((1,), seconds=20.0)  # two episodes: one may be disturbed
    assert_finite(found)
    figures = {figure.name.removeprefix("1 robot: "): figure for figure in found.figures}
    assert figures["path"].count >= 50  # of 200 at 10 Hz; either episode alone is enough
    assert 0.0 < figures["path"].value < figures["from the stamp"].value
    assert figures["to the guard's sending"].value <= figures["from the stamp"].value
