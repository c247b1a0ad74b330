"""Bags through rosbag2_py, where a system ROS has it.

NOT VERIFIED on the wheels, which lack rosbag2_py; one contract test covers both writers and says
so when this one is skipped.
"""

from __future__ import annotations

import importlib
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from efm_core.bags.mcap_writer import CHUNK_BYTES
from efm_core.bags.writer import TopicTable, type_definition

_STORAGE_CONFIG = f"compression: None\nchunkSize: {CHUNK_BYTES}\n"


class RosbagBagWriter:
    """A `BagWriter` on rosbag2's own SequentialWriter with its MCAP plugin.

    rosbag2 flushes chunks when it likes, so `McapBagWriter` is the default everywhere; this one
    serves those who want their robot's own recorder library.
    """

    def __init__(self) -> None:
        self._writer: Any = None

    @staticmethod
    def available() -> bool:
        """Whether rosbag2_py can be imported."""
        return find_spec("rosbag2_py") is not None

    def open(self, path: Path, topics: TopicTable) -> None:
        """Create `path`. Raises ImportError without rosbag2_py, RuntimeError from rosbag2."""
        rosbag2 = importlib.import_module("rosbag2_py")
        self._writer = rosbag2.SequentialWriter()
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
            config.write(_STORAGE_CONFIG)
            config.flush()
            options = rosbag2.StorageOptions(
                uri=str(path), storage_id="mcap", storage_config_uri=config.name
            )
            self._writer.open(options, rosbag2.ConverterOptions("cdr", "cdr"))
        for number, (name, (kind, qos)) in enumerate(topics.items()):
            profile = rosbag2.QoS(10 if qos == "reliable" else 1)
            profile = profile.best_effort() if qos == "image" else profile.reliable()
            if qos == "latched":
                profile = profile.transient_local()
            self._writer.create_topic(
                rosbag2.TopicMetadata(
                    id=number,
                    name=name,
                    type=kind,
                    serialization_format="cdr",
                    offered_qos_profiles=[profile],
                    type_description_hash=type_definition(kind)[1],
                )
            )

    def write(self, topic: str, data: bytes, log_ns: int, sent_ns: int = 0) -> None:
        """Append one message; rosbag2 takes no time of sending here. Raises RuntimeError."""
        self._writer.write(topic, data, log_ns)

    def close(self) -> None:
        """Finish the bag: rosbag2 writes metadata.yaml when its writer closes."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def abort(self) -> None:
        """rosbag2 knows no unfinished end: the bag is closed like any other."""
        self.close()
