"""The trainer pairs pictures and state as the robot did, with and without its word on it."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from trainer.toy import SPACE

from efm_core import messages
from efm_core.camera_description import CameraDescription
from efm_core.episode import EpisodeRecord, Mode, new_episode_id
from efm_core.observation import Decision
from efm_trainer.alignment import HeardMessages

MS = 1_000_000
START = 1_700_000_000_000 * MS
CAMERAS = (
    CameraDescription(name="front", width=16, height=16, rate=10.0),
    CameraDescription(name="wrist", width=16, height=16, rate=8.0, tolerance=0.07),
)


def record(**fields) -> EpisodeRecord:
    values = {
        "episode_id": new_episode_id(), "mode": Mode.DEMO, "robot": "toy", "instruction": "go",
        "transport": "dds", "clock": "real", "rate": 10.0, "ticks": 5, "start_ns": START,
        "cameras": CAMERAS, "state_tolerance": 0.05,
    }  # fmt: skip
    return EpisodeRecord(**{**values, **fields})


def show(heard: HeardMessages, camera: str, at_ms: float, value: int, stamp_ms=None) -> None:
    """A picture taken and, 5 ms later, recorded; ms after the start."""
    stamp = START + round((at_ms if stamp_ms is None else stamp_ms) * MS)
    rgb = np.full((16, 16, 3), value, np.uint8)
    message = messages.image(0 if stamp_ms == 0 else stamp, camera, rgb)
    heard.take(f"image/{camera}", message, START + round((at_ms + 5) * MS))


def values(episode, camera: str) -> list[int]:
    return episode.images[camera][:, 0, 0, 0].tolist()


def test_a_demonstration_takes_the_nearest_within_the_tolerance_and_leaves_out_the_rest():
    described = record()
    heard = HeardMessages(SPACE, described)
    for k in range(6):
        show(heard, "front", 100 * k, k)
    for k, at in enumerate((20, 145, 270, 395)):  # 8 Hz; then it is silent
        show(heard, "wrist", at, 100 + k)
    joints = messages.named_scalars(START + 160 * MS, "", {"j": 1.5})
    heard.take("state/joint_states", joints)
    heard.take("state/ee_pose", messages.pose(START + 390 * MS, "base", (1.0, 2.0, 3.0)))
    episode = heard.assemble(described, ["front", "wrist"])
    assert values(episode, "front") == [0, 1, 2, 3, 4]  # at 500 ms the wrist is 105 ms away
    assert values(episode, "wrist") == [100, 101, 101, 102, 103]
    np.testing.assert_array_equal(episode.state["j"], [np.nan, np.nan, 1.5, np.nan, np.nan])
    np.testing.assert_array_equal(episode.state["ee_z"], [np.nan] * 4 + [3.0])


def decide(heard: HeardMessages, at_ms: float, offsets, digests) -> None:
    decision = Decision(np.zeros((SPACE.chunk, SPACE.size), np.int64), -1.0, 1.0, 0.8)
    stamp = START + round(at_ms * MS)
    message = messages.decision(stamp, "p1", decision, SPACE, 0.0, False, offsets, digests)
    heard.take("decision", message)


def digest(value: int) -> int:
    return zlib.adler32(bytes([value]) * (16 * 16 * 3))


def test_a_decision_names_its_pictures_whatever_their_stamps():
    """The robot used an older picture of the wrist, and knew the front by its receipt."""
    described = record(mode=Mode.PRACTICE)
    heard = HeardMessages(SPACE, described)
    for k in range(3):
        show(heard, "front", 100 * k, k, stamp_ms=0)
        show(heard, "wrist", 100 * k, 10 + k)
        show(heard, "wrist", 100 * k + 50, 20 + k)
        decide(heard, 100 * k + 3, {"front": 0.0, "wrist": -0.003}, {
            "front": digest(k), "wrist": digest(10 + k),
        })  # fmt: skip
    episode = heard.assemble(described, ["front", "wrist"])
    assert episode.stamps.tolist() == [START + (100 * k + 3) * MS for k in range(3)]
    assert values(episode, "front") == [0, 1, 2]
    assert values(episode, "wrist") == [10, 11, 12]  # the nearest would be the same stamp's too
    assert np.isfinite(episode.log_prob).all()


def test_a_decision_on_a_picture_that_the_bag_lacks_is_left_out():
    described = record(mode=Mode.PRACTICE)
    heard = HeardMessages(SPACE, described)
    for k in range(4):
        show(heard, "front", 100 * k, k)
        show(heard, "wrist", 100 * k, 10 + k)
        used = 99 if k == 2 else 10 + k
        decide(heard, 100 * k, {"front": 0.0, "wrist": 0.0},
               {"front": digest(k), "wrist": digest(used)})  # fmt: skip
    episode = heard.assemble(described, ["front", "wrist"])
    assert values(episode, "wrist") == [10, 11, 13]


def test_a_picture_of_another_size_is_no_picture_and_an_unknown_encoding_is_named():
    described = record()
    heard = HeardMessages(SPACE, described)
    for k in range(3):
        show(heard, "front", 100 * k, k)
    wide = messages.image(START + 300 * MS, "front", np.zeros((16, 18, 3), np.uint8))
    heard.take("image/front", wide, START + 305 * MS)
    assert len(heard.assemble(described, ["front"])) == 3
    undescribed = record(cameras=())
    heard = HeardMessages(SPACE, undescribed)
    strange = messages.image(START, "front", np.zeros((16, 16, 3), np.uint8))
    strange.encoding = "32FC1"
    heard.take("image/front", strange)
    with pytest.raises(ValueError, match="'32FC1' is not understood"):
        heard.assemble(undescribed, ["front"])
