"""Writing and reading an episode's bag, against writers and readers that promise less."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray
from rosbags.rosbag2 import Reader, StoragePlugin
from rosbags.rosbag2 import Writer as RosbagsWriter

from efm_bringup.bench import material
from efm_bringup.bench.machine import filesystem
from efm_bringup.bench.result import Figure, Finding, Settings, rated, timed
from efm_bringup.bench.timing import Shown, Spread, Work, alternate, spread
from efm_core.bags import EpisodeReader, EpisodeWriter, RosbagBagWriter
from efm_core.bags.writer import TopicTable, type_definition
from efm_core.episode import EpisodeRecord, new_episode_id
from efm_core.messages import typestore
from efm_core.topics import ROBOT_TOPICS, Topic, camera, twist_command
from efm_trainer.data import load_episode

Message = tuple[str, str, int, bytes]

MEASURED = (
    "One real practised episode with a 64-pixel camera and every topic that an episode in one "
    "process has, written again and again from the bytes in memory. Write: the suite's "
    "`EpisodeWriter` from open to finish, that is lock, chunks flushed as they fill, reopen and "
    "count, episode.json, fsync of files and folders, rename. Baselines write the same bytes "
    "without chunk-wise flushing, check, fsync or rename: the `mcap` library's writer (no "
    "compression) and `rosbags`' rosbag2 writer (MCAP). Read: every message's bytes by "
    "`EpisodeReader` (also decoded and aligned for learning by `load_episode`), against the "
    "`mcap` library's reader and `rosbags`' reader on the same file."
)


def measure_bags(
    rounds: int = 60,
    ticks: int = 40,
    seed: int = 0,
    folder: Path | None = None,
    shown: Shown | None = None,
) -> Finding:
    """Write and read an episode of `ticks` ticks `rounds` times; folder: disk to measure."""
    with tempfile.TemporaryDirectory(prefix="efm-bench-", dir=folder) as name:
        root = Path(name)
        fleet = material.bench_fleet(root)
        material.practice_episodes(fleet, material.engine(fleet, seed), 1, ticks, seed)
        (path,) = (fleet.data_dir / "practice").iterdir()
        reader = EpisodeReader(path)
        messages = list(reader.messages())
        bench = _Writing(root / "written", reader.record, messages)
        works = bench.works()
        total = 2 * rounds
        written = _spreads(alternate(works, rounds, shown=_first_half(shown, total)))
        reading = _reading(path)
        read = _spreads(alternate(reading, rounds, shown=_second_half(shown, rounds, total)))
        figures = (
            *_figures("write", "efm", written, messages),
            *_figures("read", "efm", read, messages),
            timed("read and decode for learning", "ms/episode", read["learning"], 1e3,
                  "efm, bytes only", read["efm"]),
        )  # fmt: skip
        settings: Settings = {
            "ticks": ticks, "messages": len(messages), "bytes": _bytes(messages),
            "rounds": rounds, "seed": seed, "file_system": filesystem(root),
        }  # fmt: skip
    return Finding(measured=MEASURED, settings=settings, figures=figures)


class _Writing:
    """Writes one episode's messages to ever new places below a folder."""

    def __init__(self, root: Path, record: EpisodeRecord, messages: Sequence[Message]) -> None:
        self._root, self._record, self._messages = root, record, messages
        root.mkdir()
        self._numbers = itertools.count()
        known: dict[str, Topic] = {
            f"/{record.robot}/{topic.name}": topic
            for topic in (*ROBOT_TOPICS, camera("front"), twist_command("arm"))
        }
        kinds = {name: kind for name, kind, _, _ in messages}
        self._topics: TopicTable = {
            name: (kind, known[name].qos) for name, kind in kinds.items()
        }

    def works(self) -> dict[str, Work]:
        """Every writer there is, by name."""
        works: dict[str, Work] = {
            "efm": self._efm, "mcap, no fsync, no check": self._mcap,
            "rosbags, no fsync, no check": self._rosbags,
        }  # fmt: skip
        if RosbagBagWriter.available():
            works["efm on rosbag2_py"] = self._rosbag2
        return works

    def _efm(self) -> None:
        self._episode(EpisodeWriter(self._root, self._fresh(), self._topics))

    def _rosbag2(self) -> None:
        writer = RosbagBagWriter()
        self._episode(EpisodeWriter(self._root, self._fresh(), self._topics, writer=writer))

    def _fresh(self) -> EpisodeRecord:
        return self._record.model_copy(update={"episode_id": new_episode_id()})

    def _episode(self, writer: EpisodeWriter) -> None:
        for topic, _, log_ns, data in self._messages:
            writer.write(topic, data, log_ns)
        writer.finish()

    def _mcap(self) -> None:
        with (self._root / f"{next(self._numbers)}.mcap").open("wb") as file:
            writer = Writer(file, compression=CompressionType.NONE)
            writer.start(profile="ros2")
            channels = {}
            for name, (kind, _) in self._topics.items():
                schema = writer.register_schema(kind, "ros2msg", type_definition(kind)[0].encode())
                channels[name] = writer.register_channel(name, "cdr", schema)
            for topic, _, log_ns, data in self._messages:
                writer.add_message(channels[topic], log_ns, data, log_ns)
            writer.finish()

    def _rosbags(self) -> None:
        path = self._root / str(next(self._numbers))
        with RosbagsWriter(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connections = {
                name: writer.add_connection(name, kind, typestore=typestore)
                for name, (kind, _) in self._topics.items()
            }
            for topic, _, log_ns, data in self._messages:
                writer.write(connections[topic], log_ns, data)


def _reading(path: Path) -> dict[str, Work]:
    (file,) = path.glob("*.mcap")

    def mcap() -> int:
        with file.open("rb") as stream:
            return _drain(make_reader(stream).iter_messages())

    def rosbags() -> int:
        with Reader(path) as reader:
            return _drain(reader.messages())

    return {
        "efm": lambda: _drain(EpisodeReader(path).messages()),
        "mcap": mcap,
        "rosbags": rosbags,
        "learning": lambda: load_episode(path),
    }


def _drain(messages: Iterator[object]) -> int:
    return sum(1 for _ in messages)


def _figures(
    verb: str, ours: str, taken: dict[str, Spread], messages: Sequence[Message]
) -> list[Figure]:
    """ms, MB/s and messages/s of ours against each of the others."""
    others = [name for name in taken if name not in (ours, "learning")]
    figures = [
        timed(f"{verb}: against {other}", "ms/episode", taken[ours], 1e3, other, taken[other])
        for other in others
    ]
    first = others[0]
    for amount, unit in ((_bytes(messages) / 1e6, "MB/s"), (float(len(messages)), "messages/s")):
        figures.append(
            rated(f"{verb}: {unit}", unit, amount, taken[ours], first, taken[first])
        )
    return figures


def _bytes(messages: Sequence[Message]) -> int:
    return sum(len(data) for _, _, _, data in messages)


def _spreads(taken: Mapping[str, NDArray[np.float64]]) -> dict[str, Spread]:
    return {name: spread(samples) for name, samples in taken.items()}


def _first_half(shown: Shown | None, total: int) -> Shown | None:
    return None if shown is None else lambda done, _: shown(done, total)


def _second_half(shown: Shown | None, before: int, total: int) -> Shown | None:
    return None if shown is None else lambda done, _: shown(before + done, total)
