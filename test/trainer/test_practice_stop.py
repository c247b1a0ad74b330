"""Practice that ends itself: the same decision from bags, records and versions, told everywhere."""

from __future__ import annotations

import dataclasses
import json

import pytest
from trainer.test_versions_and_runs import collector, start
from trainer.toy import SIDE, SPACE

from efm_core.bags import list_episodes, read_record
from efm_core.episode import Labels
from efm_core.registry import Registry
from efm_model.config import CameraSpec
from efm_trainer.improve import ImproveSettings
from efm_trainer.jobs import ImproveJob, Workplace, improve_job
from efm_trainer.progress import TrainingCancelledError
from efm_trainer.stopping import StopSettings, best_round, judge, tally_of

JOB = ImproveJob(
    policy="p0", reward="r0", name="toy", robots=("toy",), rounds=8, episodes_per_round=5, limit=8,
    entropy_floor=0.0, drop=1.0, improve=ImproveSettings(minibatch=16), stop="auto",
    stopping=StopSettings(window=10),
)  # fmt: skip


@pytest.fixture
def place(tmp_path):
    registry = Registry(tmp_path / "models")
    start(registry)
    camera = CameraSpec(width=SIDE, height=SIDE)
    return Workplace(registry, tmp_path / "data", tmp_path / "run", SPACE, (camera,))


def improve(place, job=JOB, cancelled=lambda: False):
    collect = collector(place.registry, place.data_dir)
    return improve_job(place, job, job.robots, collect, lambda *_: None, cancelled)


def tallies_of_bags(place):
    """A round's tally out of the records on disk, without the versions."""
    rounds = {}
    for path in list_episodes(place.data_dir / JOB.data_set):
        record = read_record(path)
        rounds.setdefault(record.round, []).append(record)
    return [tally_of(rounds[number]) for number in sorted(rounds)]


def test_it_ends_where_the_records_say_and_keeps_the_best(place):
    found = improve(place)
    tallies = tallies_of_bags(place)
    ends = [judge(tallies[: k + 1], JOB.limit, JOB.stopping).ends for k in range(len(tallies))]
    assert found["rounds_done"] == len(tallies)
    assert not any(ends[:-1])
    assert ends[-1] or len(tallies) == JOB.rounds
    assert found["stop"]["rule"] == "auto"
    assert ("plateau" if ends[-1] else "all 8 rounds") in found["stop"]["reason"]
    best = best_round(tallies, JOB.limit, JOB.stopping)
    assert found["policy"] == (f"toy-r{best - 1:03d}" if best else "p0")
    assert place.registry.alias("best") == found["policy"]
    lines = (place.run_dir / "toy" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["ended"] == found["stop"]["reason"]
    assert "ended" not in json.loads(lines[0])
    assert json.loads(lines[-1])["stop/ends"] == float(ends[-1])


def test_a_run_that_has_ended_stays_ended(place):
    found = improve(place)
    versions = place.registry.versions()
    again = improve(place)
    assert {**again, "rounds": []} == {**found, "rounds": []}
    assert place.registry.versions() == versions


def test_a_cut_run_ends_where_it_would_have(place):
    """Whatever was drawn before the cut: the tallies of all rounds decide."""
    rounds = {"left": 1}

    def cancelled():
        rounds["left"] -= 1
        return rounds["left"] < 0

    with pytest.raises(TrainingCancelledError):
        improve(place, cancelled=cancelled)
    found = improve(place)
    tallies = tallies_of_bags(place)
    ends = [judge(tallies[: k + 1], JOB.limit, JOB.stopping).ends for k in range(len(tallies))]
    assert (True in ends[:-1], len(tallies)) == (False, found["rounds_done"])


def test_by_rounds_alone_nothing_of_it_is_done(place):
    job = JOB.model_copy(update={"stop": "rounds", "rounds": 3})
    found = improve(place, job)
    assert found["stop"] == {"rule": "rounds", "reason": "all 3 rounds are done"}
    assert found["policy"] == "toy-r002"
    assert place.registry.alias("best") is None


def doubted(place, job):
    """Practice whose every episode is a detected success that an operator calls none."""
    collect = collector(place.registry, place.data_dir)
    said = {"termination_reason": "detector", "labels": Labels(operator=False)}

    def labelled(plan):
        return [
            dataclasses.replace(e, record=e.record.model_copy(update=said)) for e in collect(plan)
        ]

    return improve_job(place, job, job.robots, labelled, lambda *_: None, lambda: False)


def test_where_operators_disagree_no_new_version_is_put_forward(place, caplog):
    # Expected of a detector that was never calibrated: 90 %. Five wrong ones of five are enough.
    found = doubted(place, JOB)
    assert found["rounds_done"] == 1
    assert found["warning"]["round"] == 0
    assert found["stop"]["reason"] == found["warning"]["text"]
    assert "called 0% of 5 detected successes right, calibrated were 90%" in caplog.text
    assert found["policy"] == "p0"
    assert place.registry.alias("best") == "p0"
    assert place.registry.alias("candidate") is None
    again = doubted(place, JOB)
    assert {**again, "rounds": []} == {**found, "rounds": []}


def test_by_rounds_alone_it_is_told_and_practice_goes_on(place, caplog):
    found = doubted(place, JOB.model_copy(update={"stop": "rounds", "rounds": 2}))
    assert found["rounds_done"] == 2
    assert caplog.text.count("early warning") == 1
    assert found["warning"]["text"]
    assert place.registry.alias("candidate") == "toy-r001"
