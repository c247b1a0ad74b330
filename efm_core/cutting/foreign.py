"""Anybody's rosbag2 recording, read only: MCAP or sqlite3, compressed or not, any metadata."""

from __future__ import annotations

import struct
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType

from rosbags.rosbag2 import Reader, ReaderError

from efm_core.bags.episode_writer import PARTIAL
from efm_core.bags.errors import BagError
from efm_core.bags.mcap_stream import Message
from efm_core.bags.reader import read_bag


class ForeignBag:
    """One recording, for use in a `with`. Errors are BagError, with the remedy.

    path: its folder, or a storage file in it. topics: name -> (type, messages). start_ns: the
    recorder's time of the first message.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.parent if path.is_file() else path
        if not self.path.is_dir():
            raise BagError(f"{path}: no such bag; give a folder with metadata.yaml")
        if not (self.path / "metadata.yaml").is_file():
            ours = self.path.suffix == PARTIAL
            command = "efm bags recover" if ours else "ros2 bag reindex"
            raise BagError(
                f"{self.path} has no metadata.yaml, it was not finished or is no bag; "
                f"`{command} {self.path}` writes it"
            )
        self.topics: dict[str, tuple[str, int]] = {}
        self.start_ns = 0
        self._reader = Reader(self.path)

    def __enter__(self) -> ForeignBag:
        """Open it and read what it holds."""
        try:
            self._reader.open()
        except _damages() as error:
            raise self._damaged(error) from error
        for connection in self._reader.connections:
            _, count = self.topics.get(connection.topic, ("", 0))
            self.topics[connection.topic] = (connection.msgtype, count + connection.msgcount)
        self.start_ns = self._reader.start_time
        self._plain = self._reader.compression_mode is None and any(self.path.glob("*.mcap"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; what was unpacked is removed."""
        self._reader.close()

    def listing(self) -> str:
        """Its topics in words, for an error that says what there is instead."""
        known = (f"{name} ({kind}, {n})" for name, (kind, n) in sorted(self.topics.items()))
        return ", ".join(known) or "nothing"

    def count(self, topics: Collection[str]) -> int:
        """Messages on these topics, by the metadata."""
        return sum(self.topics[topic][1] for topic in topics)

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """(topic, type, recorder's time ns, CDR bytes), the same order every time.

        Raises BagError for damage, at the end also when there were fewer than the metadata say.
        """
        seen: Counter[str] = Counter()
        try:
            for message in self._read(topics):
                seen[message[0]] += 1
                yield message
        except _damages() as error:
            raise self._damaged(error) from error
        for topic in sorted(topics):
            if seen[topic] != self.topics[topic][1]:
                raise BagError(
                    f"{self.path}: {topic} has {seen[topic]} messages, metadata.yaml says "
                    f"{self.topics[topic][1]}; the bag is cut, or `ros2 bag reindex` is due"
                )

    def _read(self, topics: Collection[str]) -> Iterator[Message]:
        if self._plain:  # this one verifies checksums
            yield from read_bag(self.path, frozenset(topics))
            return
        wanted = [c for c in self._reader.connections if c.topic in topics]
        if wanted:
            for connection, log_ns, data in self._reader.messages(wanted):
                yield connection.topic, connection.msgtype, log_ns, bytes(data)

    def _damaged(self, error: Exception) -> BagError:
        return BagError(
            f"{self.path} is cut or corrupt and cannot be read whole: {error}; for MCAP "
            "`mcap recover`, for sqlite3 `sqlite3 FILE .recover`, then `ros2 bag reindex`"
        )


def _damages() -> tuple[type[Exception], ...]:
    """What the libraries below `rosbags` raise for a damaged file; which they are varies."""
    found: list[type[Exception]] = [ReaderError, EOFError, OSError, struct.error]
    for module, name in (
        ("sqlite3", "Error"), ("apsw", "Error"), ("backports.zstd", "ZstdError"),
        ("compression.zstd", "ZstdError"), ("zstandard", "ZstdError"),
    ):  # fmt: skip
        error = getattr(sys.modules.get(module), name, None)
        if error is not None:
            found.append(error)
    return tuple(found)
