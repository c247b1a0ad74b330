"""`efm faults` of camera, teleop, hang, rollback, endurance: judgements, and short rounds."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")
pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from bringup.fault_bed import bed_of

from efm_bringup.faults import (
    camera_rounds,
    endurance_rounds,
    hang_rounds,
    rollback_rounds,
    teleop_rounds,
    trace,
)
from efm_bringup.faults.blind_robot import spoil
from efm_bringup.faults.endurance_rounds import Sample, judge_growth
from efm_bringup.faults.fleet_rounds import Findings
from efm_bringup.faults.reset_watch import Said
from efm_bringup.faults.results import Trial
from efm_bringup.faults.testbed import POLICY, Shape
from efm_bringup.faults.trace import CAMERA, Heard, Trace
from efm_core.episode import EpisodeRecord, Outcome
from efm_core.guard_report import Source


def test_a_failing_camera_sends_old_contents_an_old_stamp_or_nothing():
    good, now = b"CDR1stampOLDpicture one", b"CDR1stampNEWpicture two"
    assert spoil(now, good, None) == now
    assert spoil(now, good, "replay") == b"CDR1stampNEWpicture one"
    assert spoil(now, good, "stuck") == good
    assert spoil(now, good, "silence") == b""
    assert spoil(now, b"", "replay") == now  # nothing to repeat yet


def test_a_picture_is_fresh_when_stamp_and_content_are_new():
    pictures = [(1.0, 10, 1.0), (1.1, 20, 2.0), (1.2, 30, 2.0), (1.3, 30, 3.0), (1.4, 40, 4.0)]
    heard = Trace([Heard(at, CAMERA, stamp, (sum_,)) for at, stamp, sum_ in pictures])
    assert trace.last_fresh(heard, 1.35) == 1.1
    assert trace.last_fresh(heard, 2.0) == 1.4
    assert trace.last_fresh(Trace(), 2.0) is None


class Bed:
    """What the judgements need of a test bed."""

    def __init__(self, heard: list[Heard]) -> None:
        self.observer = self
        self.trace = Trace(heard)


def states(*pairs: tuple[float, Source]) -> list[Heard]:
    return [Heard(at, "guard/state", values=(source, 0)) for at, source in pairs]


@pytest.mark.parametrize(("held", "passes"), [(10.24, True), (10.3, False)])
def test_the_hold_over_a_camera_counts_from_the_last_fresh_picture(held, passes):
    heard = [Heard(10.0, CAMERA, 1, (1.0,)), Heard(10.1, CAMERA, 2, (1.0,))]
    heard += states((10.1, Source.POLICY), (held - 0.02, Source.POLICY), (held, Source.HOLD))
    found = Findings()
    camera_rounds._judge_hold(found, Bed(heard), "silence", 10.02, 12.0)
    assert found.figures["hold_s"] == pytest.approx(held - 10.0)
    assert bool(found.problems) is not passes


def record(**values) -> EpisodeRecord:
    return EpisodeRecord.model_construct(episode_id="a", robot="robot1", **values)


@pytest.mark.parametrize(
    ("outcome", "reason", "left", "back", "passes"),
    [
        (Outcome.FAULT, "fault:frozen_camera", 1.6, 2.0, True),
        (Outcome.FAILURE, "timeout", 15.0, 3.0, True),
        (Outcome.INTERRUPTED, "fault:robot", 15.0, 3.0, False),
        (Outcome.FAILURE, "timeout", 15.0, 13.5, False),  # it should have been given up
        (Outcome.INTERRUPTED, "fault:stale_camera", 11.3, 11.4, True),
        (Outcome.INTERRUPTED, "fault:stale_camera", 4.0, 4.1, False),  # without patience
    ],
)
def test_an_episode_ends_as_the_camera_s_failure_asks_for(outcome, reason, left, back, passes):
    found, ended = Findings(), record(outcome=outcome, termination_reason=reason)
    bed = Bed(states((1.0, Source.HOLD), (back + 0.1, Source.POLICY)))
    camera_rounds._judge_end(found, bed, ended, (1.0, back, left))
    assert (not found.problems) is passes


@pytest.mark.parametrize(("held", "passes"), [(5.29, True), (5.4, False)])
def test_the_hold_over_a_lost_operator_counts_from_the_last_command(held, passes):
    heard = [Heard(5.0, "teleop/twist")]
    heard += states((4.9, Source.TELEOP), (held - 0.02, Source.TELEOP), (held, Source.HOLD))
    found = Findings()
    teleop_rounds._judge_hold(found, Bed(heard), 5.01, 8.0)
    assert found.figures["hold_s"] == pytest.approx(held - 5.0)
    assert bool(found.problems) is not passes
    back = Bed([*heard, *states((6.0, Source.POLICY))])  # it must stand to the episode's end
    teleop_rounds._judge_hold(found, back, 5.01, 6.01)
    assert "the arm was never held" in found.problems


def test_an_episode_cut_by_a_hung_process_is_marked():
    for outcome, count in ((Outcome.INTERRUPTED, 0), (Outcome.FAULT, 0), (Outcome.FAILURE, 1)):
        found = Findings()
        hang_rounds._judge_mark(found, "guard", record(outcome=outcome, termination_reason="x"))
        assert len(found.problems) == count


def test_a_neighbour_s_gaps_count_within_its_episodes():
    def chunk(at: float) -> Heard:
        return Heard(at, "policy/action_chunk")

    def status(at: float, phase: str) -> Heard:
        return Heard(at, "episode/status", phase=phase)

    heard = [chunk(0.0), status(0.5, "running"), chunk(0.6), chunk(0.7), status(0.75, "running"),
             chunk(1.0), status(1.1, "saving"), status(2.0, "running"), chunk(2.4), chunk(2.5)]
    assert hang_rounds.longest_gap(Trace(heard), 0.0, 3.0) == pytest.approx(0.3)
    assert hang_rounds.longest_gap(Trace(heard), 2.45, 3.0) == 0.0


def test_the_others_pace_is_compared_over_all_times_with_and_without_a_fault():
    """Two calm times with an episode in 1 s, two faulty ones with one in 1.05 and in 1.25 s."""
    course = hang_rounds.Course([(0.0, 10.0), (20.0, 30.0)], [(10.0, 20.0), (30.0, 40.0)])
    for slow, passes in ((1.05, True), (1.25, False)):
        at, heard = 0.5, []
        while at < 40.0:
            heard.append(Said(at, "robot2", "running", len(heard)))
            at += slow if 10.0 <= at < 20.0 or at >= 30.0 else 1.0
        found = Findings()
        hang_rounds._judge_pace(found, heard, ["robot2"], course)
        assert found.figures["others_slower"] == pytest.approx(slow, rel=0.02)
        assert (not found.problems) is passes


def swapped(robot: str, versions: str, period: float = 2.0) -> list[EpisodeRecord]:
    return [
        EpisodeRecord.model_construct(
            episode_id=f"{robot}-{i}", robot=robot, policy_version=version,
            start_ns=round(i * period * 1e9),
        )
        for i, version in enumerate(versions)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("versions", "problems"),
    [("bbaaaaaaa", 0), ("bbbbbbbba", 1), ("bbabaaaaa", 1), ("bbbbbbbbb", 1), ("aaaaaaaaa", 1)],
)
def test_a_fleet_is_rolled_back_within_an_episode_and_ten_seconds(versions, problems):
    records = {r.episode_id: r for name in ("robot1", "robot2")
               for r in swapped(name, versions if name == "robot2" else "bbaaaaaaa")}  # fmt: skip
    found = Findings()
    rollback_rounds._judge_swap(found, records, ("robot1", "robot2"), ("b", "a"), int(3e9))
    assert len(found.problems) == problems
    if not problems:
        assert found.figures["swap_s"] == pytest.approx(1.0)  # asked at 3 s, begun at 4 s
        assert found.figures["swap_over_s"] == 0.0


def grown(per_100: float, handles: int = 0) -> list[Sample]:
    """A process that grows by so many MB, and once by so many handles, after a start of 50 MB."""
    return [
        Sample(n, (50.0 * min(n / 90, 1.0)) + per_100 * n / 100, 20 + (handles if n > 700 else 0))
        for n in range(0, 1000, 10)
    ]


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        (grown(0.9), None),
        (grown(1.1), "grew 1.10 MB"),
        (grown(0.0, handles=3), "holds 3 file handles more"),
        (grown(0.0)[:30], "seen only 20 times"),
    ],
)
def test_what_grows_is_named(samples, problem):
    found = Findings()
    judge_growth(found, {"guard": grown(0.1), "manager": samples})
    if problem is None:
        assert found.problems == []
        assert found.figures["memory_mb"] == pytest.approx(0.9)
        assert found.note == "manager"
    else:
        assert len(found.problems) == 1
        assert problem in found.problems[0]


def test_a_process_is_looked_at():
    (sample,) = endurance_rounds._look({"me": os.getpid(), "gone": 2**22 + 1}, 7).values()
    assert sample.episodes == 7
    assert sample.memory_mb > 5.0
    assert sample.handles > 2


def test_two_robots_are_rolled_back_between_episodes(tmp_path, monkeypatch):
    """In lockstep, where no figure hangs on the machine's load."""
    monkeypatch.setattr(rollback_rounds, "WAIT_SECONDS", (0.0, 0.1))
    with bed_of(tmp_path, "lockstep", Shape(robots=2), monkeypatch) as bed:
        done = rollback_rounds.rollback_round(bed, Trial("rollback", "lockstep"), 0, 0)
    assert done.problems == []
    assert (bed.fleet.models_dir / "champion").read_text().strip() == POLICY


def test_a_replayed_picture_ends_the_episode_and_spares_the_next(tmp_path, monkeypatch):
    """In real time; how soon is measured by the command, not here."""
    monkeypatch.setitem(camera_rounds.CAMERA_SECONDS, "replay", 3.0)
    monkeypatch.setattr(camera_rounds, "REPLAY_SECONDS", (5.0, 5.0))
    with bed_of(tmp_path, "real", camera_rounds.SHAPE, monkeypatch) as bed:
        done = camera_rounds.camera_round(bed, Trial("camera", "real", "REPLAY"), 0, 0)
    assert done.problems == []
    assert done.note == "fault fault:frozen_camera"
