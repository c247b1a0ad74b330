from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pytest
from trainer.test_data import assert_same
from trainer.test_episode_cache import entries, unread
from trainer.toy import GUARD, ToyPerson, ToyRobot, toy_model, toy_plan

from efm_core.bags import BagError, list_episodes
from efm_core.episode import Mode
from efm_core.registry import Registry
from efm_trainer import remote_bags
from efm_trainer.data import load_episode, load_episodes
from efm_trainer.episode_cache import EpisodeCache
from efm_trainer.remote_bags import RemoteEpisode, load_from, sources
from efm_trainer.rollout import InProcessFleet
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_run import run_sft

fsspec = pytest.importorskip("fsspec", reason="pip install 'efm_bringup[remote]'")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    robots = InProcessFleet([ToyRobot(), ToyRobot()], GUARD, data_dir=root)
    plan = toy_plan(Mode.DEMO, 12, policy_version="", reward_version="")
    robots.demonstrate(plan, lambda _: ToyPerson())
    return root / "demo"


@pytest.fixture
def there(here) -> str:
    """The same data set in fsspec's storage in memory."""
    url = f"memory://{uuid.uuid4().hex}/demo"
    fsspec.filesystem("memory").put(str(here), url, recursive=True)
    return url


def test_bags_elsewhere_are_those_here_in_the_same_order(here, there):
    found = sources(there)
    assert [str(source) for source in found] == [
        f"{there}/{path.name}" for path in list_episodes(here)
    ]
    for source, path in zip(found, list_episodes(here), strict=True):
        assert_same(load_from(source), load_episode(path))


def test_with_a_cache_each_is_fetched_once_and_its_entry_is_that_of_the_local_bag(
    here, there, tmp_path, monkeypatch
):
    cache = EpisodeCache(tmp_path / "cache", workers=1)
    fetched = []
    fetch = RemoteEpisode._fetch
    monkeypatch.setattr(
        RemoteEpisode, "_fetch", lambda self, path: (fetched.append(self.url), fetch(self, path))
    )
    episodes, skipped = cache.load_episodes(sources(there))
    assert not skipped
    assert sorted(fetched) == sorted(map(str, sources(there)))
    again, _ = cache.load_episodes(sources(there))
    assert len(fetched) == 12
    for one, other, path in zip(episodes, again, list_episodes(here), strict=True):
        assert_same(one, other)
        assert_same(one, load_episode(path))
    assert len(entries(cache)) == 12
    unread(monkeypatch)
    cache.load_episodes(list_episodes(here))


def test_a_changed_bag_elsewhere_is_fetched_anew(there, tmp_path):
    cache = EpisodeCache(tmp_path / "cache", workers=1)
    first = sources(there)[0]
    cache.load_episode(first)
    storage = fsspec.filesystem("memory")
    bag = f"{first}/{first.files[0][0]}"
    storage.pipe(bag, storage.cat(bag)[:-100])
    episodes, skipped = cache.load_episodes(sources(there)[:1])
    assert not episodes
    assert str(first) in skipped[0].reason
    assert "efm-remote-" not in skipped[0].reason


def test_fine_tuning_reads_a_url(here, there, tmp_path):
    config = SftConfig(steps=10, batch=16, validate_every=10, validation_share=0.3)
    files = []
    for number, data_set in enumerate((here, there)):
        registry = Registry(tmp_path / str(number))
        found = run_sft(registry, data_set, lambda _: toy_model(), config, tmp_path / f"r{number}")
        files.append((registry.path(found.policy) / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_folder_by_url_is_read_too(here, tmp_path):
    copy = shutil.copytree(here, tmp_path / "demo")
    found, skipped = load_episodes(sources(f"file://{copy}"), load=load_from)
    assert (len(found), skipped) == (12, [])


def test_what_is_wrong_with_an_address_is_said(there, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="nosuch://x cannot be opened"):
        sources("nosuch://x")
    assert sources(f"file://{tmp_path}/nothing") == []
    (source, *_) = sources(there)
    fsspec.filesystem("memory").rm(str(source), recursive=True)
    with pytest.raises(BagError, match="cannot be fetched"):
        load_from(source)
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(ValueError, match=r"efm_bringup\[remote\]"):
        remote_bags.sources(there)
