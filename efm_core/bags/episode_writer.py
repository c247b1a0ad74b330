"""One episode, written so that it is either whole and acknowledged, or found and recovered."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections import Counter
from pathlib import Path

from efm_core.bags.errors import BagError, DiskFullError
from efm_core.bags.mcap_stream import stream_messages
from efm_core.bags.mcap_writer import McapBagWriter
from efm_core.bags.writer import BagWriter, TopicTable
from efm_core.episode import EpisodeRecord

PARTIAL = ".partial"
RECORD_NAME = "episode.json"
RESERVE_BYTES = 256 * 1024 * 1024

_log = logging.getLogger(__name__)


class EpisodeWriter:
    """Writes `<data_dir>/<episode id>/`, under the name `<episode id>.partial` until finished.

    topics: absolute name -> (type, quality of service). reserve_bytes: free space below which
    nothing new starts. The partial directory is locked while the writer lives, so that a recovery
    scan of another process leaves it alone.

    Raises DiskFullError below the reserve and FileExistsError for an episode id already there.
    """

    def __init__(
        self,
        data_dir: Path,
        record: EpisodeRecord,
        topics: TopicTable,
        reserve_bytes: int = RESERVE_BYTES,
        writer: BagWriter | None = None,
    ) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(data_dir).free
        if free < reserve_bytes:
            raise DiskFullError(
                f"{data_dir} has {free / 1e6:.0f} MB left, below the reserve of "
                f"{reserve_bytes / 1e6:.0f} MB; make room before recording goes on"
            )
        self.path = data_dir / record.episode_id
        self.partial = data_dir / (record.episode_id + PARTIAL)
        if self.path.exists() or self.partial.exists():
            raise FileExistsError(f"episode {record.episode_id} is already in {data_dir}")
        self._record = record
        self._bag = writer if writer is not None else McapBagWriter()
        self._bag.open(self.partial, topics)
        self._counts: Counter[str] = Counter()
        self._lock: int | None = lock_directory(self.partial, wait=True)
        write_record(self.partial, record)

    def write(self, topic: str, data: bytes, log_ns: int, sent_ns: int = 0) -> None:
        """Append one message: absolute topic, CDR bytes, log time and time of sending in ns.

        sent_ns 0: unknown, the log time stands in for it.

        Raises KeyError for an undeclared topic and OSError when the disk refuses it.
        """
        self._bag.write(topic, data, log_ns, sent_ns)
        self._counts[topic] += 1

    def finish(self, record: EpisodeRecord | None = None) -> Path:
        """Finish, reopen and count, fsync, rename: only when this returns is the episode saved.

        Writes `record` (the one given at the start where None) with saved=True. Raises BagError
        when what is on disk is not what was written, OSError from the disk; the partial directory
        then stays for `discard` or for recovery.
        """
        record = (record or self._record).model_copy(update={"saved": True})
        self._bag.close()
        found = count_messages(self.partial)
        if found != self._counts:
            raise BagError(
                f"{self.partial}: {found.total()} of {self._counts.total()} messages can be read "
                "back; the disk may be full or failing"
            )
        write_record(self.partial, record)
        publish_directory(self.partial, self.path)
        self._unlock()
        return self.path

    def discard(self) -> None:
        """Drop the episode; nothing of it stays."""
        self._bag.abort()
        self._unlock()
        shutil.rmtree(self.partial, ignore_errors=True)
        if self.partial.exists():
            _log.warning("%s could not be removed whole", self.partial)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def write_record(folder: Path, record: EpisodeRecord) -> None:
    """Write `episode.json`: whole or not at all, whenever the process is killed."""
    temporary = folder / (RECORD_NAME + ".tmp")
    temporary.write_text(record.model_dump_json(indent=1))
    temporary.replace(folder / RECORD_NAME)


def lock_directory(path: Path, wait: bool = False) -> int | None:
    """An exclusive lock on a directory that ends with the process; None when another holds it.

    wait: wait for it instead (a recovery scan may look at a new directory for an instant). The
    caller closes the returned file descriptor. Raises FileNotFoundError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def count_messages(path: Path) -> Counter[str]:
    """Messages by topic in a bag directory's MCAP files, read whole. Raises BagError."""
    counts: Counter[str] = Counter()
    for file in sorted(path.glob("*.mcap")):
        counts.update(message[0] for message in stream_messages(file))
    return counts


def publish_directory(partial: Path, final: Path) -> None:
    """Every file of `partial` on the disk, then the new name on the disk."""
    for file in partial.iterdir():
        _fsync(file)
    _fsync(partial)
    partial.rename(final)
    _fsync(final.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
