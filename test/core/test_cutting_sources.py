"""Other recordings: raw cameras, tf instead of a pose, no commands at all, another clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from core.cutting_bag import (
    MAPPING,
    MARK,
    Said,
    at,
    picture,
    session,
    streams,
    word,
    write_bag,
    write_lab,
)

from efm_core import messages
from efm_core.bags import EpisodeReader, check_episode
from efm_core.cutting import CutJob, MappingError, cut_bags, load_mapping
from efm_core.cutting.scan import Scanner
from efm_core.fleet import load_fleet
from efm_trainer.data import load_episode

types = messages.typestore.types
TRANSFORM = "geometry_msgs/msg/TransformStamped"


def cut(folder: Path, bag: Path, mapping: str, change=lambda text: text):
    fleet_file, mapping_file = write_lab(folder, mapping)
    fleet_file.write_text(change(fleet_file.read_text()))
    wanted = load_mapping(mapping_file)
    job = CutJob(wanted, load_fleet(fleet_file).robot("ur"), folder / "data", "lab", 0)
    return list(cut_bags(job, [bag], lambda done, total: None))


def transform(t: float, parent: str, child: str, xyz) -> Said:
    stamp = messages.twist(at(t), parent, (0, 0, 0)).header
    value = types["geometry_msgs/msg/Transform"](
        translation=types["geometry_msgs/msg/Vector3"](*map(float, xyz)),
        rotation=types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
    )
    one = types[TRANSFORM](header=stamp, child_frame_id=child, transform=value)
    kind = "tf2_msgs/msg/TFMessage"
    topic = "/tf_static" if child == "tool" else "/tf"
    return Said(at(t), topic, kind, types[kind](transforms=[one]))


def raw(t: float, topic: str, k: int) -> Said:
    message = messages.image(at(t), "cam", picture(k))
    return Said(at(t + 0.004), topic, "sensor_msgs/msg/Image", message)


def test_two_raw_cameras_tf_and_what_the_robot_did(tmp_path):
    said = [transform(0.0, "flange", "tool", (0.0, 0.0, 0.1))]
    said += [
        transform(k / 100, "base_link", "flange", (0.1 * k / 100, 0.0, 0.5)) for k in range(300)
    ]
    said += [raw(0.1 + k / 10, "/left/image_raw", k) for k in range(25)]
    said += [raw(0.08 + k / 5, "/right/image_raw", k) for k in range(13)]
    mapping = """
robot: ur
cameras: {front: {topic: /left/image_raw, rate: 10}, wrist: {topic: /right/image_raw}}
pose: {frames: [base_link, tool]}
action: [{source: next}]
instruction: go
success: true
"""
    wrist = "}\n      - {name: wrist, width: 16, height: 16, rate: 5.0}]"
    (found,) = cut(
        tmp_path, write_bag(tmp_path / "take", said), mapping,
        lambda text: text.replace("rate: 20.0}]", "rate: 20.0" + wrist).replace(
            "cameras: [", "cameras:\n      [").replace("}\n      - {", "}, {"),
    )  # fmt: skip
    assert check_episode(found.path) == []
    episode = load_episode(found.path, ("front", "wrist"))
    assert len(episode) == 25
    # 0.1 m/s along x is 0.01 m per period; the pose is the tool's, 0.1 m beyond the flange.
    np.testing.assert_allclose(episode.executed[:24], [[0.01, 0.0]] * 24, atol=1e-9)
    seconds = (episode.stamps - at(0.0)) / 1e9
    names = sorted(episode.state)
    columns = np.stack([episode.state[name] for name in names], axis=1)
    assert np.isfinite(columns).all()
    assert any(np.allclose(column, 0.1 * seconds, atol=1e-3) for column in columns.T)
    assert any(np.allclose(column, 0.6) for column in columns.T)
    for k in range(25):
        np.testing.assert_array_equal(episode.images["front"][k], picture(k))
        # Nearest to 0.1 + 0.1 k: even ones have one 20 ms before, odd ones one 80 ms after.
        np.testing.assert_array_equal(episode.images["wrist"][k], picture((k + 1) // 2))


def test_stamps_of_a_simulation(tmp_path):
    """Simulated seconds from 100 on, recorded at half speed by a machine in 2023."""

    def simulated(one: Said) -> Said:
        t = (one.log_ns - at(0.0)) / 1e9
        log_ns = at(2 * t)
        if not hasattr(one.message, "header"):
            return one._replace(log_ns=log_ns)
        stamp = messages.stamp_of(one.message) - at(0.0) + 100_000_000_000
        header = messages.twist(stamp, one.message.header.frame_id, (0, 0, 0)).header
        one.message.header = header
        return one._replace(log_ns=log_ns)

    bag = write_bag(tmp_path / "take", [simulated(one) for one in session()])
    refused = cut(tmp_path, bag, MAPPING)
    assert all(e.path is None for e in refused)
    first, second = cut(tmp_path, bag, MAPPING + "times: simulated\n")
    # A mark has no stamp: it came 80 ms after the picture of 0.95 s, so 1.05 s is the first.
    assert (first.plan.record.ticks, second.plan.record.ticks) == (19, 19)
    start = EpisodeReader(first.path).record.start_ns
    assert start == 101_050_000_000
    received = cut(tmp_path, bag, MAPPING + "times: received\n")
    assert "lost" in received[0].reason  # half as many pictures per second as the camera's rate


class Broken:
    """A recording of one message with bytes changed or cut off."""

    path, start_ns = Path("broken"), at(0.0)

    def __init__(self, rows) -> None:
        self.topics = {topic: (kind, 1) for topic, kind, _, _ in SOUND}
        self._rows = rows

    def messages(self, topics):
        return iter(self._rows)


SOUND = [(s.topic, s.kind, s.log_ns, messages.serialize(s.message, s.kind)) for s in session(3.0)]


def test_messages_that_make_no_sense_are_counted(tmp_path):
    fleet_file, mapping_file = write_lab(tmp_path)
    robot, mapping = load_fleet(fleet_file).robot("ur"), load_mapping(mapping_file)
    rng, unreadable, frames = np.random.default_rng(0), 0, []
    for _ in range(1500):
        topic, kind, log_ns, data = SOUND[rng.integers(len(SOUND))]
        broken = bytearray(data[: rng.integers(len(data)) if rng.random() < 0.3 else None])
        for place in rng.integers(max(len(broken), 1), size=3):
            broken[place : place + 1] = rng.bytes(1)
        scanner = Scanner(Broken([(topic, kind, log_ns, bytes(broken))]), mapping, robot)
        try:
            unreadable += sum(scanner.read(lambda number: None).unreadable.values())
        except MappingError as error:
            frames.append("is in frame" in str(error))
    assert unreadable > 300
    assert all(frames)


TIMES = """episodes:
  - {start: 1, end: 2, instruction: first, success: true}
  - {start: 2.5, end: 3.5, bag: take}
  - {start: 2.5, end: 3.5, bag: other}
  - {start: 20, end: 30}
"""


def test_times_lists_and_discarded_takes(tmp_path):
    bag = write_bag(tmp_path / "take", session())
    head = MAPPING.split("instruction:")[0]
    text = head + "instruction: [a, b]\nsuccess: [true, null]\n"
    found = sorted(cut(tmp_path, bag, text + TIMES), key=lambda e: e.start_s)
    told = [(e.plan.record.instruction, e.plan.record.outcome.value) for e in found[:2]]
    assert told == [("first", "success"), ("b", "unknown")]
    assert "begins at 20 s, the pictures end before" in found[2].reason
    with pytest.raises(MappingError, match="instruction: the mapping lists 2, take holds 1"):
        cut(tmp_path, bag, text + "episodes: whole\n")
    marks = [word(t, MARK, m) for t, m in ((1, "begin"), (2, "no"), (3, "begin"), (5, "end"))]
    bag = write_bag(tmp_path / "redone", [*streams(6.0), *marks])
    redone = (
        MAPPING.split("instruction:")[0]
        + f"""instruction: go
episodes:
  start: {{topic: {MARK}, equals: begin}}
  end: {{topic: {MARK}, equals: end}}
  discard: {{topic: {MARK}, equals: "no"}}
"""
    )
    (only,) = cut(tmp_path, bag, redone)
    assert (only.start_s, only.plan.record.ticks) == (pytest.approx(3.0, abs=0.01), 20)
