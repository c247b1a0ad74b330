"""What the manager does about cameras in real time: stores, counts, marks, ends an episode."""

from __future__ import annotations

import json

import numpy as np
import pytest
from manager.test_conductor import SPACE, Played
from pydantic import ValidationError

from efm_core import messages, topics
from efm_core.bags import list_episodes, read_bag, read_record
from efm_core.camera_description import CameraDescription
from efm_core.episode import Outcome
from efm_core.plan import EpisodePlan
from efm_episode_manager.parameters import PARAMETERS
from efm_episode_manager.settings import ManagerSettings

CAMERAS = (
    CameraDescription(name="front", width=16, height=16, rate=10.0),
    CameraDescription(name="wrist", width=16, height=16, rate=10.0, compressed=True),
)


class RealLab(Played):
    """A robot in real time with two cameras; `played` counts their pictures."""

    def __init__(self, tmp_path, mode="demo") -> None:
        super().__init__(
            tmp_path, clock="real", cameras=("front", "wrist"), camera_descriptions=CAMERAS
        )
        episode = {"index": 0, "scene": {}, "limit": 300}
        models = {} if mode == "demo" else {"policy_version": "v1", "reward_version": "v1"}
        self.plan = EpisodePlan(
            plan_id="p", mode=mode, data_set="p", episodes={"arm0": [episode]}, **models
        )

    def beat(self, seconds=0.1):
        """The joints' stamps are those of the clock."""
        self.newest = round((self.now + seconds) * 1e9)
        super().beat(seconds)

    def run(self) -> None:
        """Until the episode runs."""
        self.beat()
        self.conductor.set_plan(self.plan.model_dump_json())
        self.beat()
        values = {"state": "done", "stamp_ns": str(self.wall_ns()), "instruction": "push it",
                  "request": self.scenes[-1]["request"]}  # fmt: skip
        self.hear(topics.RESET_STATUS, messages.status(0, "reset", values))
        self.beat()
        assert self.conductor.phase.value == "running"

    def show(self, value: int, age_s: float = 0.0, copies: int = 1, width: int = 16) -> None:
        """One picture of the first camera, taken `age_s` ago."""
        stamp = self.wall_ns() - round(age_s * 1e9)
        picture = messages.image(stamp, "front", np.full((16, width, 3), value, np.uint8))
        for _ in range(copies):
            self.hear(CAMERAS[0].topic, picture)

    def save(self):
        """End the episode; its record and how often each topic is in its bag."""
        self.operator.failure()
        for _ in range(8):
            self.beat()
        for session, job in self.jobs:
            self.conductor.course.saved(session, job(), None)
        (path,) = list_episodes(self.data / "p")
        stored: dict[str, int] = {}
        for topic, *_ in read_bag(path):
            stored[topic] = stored.get(topic, 0) + 1
        return read_record(path), stored


def test_pictures_are_counted_live_stored_once_and_a_bad_episode_is_marked(tmp_path):
    lab = RealLab(tmp_path)
    lab.run()
    for k in range(20):
        lab.beat(0.1)
        lab.show(k, copies=2 if k == 3 else 1, width=20 if k == 5 else 16)
    lab.beat(0.1), lab.beat(0.1)  # one picture is missing
    lab.show(30)
    lab.show(31, age_s=0.15)  # it comes after all, overtaken
    lab.beat(1.0)  # the gauges look once a second; nine more are missing by now
    live = json.loads(lab.conductor.core.status()["frames"])[CAMERAS[0].topic.name]
    # Missing: one before the first, which came 0.2 s after the start, nine after the last.
    assert live == {"expected": 33, "received": 20, "dropped": 11, "repeated": 1, "late": 1,
                    "refused": 1, "restamped": 0}  # fmt: skip
    record, stored = lab.save()
    front = record.topics["/arm0/camera/front/image_raw"]
    assert (front.on_time, front.late, front.repeated, front.refused) == (20, 1, 1, 1)
    assert front.expected == front.on_time + front.late + front.repeated + front.dropped
    assert stored["/arm0/camera/front/image_raw"] == 22
    assert "camera 'wrist': " in record.unusable  # it never came
    assert record.cameras == CAMERAS
    assert lab.conductor.core.status()["unusable_total"] == "1"


def test_a_frozen_camera_ends_a_demonstration_too(tmp_path):
    lab = RealLab(tmp_path)
    lab.run()
    values = {"episode_id": "of the last episode", "state": "idle", "frozen": "1"}
    lab.hear(topics.POLICY_STATUS, messages.status(0, "policy", values))
    assert lab.conductor.phase.value == "running"
    values["episode_id"] = lab.episode_id
    lab.hear(topics.POLICY_STATUS, messages.status(0, "policy", values))
    record, _ = lab.save()
    assert (record.outcome, record.termination_reason) == (Outcome.FAULT, "fault:frozen_camera")


def test_descriptions_are_read_from_json_and_must_be_of_the_cameras():
    text = json.dumps([c.model_dump(mode="json") for c in CAMERAS])
    settings = ManagerSettings(
        robot="arm0", data_dir=".", space=SPACE, cameras=("front", "wrist"),
        camera_descriptions=text,
    )  # fmt: skip
    assert settings.camera_descriptions == CAMERAS
    assert [t.name for t in settings.camera_topics] == [
        "camera/front/image_raw", "camera/wrist/image_raw/compressed",
    ]  # fmt: skip
    with pytest.raises(ValidationError, match=r"camera_descriptions are of \['front', 'wrist'\]"):
        ManagerSettings(robot="arm0", data_dir=".", space=SPACE, camera_descriptions=text)
    spec = next(s for s in PARAMETERS if s.name == "camera_descriptions")
    assert spec.problem(text) == spec.problem("") == ""
    assert "rate" in spec.problem('[{"name": "front", "rate": 0}]')


def test_between_episodes_a_few_pictures_are_kept_and_no_more(tmp_path):
    lab = RealLab(tmp_path)
    for k in range(30):
        lab.now += 0.1
        lab.show(k)
    recorder = lab.conductor.core.scribe.recorder
    kept = [name for name, *_ in recorder._tail]
    assert kept == [CAMERAS[0].topic.name] * 4
