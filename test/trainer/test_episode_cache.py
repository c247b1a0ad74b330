from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from trainer.test_data import assert_same
from trainer.toy import GUARD, SPACE, ToyBrain, ToyPerson, ToyRobot, toy_model, toy_plan

from efm_core import messages
from efm_core.bags import EpisodeWriter, list_episodes
from efm_core.episode import EpisodeRecord, Mode, new_episode_id
from efm_core.registry import Registry
from efm_trainer import episode_cache
from efm_trainer.data import load_episode, load_episodes
from efm_trainer.distributed import World
from efm_trainer.episode_cache import EpisodeCache
from efm_trainer.rollout import InProcessFleet
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_run import run_sft
from efm_trainer.stored_pictures import CacheDamagedError, StoredPictures, picture_digest

QUICK = SftConfig(steps=20, batch=16, validate_every=10, validation_share=0.3)
BEGIN = 1_700_000_000_000_000_000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    robots = InProcessFleet([ToyRobot(), ToyRobot()], GUARD, data_dir=root)
    plan = toy_plan(Mode.DEMO, 12, policy_version="", reward_version="")
    robots.demonstrate(plan, lambda _: ToyPerson())
    robots.practise(toy_plan(Mode.PRACTICE, 3), ToyBrain(toy_model(1), toy_model(2)))
    for path in root.glob("*/*/*.mcap"):
        _age(path)
    return root


@pytest.fixture
def one(recorded, tmp_path) -> Path:
    """A copy of one practised episode."""
    source = list_episodes(recorded / "practice")[0]
    return Path(shutil.copytree(source, tmp_path / "one" / source.name))


@pytest.fixture
def cache(tmp_path) -> EpisodeCache:
    return EpisodeCache(tmp_path / "cache", workers=1)


def _age(path: Path) -> None:
    """As if written a minute ago."""
    then = path.stat().st_mtime - 60
    os.utime(path, (then, then))


def entries(cache: EpisodeCache) -> list[Path]:
    return sorted((cache.directory / "entries").iterdir())


def unread(monkeypatch) -> None:
    """From now on no bag may be read."""

    def refuse(*_):
        raise AssertionError("a bag was read")

    monkeypatch.setattr(episode_cache, "load_from", refuse)


def camera_episode(root: Path, encoding: str, count: int = 5) -> Path:
    """A demonstration with a compressed camera; pictures that compress badly."""
    record = EpisodeRecord(
        episode_id=new_episode_id(), mode=Mode.DEMO, robot="toy", instruction="go", rate=10.0,
        transport="dds", clock="lockstep", ticks=count, start_ns=BEGIN,
        action_space=SPACE.model_dump(mode="json"),
    )  # fmt: skip
    kind = "sensor_msgs/msg/CompressedImage"
    topic = "/toy/camera/front/image_raw/compressed"
    writer = EpisodeWriter(root, record, {topic: (kind, "sensor_data")})
    random = np.random.default_rng(0)
    for k in range(count):
        picture = random.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        data = cv2.imencode(f".{encoding}", picture)[1].reshape(-1)
        ns = BEGIN + k * 100_000_000
        message = messages.compressed_image(ns, "front", "jpeg", data.tobytes())
        writer.write(topic, messages.serialize(message, kind), ns)
    return writer.finish(record)


def test_it_gives_what_the_bag_gives_and_reads_the_bag_once(recorded, cache, monkeypatch):
    paths = list_episodes(recorded / "demo") + list_episodes(recorded / "practice")
    wanted, _ = load_episodes(paths)
    first, skipped = cache.load_episodes(paths)
    assert not skipped
    unread(monkeypatch)
    second, _ = EpisodeCache(cache.directory, workers=1).load_episodes(paths)
    for straight, made, found in zip(wanted, first, second, strict=True):
        assert_same(made, straight)
        assert_same(found, straight)
        assert isinstance(found.images["front"], StoredPictures)
        assert picture_digest(found.images["front"]) == picture_digest(straight.images["front"])


@pytest.mark.parametrize("encoding", ["jpg", "png"])
def test_compressed_pictures_stay_compressed_and_decode_alike(tmp_path, cache, encoding):
    path = camera_episode(tmp_path / "data", encoding)
    straight = load_episode(path)
    found = cache.load_episode(path)
    assert_same(found, straight)
    assert picture_digest(found.images["front"]) == picture_digest(straight.images["front"])
    np.testing.assert_array_equal(found.images["front"][-1], straight.images["front"][-1])
    with pytest.raises(IndexError):
        found.images["front"][5]
    (entry,) = entries(cache)
    if encoding == "jpg":
        assert entry.stat().st_size < straight.images["front"].nbytes + 4096


def test_fine_tuning_is_the_same_bit_for_bit(recorded, cache, tmp_path):
    files = []
    for number, kept in enumerate((None, cache, cache)):
        registry = Registry(tmp_path / str(number))
        found = run_sft(
            registry, recorded / "demo", lambda _: toy_model(), QUICK,
            tmp_path / f"run{number}", cache=kept,
        )  # fmt: skip
        files.append([
            (registry.path(v) / "model.safetensors").read_bytes()
            for v in (found.policy, found.reward)
        ])
    assert files[0] == files[1] == files[2]


def test_a_cache_in_use_fine_tunes_from_the_bags_of_before(recorded, cache, tmp_path):
    """A run that began without a cache is taken up with one: the fingerprints agree."""
    run = tmp_path / "run"
    registry = Registry(tmp_path / "models")
    make = lambda _: toy_model()  # noqa: E731
    first = run_sft(registry, recorded / "demo", make, QUICK, run)
    again = run_sft(registry, recorded / "demo", make, QUICK, run, cache=cache)
    assert again.result.state.fingerprint == first.result.state.fingerprint


def test_no_truth_is_in_an_entry(recorded, cache):
    path = list_episodes(recorded / "practice")[0]
    cache.load_episode(path)
    (entry,) = entries(cache)
    data = entry.read_bytes()
    assert b"truth" not in data
    assert b"distance" not in data  # a name of the toy's truth


def test_truth_alone_makes_no_other_record_but_labels_do(one, cache):
    assert cache.load_episode(one).record.labels.truth is None
    file = one / "episode.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "labels": {"truth": not record["labels"]["truth"]}}))
    cache.load_episode(one)
    assert len(entries(cache)) == 1
    labelled = {"operator": True, "operator_source": "person"}
    file.write_text(json.dumps({**record, "labels": labelled}))
    assert cache.load_episode(one).record.labels.operator is True


def test_a_changed_bag_is_read_anew_even_at_the_same_size_and_time(one, cache):
    (bag,) = one.glob("*.mcap")
    _age(bag)
    cache.load_episode(one)
    before = bag.stat()
    data = bytearray(bag.read_bytes())
    at = data.index(b"\xff\xff\xff")  # the white dot of a picture; the chunk's checksum is wrong
    data[at] = 0
    bag.write_bytes(data)
    os.utime(bag, ns=(before.st_atime_ns, before.st_mtime_ns))
    episodes, skipped = cache.load_episodes([one])
    assert not episodes
    assert "does not match its checksum" in skipped[0].reason


def test_the_hash_of_an_unchanged_bag_is_remembered(one, cache, monkeypatch):
    (bag,) = one.glob("*.mcap")
    _age(bag)
    monkeypatch.setattr(episode_cache, "_SETTLED_NS", -(10**18))  # its inode was changed just now
    cache.load_episode(one)
    bag_open = Path.open

    def refuse(path, *args, **kwargs):
        assert path.suffix != ".mcap", "the bag was hashed again"
        return bag_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    cache.load_episode(one)


def test_the_hash_of_a_bag_just_written_is_not_trusted(one, cache):
    (bag,) = one.glob("*.mcap")
    bag.touch()
    cache.load_episode(one)
    assert not list((cache.directory / "known").glob("*.json"))


def test_a_moved_data_set_finds_its_entries(one, cache, monkeypatch):
    cache.load_episode(one)
    moved = one.parent.parent / "elsewhere" / one.name
    shutil.copytree(one, moved)
    unread(monkeypatch)
    cache.load_episode(moved)


@pytest.mark.parametrize("harm", ["cut", "empty", "flipped table", "flipped header"])
def test_a_damaged_entry_is_rebuilt_with_a_warning(one, cache, caplog, harm):
    wanted = load_episode(one)
    cache.load_episode(one)
    (entry,) = entries(cache)
    data = bytearray(entry.read_bytes())
    if harm == "flipped table":
        start = 8 + int.from_bytes(data[:8], "little")  # tables of 8 bytes come first
        data[start] ^= 1
    elif harm == "flipped header":
        data[data.index(b"end_row") + 10] ^= 1
    size = {"cut": len(data) // 2, "empty": 0}.get(harm, len(data))
    entry.unlink()  # a new file: the old one may still be mapped
    entry.write_bytes(data[:size])
    with caplog.at_level(logging.WARNING):
        assert_same(cache.load_episode(one), wanted)
    assert "made anew" in caplog.text


def test_a_damaged_picture_is_rebuilt_when_it_is_looked_at(one, cache, caplog):
    wanted = load_episode(one).images["front"]
    found = cache.load_episode(one).images["front"]
    with found.path.open("r+b") as file:
        file.seek(-wanted.nbytes // 2, os.SEEK_END)  # pictures come last
        file.write(b"\x55" * 64)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(np.asarray(found), wanted)
    assert "does not match its checksum" in caplog.text
    assert "made anew" in caplog.text


def test_a_damaged_picture_of_a_changed_bag_is_an_error(one, cache):
    found = cache.load_episode(one).images["front"]
    with found.path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\x55" * 100)
    (bag,) = one.glob("*.mcap")
    bag.write_bytes(bag.read_bytes() + b"more")
    with pytest.raises(CacheDamagedError, match="has changed since it was made"):
        np.asarray(found)


def test_an_entry_deleted_in_use_is_rebuilt(one, cache):
    found = cache.load_episode(one).images["front"]
    cache.clear()
    np.testing.assert_array_equal(np.asarray(found), load_episode(one).images["front"])


def test_an_unfinished_entry_is_not_used_and_is_cleared_away(one, cache):
    cache.load_episode(one)
    (entry,) = entries(cache)
    partial = entry.with_suffix(".123.partial")
    entry.rename(partial)
    os.utime(partial, (0, 0))
    assert cache.load_episodes([one])[0]
    assert entries(cache) == [entry]


def test_what_cannot_be_read_is_skipped_each_time_with_its_reason(recorded, cache, one):
    (bag,) = one.glob("*.mcap")
    bag.write_bytes(bag.read_bytes()[:-200])
    paths = [one, *list_episodes(recorded / "demo")]
    straight = load_episodes(paths)
    for _ in range(2):
        episodes, skipped = cache.load_episodes(paths)
        assert skipped == straight[1]
        assert len(episodes) == len(straight[0]) == 12


def test_several_processes_make_the_same_entries(recorded, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(episode_cache, "_FEW", 3)
    paths = list_episodes(recorded / "demo")
    side_by_side = EpisodeCache(tmp_path / "parallel", workers=2)
    side_by_side.load_episodes(paths)
    cache.load_episodes(paths)
    assert [p.name for p in entries(side_by_side)] == [p.name for p in entries(cache)]
    assert [p.read_bytes() for p in entries(side_by_side)] == [
        p.read_bytes() for p in entries(cache)
    ]
    unread(monkeypatch)
    side_by_side.load_episodes(paths)


def test_a_rank_makes_its_share_and_waits_for_the_others(recorded, cache, monkeypatch):
    monkeypatch.setattr(episode_cache, "_FEW", 3)
    made = []

    class Second(World):
        rank = local_rank = 1
        size = local_size = 2

        def barrier(self) -> None:
            made.extend(entries(cache))

    paths = list_episodes(recorded / "demo")
    episodes, _ = cache.load_episodes(paths, world=Second())
    theirs = {episode.images["front"].path for episode in episodes[1::2]}
    assert set(made) == theirs
    assert len(entries(cache)) == len(paths) == 12


def test_the_limit_takes_the_oldest_and_never_what_is_in_use(recorded, tmp_path):
    demo, practice = (list_episodes(recorded / name) for name in ("demo", "practice"))
    EpisodeCache(tmp_path / "cache").load_episodes(demo)
    small = EpisodeCache(tmp_path / "cache", limit_bytes=1)
    small.load_episodes(practice)
    assert small.size()[0] == len(practice)
    assert small.clear() > 0
    assert small.size() == (0, 0)


def test_without_a_place_to_write_the_bags_are_read(one, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    blocked = EpisodeCache(tmp_path / "file" / "cache")
    with caplog.at_level(logging.WARNING):
        assert_same(blocked.load_episode(one), load_episode(one))
    assert "set EFM_CACHE" in caplog.text
