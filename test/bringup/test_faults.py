"""`efm faults`: its judgements on made-up records, and short rounds of the real thing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")
pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from efm_bringup import cli
from efm_bringup.faults import trace
from efm_bringup.faults.checkpoint_rounds import MUTATIONS
from efm_bringup.faults.results import Round, RoundLog, Trial, percentile, summary, write_table
from efm_bringup.faults.series import Series, trials
from efm_bringup.faults.trace import Heard, Trace
from efm_bringup.signals import StopSignal

GUARD, STATUS = "guard/state", "episode/status"


def test_the_hold_begins_after_the_last_motion():
    heard = Trace([Heard(t, GUARD, values=(s, 0)) for t, s in
                   [(1.0, 1), (1.02, 0), (1.04, 1), (1.06, 0), (1.08, 0), (3.0, 1)]])  # fmt: skip
    assert trace.guard_hold(heard, 1.0, 2.0) == 1.06
    assert trace.guard_hold(heard, 1.07, 2.0) == 1.08
    assert trace.guard_hold(heard, 1.0, 4.0) is None  # the last of it moves


def test_motion_is_seen_in_commands_and_in_the_tool():
    commands = [Heard(t, trace.COMMAND, values=(v,)) for t, v in [(1.0, 0.2), (1.1, 0.0)]]
    tool = [Heard(t, "ee_pose", values=(x, 0.0)) for t, x in
            [(0.9, 0.30), (1.0, 0.32), (1.1, 0.34), (1.2, 0.3402), (1.3, 0.34)]]  # fmt: skip
    heard = Trace(commands + tool)
    assert trace.last_motion(heard, 0.95, 2.0) == 1.0
    assert trace.last_motion(heard, 1.05, 2.0) == 1.05
    assert trace.arm_stood(heard, 0.95, 2.0) == 1.1  # 0.2 mm is no motion


def test_a_process_is_back_with_its_sign_or_a_reset():
    signs = [Heard(t, "policy/action_chunk") for t in (1.05, 4.0)]
    reset = [Heard(3.0, STATUS, phase="resetting", episode="b")]
    assert trace.back_at(Trace(signs), "policy/action_chunk", 1.0) == 4.0  # the first: in flight
    assert trace.back_at(Trace(signs + reset), "policy/action_chunk", 1.0) == 3.0
    assert trace.back_at(Trace([]), "policy/action_chunk", 1.0) == float("inf")


def test_only_new_stamps_advance_a_lockstep_world():
    pictures = [Heard(t, trace.CAMERA, stamp) for t, stamp in
                [(1.0, 10), (1.2, 10), (1.3, 20), (1.4, 20), (1.6, 30)]]  # fmt: skip
    assert trace.new_observations(Trace(pictures), 1.1, 1.5) == 1


def test_the_lost_tail_is_counted_to_the_newest_kept_message():
    heard = Trace([Heard(1.0 + 0.1 * k, GUARD, k) for k in range(10)])
    kept = [(GUARD, k) for k in range(7)]
    assert trace.lost_tail(heard, 1.0, 1.85, kept) == pytest.approx(0.2)  # 1.8 was the last heard
    assert trace.lost_tail(heard, 1.0, 1.65, kept) == pytest.approx(0.0)


def test_acknowledged_are_the_first_of_those_announced():
    said = [("a", 0), ("a", 0), ("b", 1), ("c", 1), ("c", 2)]
    heard = Trace([Heard(float(k), STATUS, phase="running", episode=e, plan="p", done=n)
                   for k, (e, n) in enumerate(said)])  # fmt: skip
    assert trace.announced(heard, "p") == ["a", "b", "c"]
    assert trace.acknowledged(heard, "p", 3.5) == ["a"]
    assert trace.acknowledged(heard, "p", 9.0) == ["a", "b"]
    assert trace.acknowledged(heard, "other", 9.0) == []


def test_rounds_are_kept_and_a_cut_line_is_dropped(tmp_path):
    log, trial = RoundLog(tmp_path / "rounds.jsonl"), Trial("guard", "real", "KILL")
    for number in range(3):
        log.add(Round(trial, number, 0, {"hold_s": 0.1 * number}, ["late"] if number == 2 else []))
    with log.path.open("a") as file:
        file.write('{"trial": {"cau')
    assert [r.number for r in log.read()] == [0, 1, 2]
    assert log.path.read_text().endswith("\n")
    found = summary(trial, log.read(), "efm faults guard")
    assert (found["rounds"], found["passed"], found["problems"]) == (3, 2, {"late": 1})
    assert found["figures"]["hold_s"] == {"n": 3, "p50": 0.1, "p99": 0.2, "worst": 0.2}
    with StopSignal() as stop, Series(Path("fleet.yaml"), tmp_path, 0, stop) as series:
        assert series.missing([trial], {"guard": 5}) == [(trial, 3), (trial, 4)]
    with log.path.open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(ValueError, match="line 4"):
        log.read()


def test_percentiles_are_nearest_ranks():
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert percentile([5.0], 0.99) == 5.0


def test_the_page_gets_the_table_of_all_files(tmp_path):
    (tmp_path / "faults").mkdir()
    for cause, passed in (("guard", 4), ("manager", 5)):
        rounds = [Round(Trial(cause), n, 0, {}, [] if n < passed else ["x"]) for n in range(5)]
        text = json.dumps(summary(Trial(cause), rounds, "efm"))
        (tmp_path / "faults" / f"{cause}.json").write_text(text)
    write_table(tmp_path)
    write_table(tmp_path)  # again: the table is replaced
    page = (tmp_path / "faults.md").read_text()
    assert page.count("| guard | 4/5 |") == page.count("| manager | 5/5 |") == 1
    (tmp_path / "faults.md").write_text("no marks")
    with pytest.raises(ValueError, match="lacks the line"):
        write_table(tmp_path)


def test_all_is_every_cause_once_per_clock():
    names = [t.name for t in trials("all", "both", "KILL")]
    assert len(set(names)) == len(names) == 4 * 2 + 1 + 2 + 2 + 3 + 3 + 3 + 2
    with pytest.raises(ValueError, match="unknown"):
        trials("meteor", "real", "KILL")


def faults(folder: Path, *arguments: str) -> list[Round]:
    assert cli.main(["faults", *arguments, "--run-dir", str(folder)]) == 0
    return RoundLog(folder / "rounds.jsonl").read()


def test_every_spoilt_checkpoint_is_refused(tmp_path):
    rounds = faults(tmp_path, "checkpoint", "--rounds", str(len(MUTATIONS)))
    assert [r.note for r in rounds] == list(MUTATIONS)


def test_a_killed_writer_loses_next_to_nothing_and_a_second_run_goes_on(tmp_path):
    first = faults(tmp_path, "writer", "--rounds", "2")
    both = faults(tmp_path, "writer", "--rounds", "3")
    assert both[:2] == first
    assert len(both) == 3
    assert all(r.figures["lost_tail_s"] <= 0.25 for r in both if "lost_tail_s" in r.figures)


def test_a_killed_manager_of_a_lockstep_fleet(tmp_path):
    """One round: nothing acknowledged is lost, the cut episode is kept and marked."""
    (done,) = faults(tmp_path, "manager", "--rounds", "1", "--clock", "lockstep")
    assert done.note == "interrupted crash"
    assert done.figures["steps_after"] == 0
    assert done.figures["acknowledged"] == 1
