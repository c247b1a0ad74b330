"""What of a plan is done is what lies on disk; one manager per robot; a stop outlives it."""

from __future__ import annotations

import json
import os
import time

import pytest

from efm_core import messages
from efm_core.bags import EpisodeWriter, read_record
from efm_core.episode import EpisodeRecord, Outcome, new_episode_id
from efm_core.plan import EpisodePlan
from efm_core.topics import NAMED_SCALARS
from efm_episode_manager.liveness import Liveness
from efm_episode_manager.ownership import RobotLock, StopMark
from efm_episode_manager.plans import PlanProgress, saved_indices
from efm_episode_manager.recovery import recover_own
from efm_episode_manager.resets.scene import SceneNews, SceneRequested, scene_for

PLAN = EpisodePlan(
    plan_id="r1", mode="practice", data_set="set",
    episodes={"arm0": [{"index": i} for i in (0, 2, 4)], "arm1": [{"index": 1}]},
)  # fmt: skip


def save(root, name, **record):
    folder = root / "set" / name
    folder.mkdir(parents=True)
    (folder / "episode.json").write_text(json.dumps(record))


def test_progress_counts_saved_episodes_of_this_plan_and_robot(tmp_path):
    save(tmp_path, "a", plan="r1", robot="arm0", index=2, outcome="interrupted")
    save(tmp_path, "b", plan="r0", robot="arm0", index=0)
    save(tmp_path, "c", plan="r1", robot="arm1", index=1)
    save(tmp_path, "d.partial", plan="r1", robot="arm0", index=0)
    (tmp_path / "set" / "e").mkdir()
    (tmp_path / "set" / "e" / "episode.json").write_text("{cut")
    progress = PlanProgress(PLAN, "arm0", tmp_path)
    assert (progress.done, progress.total) == (1, 3)
    assert progress.next().index == 0
    progress.saving(0)
    assert (progress.next().index, progress.done) == (4, 1)
    progress.saved(0, done=False)
    assert progress.next().index == 0
    progress.saving(0)
    progress.saved(0, done=True)
    progress.saved(4, done=True)
    assert (progress.next(), progress.done) == (None, 3)
    assert saved_indices(tmp_path / "nowhere", "r1", "arm0") == set()


def test_a_robot_without_a_list_has_nothing_to_do(tmp_path):
    progress = PlanProgress(PLAN, "arm9", tmp_path)
    assert (progress.done, progress.total, progress.next()) == (0, 0, None)


def test_second_manager_is_refused_until_the_first_lets_go(tmp_path):
    first = RobotLock(tmp_path, "arm0")
    with pytest.raises(ValueError, match=r"arm0.*already has an episode manager \(process \d+\)"):
        RobotLock(tmp_path, "arm0")
    RobotLock(tmp_path, "arm1").release()
    first.release()
    RobotLock(tmp_path, "arm0").release()


def test_a_stop_is_remembered(tmp_path):
    assert StopMark(tmp_path, "arm0").reason() is None
    StopMark(tmp_path, "arm0").set("fleet stop")
    assert StopMark(tmp_path, "arm0").reason() == "fleet stop"
    StopMark(tmp_path, "arm0").clear()
    StopMark(tmp_path, "arm0").clear()
    assert StopMark(tmp_path, "arm0").reason() is None


def test_liveness_names_the_silent_in_order():
    watch = Liveness(2.0)
    watch.expect(("policy", "robot"), 10.0)
    assert watch.silent(("policy", "robot", "guard"), 11.0) == ["guard"]
    watch.hear("policy", 12.0)
    assert watch.silent(("policy", "robot"), 12.5) == ["robot"]
    watch.forget("policy")
    assert watch.silent(("policy",), 12.5) == ["policy"]


def test_scene_carries_the_plan_and_the_request():
    planned = PLAN.episodes["arm0"][0].model_copy(
        update={"scene": {"seed": 5}, "instruction": "push it"}
    )
    assert scene_for(planned, "id/1", 77) == {
        "seed": 5, "instruction": "push it", "request": "id/1", "not_before_ns": 77,
    }  # fmt: skip
    assert scene_for(planned, "id/1", None).keys() == {"seed", "instruction", "request"}
    assert planned.scene == {"seed": 5}


def test_a_request_listens_to_its_own_answer_alone():
    asked = SceneRequested("id/1", before_ns="100")
    assert asked.hear({"state": "done", "stamp_ns": "200", "request": "id/0"}) is SceneNews.NOTHING
    assert asked.hear({"state": "working", "request": "id/1"}) is SceneNews.NOTHING
    assert asked.hear({"state": "done", "stamp_ns": "200", "request": "id/1"}) is SceneNews.DONE
    assert asked.hear({"state": "failed", "request": "id/1"}) is SceneNews.FAILED
    # A robot that does not tell the request back: a new stamp is what counts.
    assert asked.hear({"state": "done", "stamp_ns": "100"}) is SceneNews.NOTHING
    assert asked.hear({"state": "done", "stamp_ns": "200"}) is SceneNews.DONE


def test_only_this_robots_open_episodes_are_recovered(tmp_path):
    def leave_open(robot):
        record = EpisodeRecord(
            episode_id=new_episode_id(), mode="demo", robot=robot, instruction="push",
            transport="dds", clock="lockstep", rate=10.0,
        )  # fmt: skip
        topic = f"/{robot}/joint_states"
        writer = EpisodeWriter(tmp_path / "set", record, {topic: (NAMED_SCALARS, "reliable")}, 0)
        scalars = messages.named_scalars(1, "base", {"j": 1.0})
        for _ in range(2000):  # more than one chunk
            writer.write(topic, messages.serialize(scalars, NAMED_SCALARS), 1)
        return record.episode_id, writer

    mine, dead = leave_open("arm0")
    theirs, living = leave_open("arm1")
    dead._unlock()  # what the kernel does when a process dies
    (tmp_path / "set" / "odd.partial").mkdir()
    assert recover_own(tmp_path, "arm0") == [tmp_path / "set" / mine]
    record = read_record(tmp_path / "set" / mine)
    assert (record.outcome, record.recovered) == (Outcome.INTERRUPTED, True)
    assert (tmp_path / "set" / f"{theirs}.partial").is_dir()
    living.discard()
    assert recover_own(tmp_path / "nowhere", "arm0") == []


def test_what_a_writer_left_before_its_first_message_is_removed(tmp_path):
    """Killed between making the directory and writing the record: nobody's, and empty."""
    long_ago = time.time() - 60.0
    old, cut, fresh = (tmp_path / "set" / f"{name}.partial" for name in ("old", "cut", "fresh"))
    for folder in (old, cut, fresh):
        folder.mkdir(parents=True)
    (cut / "episode.json").write_text('{"robot": "ar')
    for folder in (old, cut):
        os.utime(folder, (long_ago, long_ago))
    record = EpisodeRecord(
        episode_id=new_episode_id(), mode="demo", robot="arm1", instruction="push",
        transport="dds", clock="lockstep", rate=10.0,
    )  # fmt: skip
    writer = EpisodeWriter(tmp_path / "set", record, {}, 0)
    (writer.partial / "episode.json").unlink()  # a living one, not at its record yet
    assert recover_own(tmp_path, "arm0") == []
    assert sorted((tmp_path / "set").iterdir()) == sorted([fresh, writer.partial])
    writer.discard()
