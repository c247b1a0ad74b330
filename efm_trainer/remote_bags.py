"""Episodes in object storage or anywhere else that fsspec reaches: s3://, gs://, abfs://, ...

A remote episode is copied to this machine to be read, by the code that reads local ones, and the
copy deleted; with a cache that happens once. Listing costs one request and the records.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efm_core.bags import BagError, list_episodes
from efm_core.camera_intake import Frame
from efm_core.episode import EpisodeRecord
from efm_trainer.data import EpisodeRefusedError, learnable_record, load_episode
from efm_trainer.episode_data import EpisodeData
from efm_trainer.stored_pictures import Pictures, decoded

RECORD = "episode.json"


@dataclass(frozen=True, slots=True)
class RemoteEpisode:
    """One finished episode elsewhere.

    url: of its folder. record: the bytes of its episode.json. files: name, bytes and a hash of
    what the storage says of each bag file (with object storage that holds its ETag).
    """

    url: str
    record: bytes = field(repr=False)
    files: tuple[tuple[str, int, str], ...]

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.url.rsplit("/", 1)[1]

    @contextmanager
    def local(self, whole: bool = True) -> Iterator[Path]:
        """A folder here that holds it, or (`whole` False) its record alone; deleted at the end.

        Errors about the copy name the url. Raises BagError where it cannot be fetched.
        """
        with tempfile.TemporaryDirectory(prefix="efm-remote-") as name:
            path = Path(name) / self.name
            path.mkdir()
            (path / RECORD).write_bytes(self.record)
            if whole:
                self._fetch(path)
            try:
                yield path
            except BagError as error:
                raise BagError(str(error).replace(str(path), self.url)) from error
            except EpisodeRefusedError as error:
                raise EpisodeRefusedError(str(error).replace(str(path), self.url)) from error

    def _fetch(self, path: Path) -> None:
        storage, folder = _open(self.url)
        for file, size, _ in self.files:
            try:
                storage.get_file(f"{folder}/{file}", str(path / file))
            except OSError as error:
                raise BagError(f"{self.url}/{file} cannot be fetched: {error}") from error
            if (path / file).stat().st_size != size:
                raise BagError(
                    f"{self.url}/{file} came with {(path / file).stat().st_size} bytes, listed "
                    f"were {size}; it changed meanwhile, start again"
                )


Source = Path | RemoteEpisode
"""Where an episode is."""


def is_url(data_set: Path | str) -> bool:
    """Whether this names storage that is not a local folder."""
    return isinstance(data_set, str) and "://" in data_set


def sources(data_set: Path | str) -> Sequence[Source]:
    """Finished episodes directly below a folder or url, by start stamp, then name.

    Raises ValueError where fsspec or the package of this kind of storage is not installed,
    BagError for storage that does not answer.
    """
    if not is_url(data_set):
        return list_episodes(Path(data_set))
    url = str(data_set).rstrip("/")
    storage, root = _open(url)
    try:
        found = storage.find(root, maxdepth=2, detail=True)
        records = [name for name in found if name.endswith(f"/{RECORD}")]
        contents = storage.cat(records) if records else {}
    except OSError as error:
        raise BagError(f"{url} cannot be listed: {error}; check address and access") from error
    episodes = []
    for record in records:
        folder = record.removesuffix(f"/{RECORD}")
        if folder.endswith(".partial") or folder.rstrip("/") == root.rstrip("/"):
            continue
        files = tuple(
            (name.rsplit("/", 1)[1], int(facts["size"]), _version(facts))
            for name, facts in sorted(found.items())
            if name.startswith(f"{folder}/") and name.endswith(".mcap")
        )
        where = f"{url}/{folder.rsplit('/', 1)[1]}"
        episodes.append(RemoteEpisode(where, bytes(contents[record]), files))
    return sorted(episodes, key=lambda episode: (_start(episode.record), episode.name))


def record_of(source: Source) -> EpisodeRecord:
    """As `efm_trainer.data.learnable_record`, of an episode anywhere."""
    if isinstance(source, Path):
        return learnable_record(source)
    with source.local(whole=False) as path:
        return learnable_record(path)


def load_from(
    source: Source,
    cameras: Sequence[str] = ("front",),
    join: Callable[[Sequence[Frame]], Pictures] = decoded,
) -> EpisodeData:
    """As `efm_trainer.data.load_episode`, of an episode anywhere."""
    if isinstance(source, Path):
        return load_episode(source, cameras, join)
    with source.local() as path:
        return load_episode(path, cameras, join)


def _open(url: str) -> tuple[Any, str]:
    """(file system, path in it)."""
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(f"{url} needs fsspec; pip install 'efm_bringup[remote]'") from error
    try:
        storage, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{url} cannot be opened: {error}; install fsspec's package for it (s3fs, gcsfs, adlfs)"
        ) from error
    return storage, str(path)


def _version(facts: dict[str, Any]) -> str:
    text = repr([(name, facts[name]) for name in sorted(facts)])
    return hashlib.sha256(text.encode()).hexdigest()


def _start(record: bytes) -> int:
    """As `list_episodes` sorts: what cannot be read first."""
    try:
        start = json.loads(record).get("start_ns", 0)
    except (ValueError, AttributeError):
        return -1
    return start if isinstance(start, int) else -1
