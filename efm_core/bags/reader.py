"""Reading bags and episodes: sequentially, in file order, raw."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rosbags.rosbag2 import Reader, ReaderError

from efm_core.bags.episode_writer import PARTIAL, RECORD_NAME
from efm_core.bags.errors import BagError
from efm_core.bags.mcap_stream import Message, stream_messages
from efm_core.episode import EpisodeRecord


def read_record(path: Path) -> EpisodeRecord:
    """The record of an episode directory. Raises BagError naming file and field."""
    file = path / RECORD_NAME
    try:
        return EpisodeRecord.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise BagError(f"{file} is missing; {path} is no episode of efm") from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BagError(f"{file}, field '{where}': {error.errors()[0]['msg']}") from error


def read_bag(path: Path, topics: Collection[str] | None = None) -> Iterator[Message]:
    """(topic, type, log time ns, CDR bytes) of any rosbag2 directory.

    MCAP files are read in file order by efm's own stream reader; sqlite3 and compressed files
    in time order through `rosbags`. topics: absolute names, None = all. Raises BagError.
    """
    information = _metadata(path)
    files = [path / name for name in information["relative_file_paths"]]
    plain = information["storage_identifier"] == "mcap" and not information["compression_mode"]
    if plain:
        for file in files:
            if not file.exists():
                raise BagError(f"{path}/metadata.yaml lists {file.name}, which is missing")
            yield from stream_messages(file, topics)
    else:
        yield from _through_rosbags(path, topics)


def _through_rosbags(path: Path, topics: Collection[str] | None) -> Iterator[Message]:
    try:
        with Reader(path) as reader:
            wanted = [c for c in reader.connections if topics is None or c.topic in topics]
            if wanted:
                for connection, log_ns, data in reader.messages(wanted):
                    yield connection.topic, connection.msgtype, log_ns, bytes(data)
    except ReaderError as error:
        raise BagError(f"{path}: {error}") from error


def _metadata(path: Path) -> dict[str, Any]:
    file = path / "metadata.yaml"
    try:
        # The C loader, where PyYAML has it, is ten times faster.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        information = yaml.load(file.read_bytes(), Loader=loader)["rosbag2_bagfile_information"]
        for key in ("relative_file_paths", "storage_identifier", "compression_mode"):
            information[key]
    except FileNotFoundError as error:
        raise BagError(
            f"{file} is missing; an unfinished episode is saved by `efm bags recover`"
        ) from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BagError(f"{file} is no rosbag2 metadata: {error}") from error
    return dict(information)


def read_episode(path: Path, topics: Collection[str] | None = None) -> Iterator[Message]:
    """(topic, type, log time ns, CDR bytes) of an episode in file order. Raises BagError.

    Unlike `read_bag` it does not parse metadata.yaml: an episode's messages are all in its MCAP
    files, and training opens thousands of them.
    """
    files = sorted(path.glob("*.mcap"))
    if not files:
        raise BagError(f"{path} holds no .mcap file; it is no finished episode of efm")
    for file in files:
        yield from stream_messages(file, topics)


class EpisodeReader:
    """One finished episode; nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def record(self) -> EpisodeRecord:
        """The episode's record. Raises BagError."""
        return read_record(self.path)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """(topic, type, log time ns, CDR bytes) in file order; topics: absolute names."""
        return read_episode(self.path, frozenset(topics) if topics is not None else None)


def list_episodes(data_dir: Path) -> list[Path]:
    """Finished episodes directly below `data_dir`, by start stamp, then id.

    A record that cannot be read sorts first: reading it then says what is wrong with it.
    """

    def key(path: Path) -> tuple[int, str]:
        try:
            start = json.loads((path / RECORD_NAME).read_bytes()).get("start_ns", 0)
        except (OSError, ValueError, AttributeError):
            start = -1
        return (start if isinstance(start, int) else -1, path.name)

    found = (file.parent for file in data_dir.glob(f"*/{RECORD_NAME}"))
    return sorted((p for p in found if not p.name.endswith(PARTIAL)), key=key)


def check_episode(path: Path) -> list[str]:
    """Everything that is wrong with an episode on disk, in words; [] when it is whole."""
    problems: list[str] = []
    try:
        record = read_record(path)
    except BagError as error:
        problems.append(str(error))
    else:
        problems += _record_problems(path, record)
    try:
        counts = Counter(message[0] for message in read_bag(path))
        listed = {
            entry["topic_metadata"]["name"]: entry["message_count"]
            for entry in _metadata(path)["topics_with_message_count"]
        }
    except BagError as error:
        return [*problems, str(error)]
    for topic in sorted(counts.keys() | listed.keys()):
        if counts[topic] != listed.get(topic, 0):
            problems.append(
                f"{path}: {topic} has {counts[topic]} messages, metadata.yaml says "
                f"{listed.get(topic, 0)}"
            )
    return problems


def _record_problems(path: Path, record: EpisodeRecord) -> list[str]:
    problems = []
    if path.name.removesuffix(PARTIAL) != record.episode_id:
        problems.append(f"{path}: episode_id is {record.episode_id}, not the directory's name")
    if path.name.endswith(PARTIAL):
        problems.append(f"{path} was never finished; `efm bags recover` saves it")
    elif not record.saved:
        problems.append(f"{path}/{RECORD_NAME}: saved is false in a finished episode")
    for topic, c in record.topics.items():
        if c.expected != c.on_time + c.late + c.repeated + c.dropped:
            problems.append(f"{path}/{RECORD_NAME}: the counts of {topic} do not add up: {c}")
    return problems
