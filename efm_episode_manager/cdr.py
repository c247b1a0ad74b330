"""Reading the header of a serialised message without decoding the message.

The recorder stores bytes as they came; per message it needs the stamp only, and decoding a whole
image for that would cost more than writing it.
"""

from __future__ import annotations

import struct

_HEADER_OFFSET = 4  # CDR encapsulation: two bytes of kind, two of options
_STAMPED_TYPES = frozenset(
    {
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CompressedImage",
        "sensor_msgs/msg/JointState",
        "geometry_msgs/msg/PoseStamped",
        "geometry_msgs/msg/TwistStamped",
        "trajectory_msgs/msg/JointTrajectory",
        "diagnostic_msgs/msg/DiagnosticArray",
    }
)


def has_stamp(type_name: str) -> bool:
    """Whether messages of this type begin with a std_msgs/Header."""
    return type_name in _STAMPED_TYPES


def _order(data: bytes) -> str:
    if len(data) < _HEADER_OFFSET + 8:
        raise ValueError(f"message of {len(data)} bytes is too short to hold a header")
    return "<" if data[1] & 1 else ">"


def stamp_ns(data: bytes) -> int:
    """The header stamp in ns of CDR bytes whose type begins with a header.

    Raises ValueError when the bytes are too short.
    """
    sec, nanosec = struct.unpack_from(_order(data) + "iI", data, _HEADER_OFFSET)
    return int(sec) * 1_000_000_000 + int(nanosec)


def frame_id(data: bytes) -> str:
    """The header's frame_id of CDR bytes whose type begins with a header.

    Raises ValueError when the bytes are too short.
    """
    order = _order(data)
    start = _HEADER_OFFSET + 12
    if len(data) < start:
        raise ValueError(f"message of {len(data)} bytes is too short to hold a header")
    (length,) = struct.unpack_from(order + "I", data, start - 4)
    if len(data) < start + length:
        raise ValueError(f"frame_id of {length} bytes does not fit in {len(data)} bytes")
    return bytes(data[start : start + max(length - 1, 0)]).decode()
