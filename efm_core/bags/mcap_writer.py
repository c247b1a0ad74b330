"""Bags through the `mcap` library, written so that a kill costs next to nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO

from mcap.writer import CompressionType, Writer

from efm_core.bags.metadata import document, metadata_text
from efm_core.bags.writer import TopicTable, offered_qos, type_definition

CHUNK_BYTES = 65_536
"""No chunk grows beyond this, unless one message alone does."""
CHUNK_SECONDS = 0.1
"""A chunk older than this is written out with the next message (steady clock)."""
_RECORD_OVERHEAD = 31  # opcode, length, channel, sequence, two times

FILE_NAME = "episode_0.mcap"


class McapBagWriter:
    """A `BagWriter` with uncompressed chunks that are handed to the system as they fill.

    Killed at any moment, the file holds all but the chunk in progress, and can be read as a
    stream (`efm_core.bags.recovery`).
    """

    def __init__(self, file_name: str = FILE_NAME) -> None:
        self._file_name = file_name
        self._file: IO[bytes] | None = None

    def open(self, path: Path, topics: TopicTable) -> None:
        """Create `path` and the file in it. Raises FileExistsError; KeyError for unknown types."""
        path.mkdir(parents=True)
        self.open_file(path, topics)

    def open_file(self, path: Path, topics: TopicTable) -> None:
        """Like `open`, in a directory that exists."""
        self._directory = path
        self._topics = dict(topics)
        self._file = (path / self._file_name).open("wb")
        self._writer = Writer(
            self._file, chunk_size=4 * CHUNK_BYTES, compression=CompressionType.NONE
        )
        self._writer.start(profile="ros2", library="efm")
        self._counts = dict.fromkeys(topics, 0)
        self._start_ns, self._end_ns = 2**63 - 1, 0
        self._pending, self._deadline = 0, 0.0
        schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        for name, (kind, qos) in topics.items():
            if kind not in schemas:
                definition, _ = type_definition(kind)
                schemas[kind] = self._writer.register_schema(kind, "ros2msg", definition.encode())
            self._channels[name] = self._writer.register_channel(
                name, "cdr", schemas[kind], _channel_metadata(kind, offered_qos(qos))
            )

    @property
    def counts(self) -> dict[str, int]:
        """Messages written so far by topic."""
        return dict(self._counts)

    def write(self, topic: str, data: bytes, log_ns: int, sent_ns: int = 0) -> None:
        """Append one message. Raises KeyError for an undeclared topic, OSError for the disk."""
        channel = self._channels[topic]
        size = len(data) + _RECORD_OVERHEAD
        now = time.monotonic()
        if self._pending and (self._pending + size > CHUNK_BYTES or now > self._deadline):
            self._writer.flush()  # type: ignore[no-untyped-call]
            self._pending = 0
        if not self._pending:
            self._deadline = now + CHUNK_SECONDS
        self._pending += size
        self._writer.add_message(channel, log_ns, data, sent_ns or log_ns)
        self._counts[topic] += 1
        if log_ns < self._start_ns:
            self._start_ns = log_ns
        if log_ns > self._end_ns:
            self._end_ns = log_ns

    def close(self, final_name: str = "") -> None:
        """Finish the file and write metadata.yaml beside it.

        final_name: renames the finished file, for one that takes another's place.
        """
        assert self._file is not None
        start = min(self._start_ns, self._end_ns)
        name = final_name or self._file_name
        block = metadata_text(name, self._topics, self._counts, start, self._end_ns)
        self._writer.add_metadata("rosbag2", {"serialized_metadata": block})
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._file.close()
        self._file = None
        (self._directory / self._file_name).replace(self._directory / name)
        (self._directory / "metadata.yaml").write_text(document(block), encoding="utf-8")

    def abort(self) -> None:
        """Close the file without finishing it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _channel_metadata(type_name: str, qos: str) -> dict[str, str]:
    return {"offered_qos_profiles": qos, "topic_type_hash": type_definition(type_name)[1]}
