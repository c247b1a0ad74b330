"""Episodes read once: a cache on disk of what `load_episode` gives, keyed by content.

The key is a SHA-256 of the episode's bag files, its record without truth, the cameras asked for
and the software that reads: whatever of these changes, the entry is made anew. Of bag files whose
names, sizes and times are those of last time the hash is remembered. Entries are rebuilt where
they are damaged; a bag that cannot be read is skipped with its reason each time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import time
import uuid
from collections.abc import Collection, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from functools import cache
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import efm_core
from efm_core.episode import EpisodeRecord
from efm_trainer import data
from efm_trainer.cache_entry import read_entry, write_entry
from efm_trainer.data import SkippedEpisode
from efm_trainer.episode_data import EpisodeData
from efm_trainer.remote_bags import RemoteEpisode, Source, load_from, record_of
from efm_trainer.stored_pictures import CacheDamagedError, StoredPictures, as_recorded

if TYPE_CHECKING:
    from efm_trainer.distributed import World

_log = logging.getLogger(__name__)
LIMIT_BYTES = 200 * 10**9
"""What the cache may take of the disk; the entries that were not used for longest go first."""
_FEW = 64
"""Below this many missing entries other processes take longer to start than to help."""
_SETTLED_NS = 2 * 10**9
"""A file changed less than this ago may change again within one tick of its time stamp."""
_ABANDONED_S = 3600.0
_SUFFIX = ".safetensors"


class EpisodeCache:
    """Reads episodes as `efm_trainer.data` does, equal bit for bit, through a folder of entries."""

    def __init__(
        self, directory: Path, limit_bytes: int = LIMIT_BYTES, workers: int | None = None
    ) -> None:
        """workers: processes that make missing entries; None: as many as cores may be used."""
        self.directory, self._limit = directory, limit_bytes
        self._workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self._warned = False

    def load_episode(self, source: Source, cameras: Sequence[str] = ("front",)) -> EpisodeData:
        """As `efm_trainer.data.load_episode`, pictures on disk; raises what that raises."""
        record = record_of(source)
        if isinstance(source, Path) or self._remembered(source):
            return self._load(source, source, record, cameras)
        with source.local() as copy:  # fetched once, to be hashed and to be read
            return self._load(source, copy, record, cameras)

    def _load(
        self, source: Source, copy: Source, record: EpisodeRecord, cameras: Sequence[str]
    ) -> EpisodeData:
        entry = self._entry(source, copy, record, cameras)

        def mend() -> None:
            if self._entry(source, source, record, cameras) != entry:
                raise CacheDamagedError(
                    f"cache entry {entry} is damaged and {source} has changed since it was made; "
                    "start the training again"
                )
            write_entry(entry, load_from(source, cameras, as_recorded))

        try:
            found = read_entry(entry, record, mend)
            os.utime(entry)  # used now
            return found
        except FileNotFoundError:
            pass
        except CacheDamagedError as damage:
            _log.warning("%s; it is made anew from %s", damage, source)
        episode = load_from(copy, cameras, as_recorded)
        try:
            write_entry(entry, episode)
            return read_entry(entry, record, mend)
        except OSError as error:
            self._complain(error)
            return episode

    def load_episodes(
        self,
        paths: Sequence[Source],
        cameras: Sequence[str] = ("front",),
        world: World | None = None,
    ) -> tuple[list[EpisodeData], list[SkippedEpisode]]:
        """As `efm_trainer.data.load_episodes`; missing entries are made by several processes.

        world: each of its processes on this machine makes its share of them.
        """
        rank, size = (world.local_rank, world.local_size) if world else (0, 1)
        self._fill(paths[rank::size], cameras, max(self._workers // size, 1), alone=size == 1)
        if world:
            world.barrier()
        episodes, skipped = data.load_episodes(paths, cameras, self.load_episode)
        pictures = [images for episode in episodes for images in episode.images.values()]
        self._trim({found.path for found in pictures if isinstance(found, StoredPictures)})
        return episodes, skipped

    def clear(self) -> int:
        """Delete all entries; how many bytes they took."""
        taken = sum(file.stat().st_size for file in self._files())
        for folder in (self._entries, self._known):
            shutil.rmtree(folder, ignore_errors=True)
        return taken

    def size(self) -> tuple[int, int]:
        """Number of entries and their bytes."""
        sizes = [file.stat().st_size for file in self._files()]
        return len(sizes), sum(sizes)

    @property
    def _entries(self) -> Path:
        return self.directory / "entries"

    @property
    def _known(self) -> Path:
        return self.directory / "known"

    def _files(self) -> list[Path]:
        return list(self._entries.glob(f"*{_SUFFIX}"))

    def _entry(
        self, source: Source, copy: Source, record: EpisodeRecord, cameras: Sequence[str]
    ) -> Path:
        """copy: where to read `source`, should its contents not be known yet."""
        content = self._remembered(source) or self._content(source, copy)
        parts = (_software(), content, record.model_dump_json(), *cameras)
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self._entries / f"{key}{_SUFFIX}"

    def _file_of(self, source: Source) -> Path:
        where = str(source.resolve() if isinstance(source, Path) else source)
        return self._known / f"{hashlib.sha256(where.encode()).hexdigest()}.json"

    def _remembered(self, source: Source) -> str | None:
        """The hash of the bag, if its files are those of last time."""
        try:
            remembered = json.loads(self._file_of(source).read_bytes())
            if remembered["files"] == _signature(source):
                return str(remembered["content"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not known yet, or half written
        return None

    def _content(self, source: Source, copy: Source) -> str:
        """SHA-256 of the bag's files."""
        if isinstance(copy, RemoteEpisode):
            with copy.local() as path:
                return self._content(source, path)
        seen = _signature(source)
        digest = hashlib.sha256()
        for file in sorted(copy.glob("*.mcap")):
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
            digest.update(f"|{file.name}|".encode())
        if _settled(source) and _signature(source) == seen:
            facts = {"files": seen, "content": digest.hexdigest()}
            self._remember(self._file_of(source), facts)
        return digest.hexdigest()

    def _remember(self, known: Path, facts: object) -> None:
        partial = known.with_suffix(f".{uuid.uuid4().hex}.partial")
        try:
            known.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(facts))
            os.replace(partial, known)
        except OSError as error:
            self._complain(error)

    def _fill(
        self, paths: Sequence[Source], cameras: Sequence[str], workers: int, alone: bool
    ) -> None:
        """Make missing entries beforehand, where it saves time; errors come up in loading."""
        if len(paths) < _FEW or (alone and workers == 1):
            return
        missing = [path for path in paths if not self._has(path, cameras)]
        work = [(self.directory, path, tuple(cameras)) for path in missing]
        if missing:
            _log.info("reading %d episodes into %s", len(missing), self.directory)
        if workers == 1 or len(missing) < _FEW:
            for one in work:
                _fill_one(one)
            return
        try:  # not forked: this process may have threads
            with ProcessPoolExecutor(workers, get_context("spawn"), _leave_interrupts) as pool:
                for _ in pool.map(_fill_one, work, chunksize=8):
                    pass
        except BrokenExecutor as error:
            _log.warning("a process that read episodes ended (%s); reading them in this one", error)

    def _has(self, source: Source, cameras: Sequence[str]) -> bool:
        try:
            record = record_of(source)
            if isinstance(source, RemoteEpisode) and not self._remembered(source):
                return False
            return self._entry(source, source, record, cameras).exists()
        except (ValueError, OSError):
            return True  # nothing to be made; loading it says why

    def _trim(self, keep: Collection[Path]) -> None:
        """Delete what was not used for longest, beyond the limit, and what was never finished."""
        for file in self._entries.glob("*.partial"):
            if time.time() - file.stat().st_mtime > _ABANDONED_S:
                file.unlink(missing_ok=True)
        files = [(file.stat(), file) for file in self._files()]
        taken = sum(found.st_size for found, _ in files)
        for found, file in sorted(files, key=lambda pair: pair[0].st_mtime_ns):
            if taken <= self._limit:
                return
            if file not in keep:
                file.unlink(missing_ok=True)
                taken -= found.st_size

    def _complain(self, error: OSError) -> None:
        if not self._warned:
            _log.warning(
                "episodes are read without a cache: %s cannot be written (%s); free space there "
                "(`efm bags cache --clear`) or set EFM_CACHE to another folder",
                self.directory, error,
            )  # fmt: skip
        self._warned = True


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides


def _fill_one(work: tuple[Path, Source, tuple[str, ...]]) -> None:
    directory, source, cameras = work
    try:
        EpisodeCache(directory, workers=1).load_episode(source, cameras)
    except (ValueError, OSError, EOFError) as error:
        _log.debug("%s: %s", source, error)  # told when it is loaded


def _signature(source: Source) -> list[list[Any]]:
    """Name, bytes, time of change of the contents and of the file (ns) of each bag file."""
    if isinstance(source, RemoteEpisode):
        return [list(file) for file in source.files]
    found = [(file.name, file.stat()) for file in sorted(source.glob("*.mcap"))]
    return [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in found]


def _settled(source: Source) -> bool:
    """Whether a later change of the files would show in `_signature`."""
    if isinstance(source, RemoteEpisode):
        return True
    before = time.time_ns() - _SETTLED_NS
    return all(max(changed) < before for _, _, *changed in _signature(source))


@cache
def _software() -> str:
    """SHA-256 of the code that turns bags into entries: another version reads them anew."""
    core, trainer = Path(efm_core.__file__).parent, Path(data.__file__).parent
    own = ("alignment", "cache_entry", "data", "episode_data", "pictures", "stored_pictures")
    digest = hashlib.sha256()
    for file in (*sorted(core.rglob("*.py")), *(trainer / f"{name}.py" for name in own)):
        digest.update(file.read_bytes())
    for name in ("numpy", "rosbags", "opencv-python", "opencv-python-headless"):
        try:
            digest.update(f"{name}{metadata.version(name)}".encode())
        except metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()
