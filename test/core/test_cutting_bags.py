"""Episodes out of a recording that knows nothing of efm: what is in them, and what never is."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from core.cutting_bag import (
    CAMERA,
    JOINTS,
    MAPPING,
    MARK,
    TWIST,
    at,
    picture,
    session,
    velocity,
    word,
    write_bag,
    write_lab,
)

from efm_core import messages
from efm_core.bags import BagError, EpisodeReader, EpisodeWriter, check_episode
from efm_core.camera_pixels import decode
from efm_core.cutting import CutEpisode, CutJob, MappingError, cut_bags, load_mapping
from efm_core.episode import Outcome
from efm_core.fleet import load_fleet

STORAGES = ("mcap", "sqlite3")


def cut(
    folder: Path, *bags: Path, mapping: str = MAPPING, data_set: str = "cut"
) -> list[CutEpisode]:
    fleet_file, mapping_file = write_lab(folder, mapping)
    fleet, wanted = load_fleet(fleet_file), load_mapping(mapping_file)
    job = CutJob(wanted, fleet.robot("ur"), fleet.data_dir / data_set, fleet.name, 0)
    return list(cut_bags(job, bags, lambda done, total: None))


def heard(path: Path, topic: str) -> dict[int, object]:
    """Stamp -> message of a topic of an episode."""
    rows = EpisodeReader(path).messages([f"/ur/{topic}"])
    found = [messages.deserialize(raw, kind) for _, kind, _, raw in rows]
    return {messages.stamp_of(message): message for message in found}


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*"))
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


@pytest.fixture(scope="module", params=STORAGES)
def bag(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    return write_bag(folder / "take", session(), request.param)


def test_what_was_marked_becomes_episodes(bag, tmp_path):
    before = fingerprint(bag)
    first, second = cut(tmp_path, bag)
    assert fingerprint(bag) == before
    for episode, outcome, text in (
        (first, Outcome.SUCCESS, "go to the middle"),
        (second, Outcome.FAILURE, "to the middle"),
    ):
        assert check_episode(episode.path) == []
        record = EpisodeReader(episode.path).record
        assert (record.outcome, record.instruction) == (outcome, text)
        assert (record.mode.value, record.robot, record.fleet) == ("demo", "ur", "lab")
        assert (record.ticks, record.labels.operator_source) == (20, "person")
        assert record.end_ns - record.start_ns == 2_000_000_000
        assert record.cameras[0].compressed
        counts = record.topics["/ur/camera/front/image_raw/compressed"]
        assert (counts.expected, counts.on_time) == (41, 41)  # 2 s at 20 Hz, both ends


def test_each_tick_holds_what_was_known_then_and_done_next(bag, tmp_path):
    first, _ = cut(tmp_path, bag)
    guards, joints = heard(first.path, "guard/state"), heard(first.path, "joint_states")
    images = heard(first.path, "camera/front/image_raw/compressed")
    assert list(guards) == [at(1.0 + k / 10) for k in range(20)]
    assert list(images) == [at(1.0 + k / 10) for k in range(21)]
    space = load_fleet(tmp_path / "lab.yaml").robot("ur").space
    for k, (stamp, guard) in enumerate(guards.items()):
        # Four commands at 40 Hz, the first 5 ms after the picture; m/s over a period of 0.1 s.
        times = [1.0 + k / 10 + 0.005 + i / 40 for i in range(4)]
        expected = np.mean([velocity(t) for t in times], axis=0) / 10
        executed = messages.read_executed(messages.read_named_scalars(guard), space)
        np.testing.assert_allclose(executed, expected, atol=1e-12)
        # Joints come at 50 Hz 3 ms behind the pictures: the last before is 17 ms old, not 3 ms new.
        assert joints[stamp].position[0] == pytest.approx(1.0 + k / 10 - 0.017)
        shown = decode(images[stamp]).astype(int) - picture(20 + 2 * k)
        assert np.abs(shown).mean() < 30  # a JPEG of the right one


def test_nothing_of_the_future_reaches_an_observation(tmp_path):
    told = session()
    later = [one for one in told if one.log_ns <= at(2.0)]
    for one in told:
        if one.log_ns > at(2.0) and one.topic == JOINTS:
            stamp = messages.stamp_of(one.message)
            message = messages.named_scalars(stamp, "", {"shoulder": 99.0, "elbow": 99.0})
            later.append(one._replace(message=message))
        elif one.log_ns > at(2.0) and one.topic == TWIST:
            stamp = messages.stamp_of(one.message)
            later.append(one._replace(message=messages.twist(stamp, "base", (0.1, 0.1, 0.0))))
        elif one.log_ns > at(2.0):
            later.append(one)
    one, other = (
        cut(tmp_path, write_bag(tmp_path / name, said), data_set=name)[0].path
        for name, said in (("told", told), ("later", later))
    )
    for topic, until in (("joint_states", at(2.0)), ("guard/state", at(1.9))):
        mine, theirs = heard(one, topic), heard(other, topic)
        stamps = [stamp for stamp in mine if stamp <= until]
        assert len(stamps) >= 10
        for stamp in stamps:
            np.testing.assert_array_equal(mine[stamp].position, theirs[stamp].position)
        assert any((mine[s].position != theirs[s].position).any() for s in mine if s > until)


def test_a_second_time_finds_everything_there(bag, tmp_path):
    cut(tmp_path, bag)
    before = fingerprint(tmp_path / "data")
    again = cut(tmp_path, bag)
    assert [e.known for e in again] == [True, True]
    assert fingerprint(tmp_path / "data") == before


def test_the_storage_makes_no_difference(tmp_path):
    found = [
        [e.path.name for e in cut(tmp_path, write_bag(tmp_path / s, session(), s), data_set=s)]
        for s in STORAGES
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_cut_leaves_nothing_half_and_goes_on(tmp_path, monkeypatch, error):
    bag = write_bag(tmp_path / "take", session())
    write, calls = EpisodeWriter.write, iter(range(1000))

    def failing(self, *args):
        if next(calls) == 120:  # in the second episode
            raise error
        write(self, *args)

    monkeypatch.setattr(EpisodeWriter, "write", failing)
    with pytest.raises(type(error)):
        cut(tmp_path, bag)
    (whole,) = (tmp_path / "data" / "cut").iterdir()
    assert check_episode(whole) == []
    monkeypatch.undo()
    assert [e.known for e in cut(tmp_path, bag)] == [True, False]


def test_what_a_killed_cut_left_is_replaced(tmp_path):
    bag = write_bag(tmp_path / "take", session())
    first, second = cut(tmp_path, bag)
    partial = second.path.with_name(second.path.name + ".partial")
    second.path.rename(partial)
    (partial / "metadata.yaml").unlink()
    assert [e.known for e in cut(tmp_path, bag)] == [True, False]
    assert sorted(p.name for p in first.path.parent.iterdir()) == sorted(
        [first.path.name, second.path.name]
    )
    assert check_episode(second.path) == []


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_that_is_cut_gives_no_episode(tmp_path, storage):
    bag = write_bag(tmp_path / "take", session(), storage)
    (file,) = (f for f in bag.iterdir() if f.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BagError, match="ros2 bag reindex"):
        cut(tmp_path, bag)
    assert not list((tmp_path / "data").rglob("episode.json"))
    (bag / "metadata.yaml").unlink()
    with pytest.raises(BagError, match="ros2 bag reindex"):
        cut(tmp_path, bag)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (JOINTS, "/joint_state", r"no topic /joint_state, .* joints names; did you mean /joint_s"),
        (JOINTS, TWIST, r"is geometry_msgs/msg/TwistStamped, the mapping's joints takes sensor_"),
        (CAMERA, "/cam/depth", "the mapping's cameras.front.topic names.*It has /cam/color"),
    ],
)
def test_a_topic_that_does_not_fit_is_told_with_those_there_are(tmp_path, bag, old, new, message):
    with pytest.raises(BagError, match=message):
        cut(tmp_path, bag, mapping=MAPPING.replace(f": {old}", f": {new}"))
    assert not (tmp_path / "data").exists()


def test_a_frame_that_is_another_must_be_said(tmp_path):
    said = [
        one._replace(message=messages.twist(messages.stamp_of(one.message), "tool0", (0.1, 0, 0)))
        if one.topic == TWIST
        else one
        for one in session()
    ]
    bag = write_bag(tmp_path / "take", said)
    with pytest.raises(MappingError, match=r"say action\.0\.frame: tool0"):
        cut(tmp_path, bag)
    mapping = MAPPING.replace(f"topic: {TWIST}", f"topic: {TWIST}, frame: tool0")
    assert len(cut(tmp_path, bag, mapping=mapping)) == 2


def test_gaps_are_counted_and_too_many_refused(tmp_path):
    def without(start: float, end: float) -> Path:
        lost = [
            one for one in session()
            if not (one.topic == CAMERA and at(start) < messages.stamp_of(one.message) < at(end))
        ]  # fmt: skip
        return write_bag(tmp_path / f"gap{end}", lost)

    few = cut(tmp_path, without(1.5, 1.8))[0]  # 1.6 and 1.7 are missing
    assert (few.plan.gaps, few.plan.missing, few.plan.record.ticks) == (1, 2, 20)
    assert len(heard(few.path, "guard/state")) == 18
    many = cut(tmp_path, without(1.2, 2.5))[0]
    assert many.path is None
    assert "pictures were lost or late" in many.reason
    assert "max_loss" in many.reason


def test_observations_without_state_are_left_out(tmp_path):
    said = [
        one for one in session()
        if not (one.topic == JOINTS and at(1.5) < one.log_ns < at(2.1))
    ]  # fmt: skip
    first = cut(tmp_path, write_bag(tmp_path / "take", said))[0]
    # The last before is at 1.483 s and 0.1 s is the tolerance: 1.6 to 2.1 have none.
    assert first.plan.stateless == 6
    assert len(heard(first.path, "joint_states")) == 15
    none = [one for one in session() if one.topic != JOINTS or one.log_ns > at(3.5)]
    first = cut(tmp_path, write_bag(tmp_path / "none", none))[0]
    assert "no joints or no pose within 0.1 s before them" in first.reason


def test_a_damaged_picture_costs_its_observation(tmp_path):
    said = []
    for one in session():
        if one.topic == CAMERA and messages.stamp_of(one.message) == at(1.5):
            data = one.message.data.copy()
            data[-120:-2] = 0xFF  # begins and ends as a JPEG does
            data = np.concatenate([data[:20], data[-2:]])
            stamp = messages.stamp_of(one.message)
            message = messages.compressed_image(stamp, "cam", "jpeg", data.tobytes())
            one = one._replace(message=message)
        said.append(one)
    first = cut(tmp_path, write_bag(tmp_path / "take", said))[0]
    assert check_episode(first.path) == []
    assert at(1.5) not in heard(first.path, "guard/state")
    counts = first.plan.record.topics["/ur/camera/front/image_raw/compressed"]
    assert (counts.on_time, counts.refused) == (40, 1)


def test_several_bags_and_a_take_that_is_never_ended(tmp_path):
    one = write_bag(tmp_path / "one", session())
    open_end = [s for s in session(8.0) if s.topic != MARK]
    marks = ((1.0, "begin"), (1.5, "ready"), (2.0, "begin"), (4.0, "end"), (5.0, "begin"))
    two = write_bag(tmp_path / "two", [*open_end, *(word(t, MARK, text) for t, text in marks)])
    found = sorted(cut(tmp_path, one, two), key=lambda e: (e.bag.name, e.start_s))
    assert [bool(e.reason) for e in found] == [False, False, True, False, True]
    assert "another begins before it ends" in found[2].reason
    assert "never ended" in found[4].reason
    assert (found[3].start_s, found[3].end_s) == pytest.approx((2.0, 4.0), abs=0.02)


def test_a_bag_without_episodes_says_so(tmp_path):
    said = [one for one in session() if one.topic != MARK]
    bag = write_bag(tmp_path / "take", [*said, word(0.1, MARK, "hello")])
    (nothing,) = cut(tmp_path, bag)
    assert "finds no episode" in nothing.reason


@pytest.mark.parametrize("name", ["mcap", "sqlite3", "mcap_file_zstd"])
def test_bags_of_the_real_rosbag2(tmp_path, name):
    golden = Path(__file__).resolve().parents[3] / "shared" / "golden_bags"
    if not golden.is_dir():
        pytest.skip(f"NOT VERIFIED: no bags of the real rosbag2 at {golden}")
    bag = Path(shutil.copytree(golden / name, tmp_path / name))
    mapping = """
robot: ur
cameras: {front: {topic: /arm/camera/front/image_raw, rate: 10.0}}
joints: /arm/joint_states
action: [{source: twist, topic: /arm/servo_node/delta_twist_cmds, frame: base_link}]
instruction: {topic: /task/instruction}
success: {topic: /task/done}
"""
    assert "96x72" in cut(tmp_path, bag, mapping=mapping)[0].reason
    fleet_file, _ = write_lab(tmp_path, mapping)
    text = fleet_file.read_text().replace("width: 16, height: 16", "width: 96, height: 72")
    fleet_file.write_text(text)
    fleet = load_fleet(fleet_file)
    job = CutJob(load_mapping(tmp_path / "mapping.yaml"), fleet.robot("ur"), tmp_path / "out")
    (episode,) = cut_bags(job, [bag], lambda done, total: None)
    assert episode.reason == ""
    assert check_episode(episode.path) == []
    record = episode.plan.record
    assert (record.instruction, record.outcome) == (
        "push the red star to the blue cube", Outcome.SUCCESS,
    )  # fmt: skip
    assert record.ticks >= 37
