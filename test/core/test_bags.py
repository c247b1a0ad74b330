"""Episodes on disk: one contract for all writers, and what other readers make of them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability

from efm_core import messages
from efm_core.bags import (
    BagError,
    DiskFullError,
    EpisodeReader,
    EpisodeWriter,
    McapBagWriter,
    RosbagBagWriter,
    check_episode,
    decode,
    list_episodes,
    read_bag,
    read_episode,
)
from efm_core.bags.mcap_writer import CHUNK_BYTES
from efm_core.bags.schema import episode_schema
from efm_core.episode import EpisodeRecord, Outcome, new_episode_id

NEEDS_ROSBAG2 = pytest.mark.skipif(
    not RosbagBagWriter.available(),
    reason="NOT VERIFIED: rosbag2_py is not installed, so its writer was not tried",
)
WRITERS = [
    pytest.param(McapBagWriter, id="mcap"),
    pytest.param(RosbagBagWriter, id="rosbag2_py", marks=NEEDS_ROSBAG2),
]


def write(data_dir, record, table, content, writer=None) -> Path:
    episode = EpisodeWriter(data_dir, record, table, reserve_bytes=0, writer=writer)
    for row in content:
        episode.write(*row)
    return episode.finish(record)


@pytest.fixture
def episode(tmp_path, record, table, content) -> Path:
    return write(tmp_path, record, table, content)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_gives_back_what_it_was_given(tmp_path, record, table, content, writer):
    path = write(tmp_path, record, table, content, writer())
    assert path == tmp_path / record.episode_id
    assert [(t, raw, ns) for t, _, ns, raw in read_bag(path)] == content
    assert check_episode(path) == []
    with AnyReader([path]) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == {
            topic: kind for topic, (kind, _) in table.items()
        }
        durability = {c.topic: c.ext.offered_qos_profiles[0].durability for c in reader.connections}
        latched = {t for t, d in durability.items() if d is QosDurability.TRANSIENT_LOCAL}
        assert latched == {"/robot1/instruction"}
        for connection in reader.connections:
            assert connection.digest == messages.typestore.hash_rihs01(connection.msgtype)
        found = [(c.topic, bytes(raw)) for c, _, raw in reader.messages()]
        assert Counter(found) == Counter((t, raw) for t, raw, _ in content)
        for connection, _, raw in reader.messages():
            reader.deserialize(raw, connection.msgtype)


def test_the_mcap_library_reads_it_with_checksums(episode, content):
    (file,) = episode.glob("*.mcap")
    with file.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        summary = reader.get_summary()
        assert summary.statistics.message_count == len(content)
        assert max(c.uncompressed_size for c in summary.chunk_indexes) <= CHUNK_BYTES + 4096
        assert len(list(reader.iter_messages())) == len(content)
        assert reader.get_header().profile == "ros2"


def test_record_and_selected_topics(episode, record, content):
    reader = EpisodeReader(episode)
    assert reader.record == record.model_copy(update={"saved": True})
    wanted = "/robot1/guard/state"
    rows = list(reader.messages([wanted]))
    assert [raw for _, _, _, raw in rows] == [raw for t, raw, _ in content if t == wanted]
    assert {kind for _, kind, _, _ in rows} == {"sensor_msgs/msg/JointState"}


def test_messages_larger_than_a_chunk(tmp_path, record, table):
    big = messages.image(5, "front", np.zeros((180, 320, 3), dtype=np.uint8))
    raw = messages.serialize(big, "sensor_msgs/msg/Image")
    assert len(raw) > CHUNK_BYTES
    topic = "/robot1/camera/front/image_raw"
    path = write(tmp_path, record, table, [(topic, raw, 5), (topic, raw, 6)])
    assert [r for _, _, _, r in read_episode(path)] == [raw, raw]


def test_an_episode_without_messages_is_a_valid_bag(tmp_path, record, table):
    path = write(tmp_path, record, table, [])
    assert list(read_bag(path)) == []
    assert check_episode(path) == []


def test_nothing_starts_below_the_reserve(tmp_path, record, table):
    with pytest.raises(DiskFullError, match="reserve"):
        EpisodeWriter(tmp_path, record, table, reserve_bytes=1 << 62)
    assert list(tmp_path.iterdir()) == []


def test_an_episode_id_is_used_once(tmp_path, record, table, content):
    first = EpisodeWriter(tmp_path, record, table, reserve_bytes=0)
    with pytest.raises(FileExistsError, match=record.episode_id):
        EpisodeWriter(tmp_path, record, table, reserve_bytes=0)
    first.finish(record)
    with pytest.raises(FileExistsError):
        EpisodeWriter(tmp_path, record, table, reserve_bytes=0)


def test_discarding_leaves_nothing(tmp_path, record, table, content):
    episode = EpisodeWriter(tmp_path, record, table, reserve_bytes=0)
    episode.write(*content[0])
    episode.discard()
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_sending_stands_beside_the_log_time(tmp_path, record, table, content):
    episode = EpisodeWriter(tmp_path, record, table, reserve_bytes=0)
    (topic, data, log_ns) = content[0]
    episode.write(topic, data, log_ns, log_ns - 7)
    episode.write(topic, data, log_ns + 1)
    (bag,) = episode.finish(record).glob("*.mcap")
    with bag.open("rb") as file:
        found = [(m.log_time, m.publish_time) for _, _, m in make_reader(file).iter_messages()]
    assert found == [(log_ns, log_ns - 7), (log_ns + 1, log_ns + 1)]


def test_a_write_that_did_not_reach_the_disk_is_not_acknowledged(tmp_path, record, table, content):
    class Forgetful(McapBagWriter):
        def write(self, topic, data, log_ns, sent_ns=0):
            if len(self.counts) and sum(self.counts.values()) < 20:
                super().write(topic, data, log_ns)

    with pytest.raises(BagError, match=r"20 of \d+ messages"):
        write(tmp_path, record, table, content, Forgetful())
    assert not (tmp_path / record.episode_id).exists()


def test_a_full_disk_surfaces_as_an_error(tmp_path, record, table, content):
    class Full(McapBagWriter):
        def close(self, final_name=""):
            raise OSError(28, "No space left on device")

    episode = EpisodeWriter(tmp_path, record, table, reserve_bytes=0, writer=Full())
    episode.write(*content[0])
    with pytest.raises(OSError, match="No space"):
        episode.finish(record)
    episode.discard()
    assert list(tmp_path.iterdir()) == []


def test_episodes_are_listed_by_start(tmp_path, record, table):
    ids = []
    for start in (300, 100, 200):
        one = record.model_copy(update={"episode_id": new_episode_id(), "start_ns": start})
        write(tmp_path, one, table, [])
        ids.append((start, one.episode_id))
    open_one = record.model_copy(update={"episode_id": new_episode_id()})
    EpisodeWriter(tmp_path, open_one, table, reserve_bytes=0)
    assert [p.name for p in list_episodes(tmp_path)] == [name for _, name in sorted(ids)]
    assert list_episodes(tmp_path / "nowhere") == []


# ---- damage ----------------------------------------------------------------------------------


def test_a_cut_bag_is_refused(episode):
    (file,) = episode.glob("*.mcap")
    data = file.read_bytes()
    for length in (0, 4, len(data) // 2, len(data) - 4):
        file.write_bytes(data[:length])
        with pytest.raises(BagError, match=r"cut|no MCAP"):
            list(read_episode(episode))
        assert check_episode(episode) != []


def test_a_flipped_bit_in_a_message_is_noticed(episode):
    (file,) = episode.glob("*.mcap")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(BagError):
        list(read_episode(episode))


def test_checks_name_what_is_wrong(episode):
    record = json.loads((episode / "episode.json").read_text())
    (episode / "episode.json").write_text(json.dumps({**record, "saved": False}))
    assert "saved" in check_episode(episode)[0]
    counts = {"expected": 5, "on_time": 1, "late": 0, "repeated": 0, "dropped": 0}
    changed = {**record, "topics": {"/a": counts}, "outcome": "nonsense"}
    (episode / "episode.json").write_text(json.dumps(changed))
    assert "outcome" in check_episode(episode)[0]
    (episode / "episode.json").write_text(json.dumps({**changed, "outcome": "unknown"}))
    assert "add up" in check_episode(episode)[0]
    (episode / "episode.json").unlink()
    assert "missing" in check_episode(episode)[0]
    (episode / "metadata.yaml").unlink()
    assert "recover" in check_episode(episode)[1]


def test_a_miscounted_bag_is_noticed(episode):
    text = (episode / "metadata.yaml").read_text()
    (episode / "metadata.yaml").write_text(text.replace("message_count: 30", "message_count: 31"))
    assert "31" in check_episode(episode)[0]


def test_a_renamed_episode_is_noticed(episode):
    shutil.copytree(episode, episode.with_name(new_episode_id()))
    (other,) = set(episode.parent.iterdir()) - {episode}
    assert "episode_id" in check_episode(other)[0]


# ---- decoding --------------------------------------------------------------------------------


def test_fast_decoding_equals_the_typestore(content):
    for topic, raw, _ in content:
        if topic.endswith("image_raw"):
            slow, fast = messages.deserialize(raw, "sensor_msgs/msg/Image"), decode.image(raw)
            np.testing.assert_array_equal(fast.rgb, messages.read_image(slow))
            assert np.shares_memory(fast.rgb, np.frombuffer(raw, np.uint8))
        elif topic.endswith("instruction"):
            assert decode.text(raw) == messages.deserialize(raw, "std_msgs/msg/String").data
            continue
        else:
            slow, fast = (
                messages.deserialize(raw, "sensor_msgs/msg/JointState"),
                (decode.named_scalars(raw)),
            )
            assert fast.values == messages.read_named_scalars(slow)
        assert (fast.stamp_ns, fast.frame_id) == (messages.stamp_of(slow), slow.header.frame_id)
        assert decode.stamp_ns(raw) == fast.stamp_ns


@pytest.mark.parametrize("frame", ["", "a", "ab", "abc", "äöü", "episode-1234"])
@pytest.mark.parametrize("names", [[], ["x"], ["ab", "c"], ["abc", "defgh", "i"], ["", "µ"]])
def test_fast_decoding_of_all_alignments(frame, names):
    scalars = {name: float(i) - 0.5 for i, name in enumerate(names)}
    raw = messages.serialize(
        messages.named_scalars(7, frame, scalars), "sensor_msgs/msg/JointState"
    )
    assert decode.named_scalars(raw) == (7, frame, scalars)
    assert decode.named_scalars(raw) == (7, frame, scalars)  # from the cache of names
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    raw = messages.serialize(messages.image(7, frame, picture), "sensor_msgs/msg/Image")
    np.testing.assert_array_equal(decode.image(raw).rgb, picture)


def test_cut_messages_are_refused(content):
    raw = content[2][1]
    for length in (0, 3, 10, 20, len(raw) // 2):
        with pytest.raises(BagError):
            decode.named_scalars(raw[:length])
    for length in (10, 40, len(content[1][1]) - 1):
        with pytest.raises(BagError):
            decode.image(content[1][1][:length])
    with pytest.raises(BagError, match="little-endian"):
        decode.named_scalars(b"\x00\x00" + raw[2:])


# ---- bags of the real rosbag2 ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["mcap", "sqlite3", "mcap_file_zstd"])
def test_bags_of_the_real_rosbag2(golden_bags, tmp_path, name):
    # A compressed bag is unpacked beside itself by the reader: work on a copy.
    bag = tmp_path / name
    shutil.copytree(golden_bags / name, bag)
    rows = list(read_bag(bag))
    assert len(rows) == 181
    images = [r for t, _, _, r in rows if t == "/arm/camera/front/image_raw"]
    y, x = np.mgrid[:72, :96]
    for k, raw in enumerate(images):
        expected = np.stack(
            [(2 * x + 3 * k) % 256, (3 * y + 5 * k) % 256, np.full_like(x, 6 * k % 256)], axis=2
        )
        np.testing.assert_array_equal(decode.image(raw).rgb, expected)
    joints = [r for t, _, _, r in rows if t == "/arm/joint_states"]
    for k, raw in enumerate(joints):
        values = list(decode.named_scalars(raw).values.values())
        np.testing.assert_allclose(values, [0.1 * i + 0.01 * k for i in range(6)], atol=1e-12)
    (instruction,) = (decode.text(r) for t, _, _, r in rows if t == "/task/instruction")
    assert instruction == "push the red star to the blue cube"


def test_a_blue_green_red_camera_of_the_real_rosbag2(golden_bags):
    rows = [r for t, _, _, r in read_bag(golden_bags / "mcap", ["/arm/camera/wrist/image_raw"])]
    assert len(rows) == 20
    slow = messages.deserialize(rows[3], "sensor_msgs/msg/Image")
    assert slow.encoding == "bgr8"
    stored = np.asarray(slow.data).reshape(48, 64, 3)
    np.testing.assert_array_equal(decode.image(rows[3]).rgb, stored[:, :, ::-1])


# ---- schema ----------------------------------------------------------------------------------


def test_the_committed_schema_is_the_code_s():
    committed = Path(__file__).resolve().parents[2] / "docs" / "episode.schema.json"
    assert committed.read_text() == episode_schema(), (
        "run `python -m efm_core.bags.schema > docs/episode.schema.json`"
    )


def test_a_record_survives_its_file(record):
    full = record.model_copy(update={"outcome": Outcome.SUCCESS, "success_tick": 17})
    assert EpisodeRecord.model_validate_json(full.model_dump_json()) == full


def test_stamps_of_a_bag_may_go_back(tmp_path, record, table, content):
    path = write(tmp_path, record, table, content[::-1])
    assert [ns for _, _, ns, _ in read_episode(path)] == [ns for _, _, ns in content[::-1]]
    text = (path / "metadata.yaml").read_text()
    first = min(ns for _, _, ns in content)
    assert f"nanoseconds_since_epoch: {first}" in text
    assert check_episode(path) == []


def test_no_file_handle_stays_open(tmp_path, record, table, content):
    before = len(os.listdir("/proc/self/fd"))
    for _, row in zip(range(5), itertools.repeat(content), strict=False):
        one = record.model_copy(update={"episode_id": new_episode_id()})
        path = write(tmp_path, one, table, row)
        list(read_episode(path))
    assert len(os.listdir("/proc/self/fd")) == before
