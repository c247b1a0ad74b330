"""What every bag writer does, and how topics are described to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from efm_core.messages import typestore
from efm_core.topics import Qos

TopicTable = Mapping[str, tuple[str, Qos]]
"""Absolute topic name -> (type name, quality of service)."""


class BagWriter(Protocol):
    """Writes one rosbag2 directory. Storage is `mcap`, messages are CDR bytes."""

    def open(self, path: Path, topics: TopicTable) -> None:
        """Create directory `path` (which must not exist) and make room for `topics`."""
        ...

    def write(self, topic: str, data: bytes, log_ns: int, sent_ns: int = 0) -> None:
        """Append one message with its log time and the time of its sending in ns (0: unknown).

        Raises OSError when the disk refuses it.
        """
        ...

    def close(self) -> None:
        """Finish the file and write metadata.yaml; nothing is fsynced here."""
        ...

    def abort(self) -> None:
        """Let go of the file as it is."""
        ...


@lru_cache(maxsize=256)
def type_definition(type_name: str) -> tuple[str, str]:
    """(message definition in ros2msg form, RIHS01 hash) of a type of the typestore.

    Raises KeyError for a type that it does not hold.
    """
    definition, _ = typestore.generate_msgdef(type_name, ros_version=2)
    return definition, typestore.hash_rihs01(type_name)


@lru_cache(maxsize=8)
def offered_qos(qos: Qos) -> str:
    """The YAML list with the one profile that efm offers for this kind of topic (rosbag2 v9)."""
    depth = 10 if qos == "reliable" else 1
    durability = "transient_local" if qos == "latched" else "volatile"
    reliability = "best_effort" if qos == "image" else "reliable"
    forever = "sec: 9223372036\n    nsec: 854775807"
    return (
        f"- history: keep_last\n  depth: {depth}\n  reliability: {reliability}\n"
        f"  durability: {durability}\n  deadline:\n    {forever}\n  lifespan:\n    {forever}\n"
        f"  liveliness: automatic\n  liveliness_lease_duration:\n    {forever}\n"
        "  avoid_ros_namespace_conventions: false"
    )
