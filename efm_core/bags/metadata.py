"""metadata.yaml of a rosbag2 directory, version 9.

Written as text: the layout never changes, and a YAML library takes longer for it than writing the
whole bag does.
"""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import indent

from efm_core.bags.writer import TopicTable, offered_qos, type_definition


def metadata_text(
    file_name: str, topics: TopicTable, counts: Mapping[str, int], start_ns: int, end_ns: int
) -> str:
    """The block below `rosbag2_bagfile_information`, unindented.

    start_ns, end_ns: log times in ns of the first and last message (0 and 0 without messages).
    """
    total = sum(counts.values())
    span = f"duration:\n  nanoseconds: {max(0, end_ns - start_ns)}\n"
    begin = f"starting_time:\n  nanoseconds_since_epoch: {start_ns}\n"
    entries = "".join(
        _topic_text(name, kind, offered_qos(qos), counts.get(name, 0))
        for name, (kind, qos) in topics.items()
    )
    return (
        f"version: 9\nstorage_identifier: mcap\n{span}{begin}message_count: {total}\n"
        f"topics_with_message_count:\n{entries}"
        f'compression_format: ""\ncompression_mode: ""\n'
        f"relative_file_paths:\n  - {file_name}\n"
        f"files:\n  - path: {file_name}\n{indent(begin + span, '    ')}"
        f"    message_count: {total}\n"
        "custom_data: ~\nros_distro: jazzy\n"
    )


def document(block: str) -> str:
    """The whole metadata.yaml of a block of `metadata_text`."""
    return "rosbag2_bagfile_information:\n" + indent(block, "  ")


def _topic_text(name: str, type_name: str, qos: str, count: int) -> str:
    return (
        f"  - topic_metadata:\n      name: {name}\n      type: {type_name}\n"
        "      serialization_format: cdr\n      offered_qos_profiles:\n"
        f"{indent(qos, ' ' * 8)}\n"
        f"      type_description_hash: {type_definition(type_name)[1]}\n"
        f"    message_count: {count}\n"
    )
