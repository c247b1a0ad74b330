"""Fast decoding of the few message types that training reads by the million.

The generic deserialiser takes about 20 us per message; these read the CDR bytes in place and
remember the block of names that every message of a topic repeats. They give what `rosbags` gives
(a test compares them), for little-endian CDR, which is all that ROS 2 writes today.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from efm_core.bags.errors import BagError
from efm_core.camera_pixels import PictureError, decode, pixels
from efm_core.messages import deserialize, stamp_of

_SECOND = 1_000_000_000
_STAMP = struct.Struct("<iI")
_U32 = struct.Struct("<I")
_SIZE = struct.Struct("<II")
_LITTLE_ENDIAN = b"\x00\x01"
_names_cache: dict[bytes, tuple[str, ...]] = {}


class Scalars(NamedTuple):
    """Named scalars: header stamp in ns, frame_id, values by name."""

    stamp_ns: int
    frame_id: str
    values: dict[str, float]


class Picture(NamedTuple):
    """An image: header stamp in ns, frame_id, uint8 (H, W, 3) RGB view of the bytes."""

    stamp_ns: int
    frame_id: str
    rgb: NDArray[np.uint8]


def stamp_ns(data: bytes) -> int:
    """The header stamp in ns of any message that begins with a header. Raises BagError."""
    _require_little_endian(data)
    try:
        sec, nanosec = _STAMP.unpack_from(data, 4)
    except struct.error as error:
        raise BagError(f"a message of {len(data)} bytes holds no header") from error
    return int(sec) * _SECOND + int(nanosec)


def named_scalars(data: bytes) -> Scalars:
    """A sensor_msgs/JointState as named scalars (its positions). Raises BagError."""
    stamp = stamp_ns(data)
    try:
        frame, at = _text(data, 12)
        names, at = _names(data, _aligned(at, 4))
        (count,) = _U32.unpack_from(data, at)
        at = _aligned(at + 4, 8) if count else at + 4
        values = struct.unpack_from(f"<{count}d", data, at)
        return Scalars(stamp, frame, dict(zip(names, values, strict=True)))
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise BagError(f"a JointState message of {len(data)} bytes is cut: {error}") from error


def image(data: bytes) -> Picture:
    """A sensor_msgs/Image; rgb8, bgr8 and mono8 without copying pixels. Raises BagError."""
    stamp = stamp_ns(data)
    try:
        frame, at = _text(data, 12)
        at = _aligned(at, 4)
        height, width = _SIZE.unpack_from(data, at)
        encoding, at = _text(data, at + 8)
        big_endian = data[at : at + 1] == b"\x01"
        step, size = _SIZE.unpack_from(data, _aligned(at + 1, 4))
        at = _aligned(at + 1, 4) + 8
        rows = memoryview(data)[at : at + size]
        return Picture(stamp, frame, pixels(rows, height, width, encoding, step, big_endian))
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise BagError(f"an Image message of {len(data)} bytes: {error}") from error


def picture(data: bytes, type_name: str) -> Picture:
    """A sensor_msgs/Image or, decoded, a sensor_msgs/CompressedImage. Raises BagError."""
    if type_name.endswith("/Image"):
        return image(data)
    message = deserialize(data, type_name)
    try:
        return Picture(stamp_of(message), message.header.frame_id, decode(message))
    except PictureError as error:
        raise BagError(f"a {type_name} message of {len(data)} bytes: {error}") from error


def text(data: bytes) -> str:
    """A std_msgs/String. Raises BagError."""
    _require_little_endian(data)
    try:
        return _text(data, 4)[0]
    except (struct.error, UnicodeDecodeError) as error:
        raise BagError(f"a String message of {len(data)} bytes is cut: {error}") from error


def _require_little_endian(data: bytes) -> None:
    if data[:2] != _LITTLE_ENDIAN:
        raise BagError(f"message begins with {data[:2].hex()}, expected little-endian CDR (0001)")


def _aligned(at: int, size: int) -> int:
    """The next offset that is a multiple of `size`, counted from behind the 4-byte CDR header."""
    return at + (4 - at) % size


def _text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = _U32.unpack_from(data, at)
    end = at + 4 + length
    if end > len(data):
        raise struct.error("a string reaches beyond the message")
    return data[at + 4 : max(end - 1, at + 4)].decode(), end


def _names(data: bytes, at: int) -> tuple[tuple[str, ...], int]:
    """A sequence of strings; returns it with the aligned offset behind it."""
    for block, names in _names_cache.items():
        if data.startswith(block, at):
            return names, at + len(block)
    start = at
    (count,) = _U32.unpack_from(data, at)
    at += 4
    found = []
    for _ in range(count):
        name, at = _text(data, _aligned(at, 4))
        found.append(name)
    at = _aligned(at, 4)
    if len(_names_cache) >= 32:
        _names_cache.clear()
    names = tuple(found)
    # An empty or padded-out prefix must not match another sequence: the count leads the block.
    _names_cache[data[start:at]] = names
    return names, at
