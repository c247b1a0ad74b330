"""`efm faults training`: a killed training goes on to the same weights (P9)."""

from __future__ import annotations

import json
import random
import shutil

import pytest

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")
pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from efm_bringup.faults import trainee, training_rounds
from efm_bringup.faults.fleet_rounds import Findings
from efm_bringup.faults.results import Trial
from efm_bringup.faults.training_rounds import Course, _moment, _struck, training_round
from efm_bringup.installed import share
from efm_bringup.practice_here import PracticeHere
from efm_bringup.rollouts import drop_plan
from efm_bringup.signals import StopSignal
from efm_core.checkpoint import MANIFEST, Manifest
from efm_core.episode import Mode
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_trainer.episode_run import planned_episode_id
from efm_trainer.lasting import LastingScenes


def test_kills_fall_between_steps_and_often_on_updates():
    whole = [("round 1, episode 1", 0.0), ("round 1, update", 2.0), ("round 2, episode 1", 6.0),
             ("end", 7.0)]  # fmt: skip
    rng = random.Random(0)
    drawn = [_moment(rng, whole) for _ in range(300)]
    assert {after for after, _ in drawn} == {1, 2, 3}  # never after the end
    lengths = {1: 2.0, 2: 4.0, 3: 1.0}
    assert all(0.0 <= late <= lengths[after] for after, late in drawn)
    updates = sum(after == 2 for after, _ in drawn) / len(drawn)
    assert updates == pytest.approx(1 / 2 + 1 / 6, abs=0.1)


@pytest.mark.parametrize(("status", "kills"), [(-9, 1), (0, 0)])
def test_a_round_without_a_kill_does_not_pass(tmp_path, status, kills):
    found = Findings()
    _struck(found, trainee.Task(tmp_path, "round-0", "sft", 0), Course([], status))
    assert found.figures["kills"] == kills
    assert bool(found.problems) == (not kills)


def plan_of(seed: int = 0, **changes) -> EpisodePlan:
    episodes = {"robot1": tuple(PlannedEpisode(index=i) for i in range(3))}
    fields = {"plan_id": "p-r001", "mode": Mode.PRACTICE, "seed": seed, "episodes": episodes}
    return EpisodePlan(**{**fields, **changes})


def test_what_a_killed_round_left_is_dropped_and_nothing_else(tmp_path):
    """Also folders without a record: killed while one was opened, or while it was deleted."""
    plan = plan_of()
    mine = [planned_episode_id(plan, "robot1", i) for i in range(3)]
    for name, record in ((mine[0], '{"plan": "p-r001"}'), (mine[1] + ".partial", None),
                         (mine[2], None), ("older", '{"plan": "p-r000"}'), ("foreign", None)):
        (tmp_path / name).mkdir()
        if record is not None:
            (tmp_path / name / "episode.json").write_text(record)
    drop_plan(tmp_path, plan)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["foreign", "older"]


def test_lasting_scenes_go_on_from_what_the_round_before_left(tmp_path):
    def here() -> PracticeHere:
        return PracticeHere(None, ("front",), tmp_path)  # type: ignore[arg-type]

    left = {"robot1": {"state": {"x": 0.1 + 0.2}, "misses": 3}}
    here()._keep(plan_of(plan_id="p-r000"), LastingScenes(left))
    here()._keep(plan_of(plan_id="p-r001"), LastingScenes())  # killed before its version was there
    again = plan_of(round=1, policy_version="p-r000")
    assert here()._taken_up(again).saved() == left
    assert here()._taken_up(plan_of(round=0, policy_version="p-r000")).saved() == {}


@pytest.fixture
def versions(tmp_path, monkeypatch):
    """Manifests of a run that was not killed, and of one that was."""
    def write(run: str, name: str, **hashes: str) -> None:
        folder = tmp_path / run / "models" / name
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text(Manifest(role="policy", files=hashes).model_dump_json())

    def read(path):
        return Manifest.model_validate_json((path / MANIFEST).read_text())

    monkeypatch.setattr(training_rounds, "verify_checkpoint", read)
    return write


def test_another_hash_or_a_round_untold_is_a_problem(versions, tmp_path):
    weights, moments = training_rounds._WEIGHTS
    for run, hash_ in (("whole", "a"), ("round-0", "b")):
        versions(run, "practice-r002", **{weights: hash_ * 64, moments: "c" * 64})
    found = training_rounds.Findings()
    task = trainee.Task(tmp_path, "round-0", "practice", 0)
    (tmp_path / "round-0" / "practice").mkdir(parents=True)
    result = {"rounds": [{"round": 0}, {"round": 2}]}
    (tmp_path / "round-0" / "practice" / "result.json").write_text(json.dumps(result))
    killed = Course([("round 1, episode 1", 0.0), ("round 1, episode 2", 1.0)], -9)
    again = Course([("round 1, episode 2", 5.0), ("round 1, update", 6.0), ("end", 7.0)], 0)
    training_rounds._judge(found, task, killed, again)
    assert found.problems == [
        "practice: result.json tells of [0, 2]", f"practice-r002: another hash of {weights}",
    ]  # fmt: skip
    assert found.figures["practice_repeated_steps"] == 1
    assert found.figures["practice_resumed_s"] == 2.0


def test_a_round_of_kills(tmp_path):
    """Fine-tuning and practice without resets, each killed once: the same weights."""
    with StopSignal() as stop:
        done = training_round(
            share("config/fleet.yaml"), tmp_path, Trial("training"), 1, 0, stop
        )
    assert done.problems == []
    assert done.figures["kills"] == 2
    assert "reset-free after" in done.note
    shutil.rmtree(tmp_path)
