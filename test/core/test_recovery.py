"""What a killed recorder leaves behind is found, saved and marked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rosbags.highlevel import AnyReader

from efm_core.bags import (
    BagError,
    EpisodeWriter,
    check_episode,
    list_episodes,
    read_episode,
    read_record,
    recover,
    recover_all,
)
from efm_core.bags.mcap_writer import CHUNK_SECONDS, McapBagWriter
from efm_core.episode import Outcome

ROOT = Path(__file__).resolve().parents[2]


def abandon(episode: EpisodeWriter) -> Path:
    """The process died: the file is closed unfinished, the lock is gone."""
    episode._bag.abort()
    episode._unlock()
    return episode.partial


@pytest.fixture
def cut(tmp_path, record, table, content) -> Path:
    """A partial episode of which all but the chunk in progress reached the file."""
    episode = EpisodeWriter(tmp_path, record, table, reserve_bytes=0)
    for row in content:
        episode.write(*row)
    return abandon(episode)


def test_a_cut_episode_is_saved_and_marked(cut, content):
    path = recover(cut)
    assert not cut.exists()
    rows = [(t, raw, ns) for t, _, ns, raw in read_episode(path)]
    assert rows == content[: len(rows)]
    assert len(content) - 15 <= len(rows) < len(content)  # one chunk of 64 KiB: five images
    record = read_record(path)
    assert (record.outcome, record.termination_reason) == (Outcome.INTERRUPTED, "crash")
    assert record.recovered
    assert record.saved
    assert record.ticks == sum(t.endswith("guard/state") for t, _, _ in rows)
    assert record.end_ns == rows[-1][2]
    assert check_episode(path) == []
    with AnyReader([path]) as reader:
        qos = {c.topic: c.ext.offered_qos_profiles[0].durability.name for c in reader.connections}
        assert qos["/robot1/instruction"] == "TRANSIENT_LOCAL"


def test_whole_messages_of_a_cut_chunk_are_saved(cut, content):
    (file,) = cut.glob("*.mcap")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - 30_000])  # in the midst of a chunk
    rows = [(t, raw, ns) for t, _, ns, raw in read_episode(recover(cut))]
    assert rows == content[: len(rows)]
    assert len(rows) > len(content) // 2


def test_damage_ends_what_is_saved(cut, content):
    (file,) = cut.glob("*.mcap")
    data = bytearray(file.read_bytes())
    data[-20_000] ^= 0xFF  # in the last chunk: its checksum no longer agrees
    file.write_bytes(data)
    rows = [(t, raw, ns) for t, _, ns, raw in read_episode(recover(cut))]
    assert rows == content[: len(rows)]
    assert 0 < len(rows) < len(content) - 10


def test_a_finished_episode_that_lacks_its_name_keeps_its_outcome(
    tmp_path, record, table, content, monkeypatch
):
    episode = EpisodeWriter(tmp_path, record, table, reserve_bytes=0)
    for row in content:
        episode.write(*row)
    monkeypatch.setattr(
        "efm_core.bags.episode_writer.publish_directory", lambda *_: (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(OSError, match=r"^$"):
        episode.finish(record.model_copy(update={"outcome": Outcome.SUCCESS}))
    path = recover(abandon(episode))
    assert (read_record(path).outcome, read_record(path).recovered) == (Outcome.SUCCESS, True)
    assert len(list(read_episode(path))) == len(content)


def test_a_living_writer_is_left_alone(tmp_path, record, table, content):
    episode = EpisodeWriter(tmp_path, record, table, reserve_bytes=0)
    episode.write(*content[0])
    assert recover_all(tmp_path) == []
    with pytest.raises(BagError, match="living process"):
        recover(episode.partial)
    assert len(list(read_episode(episode.finish(record)))) == 1


def test_what_holds_no_message_is_removed_and_told(tmp_path, record, table):
    abandon(EpisodeWriter(tmp_path, record, table, reserve_bytes=0))
    (tmp_path / "unknown.partial").mkdir()  # a writer may be about to lock it
    (tmp_path / "old.partial").mkdir()
    os.utime(tmp_path / "old.partial", (0, 0))
    results = {r.partial.name: r for r in recover_all(tmp_path)}
    assert all(r.path is None for r in results.values())
    assert "removed" in results[f"{record.episode_id}.partial"].reason
    assert "removed" in results["old.partial"].reason
    assert "left as it is" in results["unknown.partial"].reason
    assert "episode.json" in results["unknown.partial"].reason
    assert [path.name for path in tmp_path.iterdir()] == ["unknown.partial"]


def test_what_is_not_the_recorders_is_left(tmp_path, record, table):
    partial = abandon(EpisodeWriter(tmp_path, record, table, reserve_bytes=0))
    (partial / "notes.txt").write_text("mine")
    (result,) = recover_all(tmp_path)
    assert "left as it is" in result.reason
    assert (partial / "notes.txt").read_text() == "mine"


def test_an_episode_that_is_renamed_meanwhile_is_passed_over(
    tmp_path, record, table, content, monkeypatch
):
    episode = EpisodeWriter(tmp_path, record, table, reserve_bytes=0)
    episode.write(*content[0])
    names = sorted(tmp_path.glob("*.partial"))
    episode.finish(record)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(names))  # listed before the rename
    assert recover_all(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        recover(names[0])


def test_recovery_can_be_cut_too(cut, content, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(
            McapBagWriter, "close", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
        )
        with pytest.raises(OSError, match="disk full"):
            recover(cut)
    rows = list(read_episode(recover(cut)))
    assert len(rows) > len(content) // 2
    assert sorted(p.name for p in list_episodes(cut.parent)[0].iterdir()) == [
        "episode.json", "episode_0.mcap", "metadata.yaml",
    ]  # fmt: skip


_RECORDER = """
import sys, time
from pathlib import Path
from efm_core import messages
from efm_core.bags import EpisodeWriter
from efm_core.episode import EpisodeRecord
record = EpisodeRecord.model_validate_json(sys.argv[2])
kind = "sensor_msgs/msg/JointState"
writer = EpisodeWriter(Path(sys.argv[1]), record, {"/robot1/joint_states": (kind, "reliable")}, 0)
for k in range(1_000_000):
    raw = messages.serialize(messages.named_scalars(k, "", {"j": float(k)}), kind)
    writer.write("/robot1/joint_states", raw, k)
    print(k, flush=True)
    time.sleep(0.005)
"""


def test_sigkill_costs_less_than_a_quarter_of_a_second(tmp_path, record):
    process = subprocess.Popen(
        [sys.executable, "-c", _RECORDER, str(tmp_path), record.model_dump_json()],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    sent = -1
    while sent < 150:
        sent = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].split()
    sent = int(rest[-1]) if rest else sent
    (result,) = recover_all(tmp_path)
    # slow messages are flushed by time: at 5 ms each, those of CHUNK_SECONDS may be lost
    assert sent + 1 - result.messages <= CHUNK_SECONDS / 0.005 + 2
    assert read_record(result.path).outcome is Outcome.INTERRUPTED
