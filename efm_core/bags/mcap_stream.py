"""MCAP as a stream of messages in file order, strict for finished files, lenient for cut ones.

A seeking reader needs the index at the end and reads chunks once per topic; this one reads every
byte once, in order, and decodes nothing but the records' frames.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from efm_core.bags.errors import BagError

MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F
_FRAME = struct.Struct("<BQ")
_MESSAGE_FRAME = struct.Struct("<BQHIQQ")
_CHUNK_FRAME = struct.Struct("<QQQI")

Message = tuple[str, str, int, bytes]
"""(topic, type name, log time in ns, CDR bytes)."""


@dataclass
class ChannelTable:
    """Channels met so far: id -> (topic, type); `qos`: topic -> offered profiles as YAML."""

    channels: dict[int, tuple[str, str]] = field(default_factory=dict)
    schemas: dict[int, str] = field(default_factory=dict)
    qos: dict[str, str] = field(default_factory=dict)

    def read_schema(self, data: memoryview) -> None:
        """Take in a schema record's body."""
        (identifier,) = struct.unpack_from("<H", data)
        self.schemas[identifier], _ = _string(data, 2)

    def read_channel(self, data: memoryview) -> None:
        """Take in a channel record's body."""
        identifier, schema = struct.unpack_from("<HH", data)
        topic, at = _string(data, 4)
        _, at = _string(data, at)
        (length,) = struct.unpack_from("<I", data, at)
        end = at + 4 + length
        at += 4
        while at < end:
            key, at = _string(data, at)
            value, at = _string(data, at)
            if key == "offered_qos_profiles":
                self.qos[topic] = value
        self.channels[identifier] = (topic, self.schemas.get(schema, ""))


def stream_messages(
    path: Path,
    topics: Collection[str] | None = None,
    table: ChannelTable | None = None,
    strict: bool = True,
) -> Iterator[Message]:
    """Messages of one MCAP file in file order.

    topics: only these (absolute names), None = all. strict: a file that is cut or whose chunk
    does not match its checksum raises BagError; otherwise reading ends at the first damage, and
    whole messages of a chunk that is cut are still given.
    """
    table = table if table is not None else ChannelTable()
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise BagError(f"{path} is no MCAP file: it does not begin with its magic bytes")
            yield from _records(file, path, topics, table, strict)
    except (struct.error, UnicodeDecodeError) as error:
        if strict:
            raise BagError(f"{path} holds a record that makes no sense: {error}") from error


def _records(
    file: IO[bytes],
    path: Path,
    topics: Collection[str] | None,
    table: ChannelTable,
    strict: bool,
) -> Iterator[Message]:
    while True:
        frame = file.read(_FRAME.size)
        opcode, length = _FRAME.unpack(frame) if len(frame) == _FRAME.size else (0, 0)
        if opcode == _DATA_END:
            break
        body = file.read(length) if opcode in (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK) else b""
        if opcode == 0 or (body and len(body) < length):
            if strict:
                raise BagError(f"{path} is cut; `efm bags recover` saves what is whole")
            if opcode == _CHUNK:
                yield from _messages(_partial_chunk(body), topics, table, strict)
            return
        if opcode == _CHUNK:
            yield from _messages(_chunk(body, path, strict), topics, table, strict)
        elif body:
            yield from _messages(memoryview(frame + body), topics, table, strict)
        else:
            file.seek(length, 1)
    if strict:
        file.seek(-len(MAGIC), 2)
        if file.read() != MAGIC:
            raise BagError(f"{path} is cut after its data; `efm bags recover` saves what is whole")


def _chunk(body: bytes, path: Path, strict: bool) -> memoryview:
    _, _, size, checksum = _CHUNK_FRAME.unpack_from(body)
    compression, at = _string(memoryview(body), _CHUNK_FRAME.size)
    data = memoryview(body)[at + 8 :]
    if compression:
        data = memoryview(_decompressor(compression, path)(bytes(data), size))
    if checksum and zlib.crc32(data) != checksum:
        if strict:
            raise BagError(f"{path}: a chunk does not match its checksum; the file is corrupt")
        return memoryview(b"")
    return data


def _partial_chunk(body: bytes) -> memoryview:
    try:
        compression, at = _string(memoryview(body), _CHUNK_FRAME.size)
    except (struct.error, UnicodeDecodeError):
        return memoryview(b"")
    return memoryview(b"") if compression else memoryview(body)[at + 8 :]


def _decompressor(name: str, path: Path) -> Callable[[bytes, int], bytes]:
    # Bags of other recorders may be compressed; ours are not, so these stay optional.
    if name == "zstd":
        import zstandard

        return lambda data, size: zstandard.ZstdDecompressor().decompress(data, size)
    if name == "lz4":
        import lz4.frame

        return lambda data, _: bytes(lz4.frame.decompress(data))
    raise BagError(f"{path}: chunk compression '{name}' is not understood")


def _messages(
    data: memoryview, topics: Collection[str] | None, table: ChannelTable, strict: bool
) -> Iterator[Message]:
    at, end = 0, len(data)
    wanted: dict[int, tuple[str, str] | None] = {}
    while at + _FRAME.size <= end:
        opcode, length = _FRAME.unpack_from(data, at)
        following = at + _FRAME.size + length
        if following > end:
            if strict:
                raise BagError("a record reaches beyond its chunk; the file is corrupt")
            return
        if opcode == _MESSAGE:
            _, _, channel, _, log_ns, _ = _MESSAGE_FRAME.unpack_from(data, at)
            if channel not in wanted:
                found = table.channels.get(channel, ("", ""))
                wanted[channel] = found if topics is None or found[0] in topics else None
            entry = wanted[channel]
            if entry is not None:
                yield entry[0], entry[1], log_ns, bytes(data[at + _MESSAGE_FRAME.size : following])
        elif opcode == _SCHEMA:
            table.read_schema(data[at + _FRAME.size : following])
        elif opcode == _CHANNEL:
            table.read_channel(data[at + _FRAME.size : following])
        at = following


def _string(data: memoryview, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", data, at)
    end = at + 4 + length
    if end > len(data):
        raise struct.error("a string reaches beyond its record")
    return str(data[at + 4 : end], "utf-8"), end
