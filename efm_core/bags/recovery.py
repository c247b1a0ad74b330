"""Unfinished episodes: what a killed recorder left is read as a stream and made whole."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

from efm_core.bags.episode_writer import (
    PARTIAL,
    RECORD_NAME,
    count_messages,
    lock_directory,
    publish_directory,
    write_record,
)
from efm_core.bags.errors import BagError
from efm_core.bags.mcap_stream import ChannelTable, Message, stream_messages
from efm_core.bags.mcap_writer import FILE_NAME, McapBagWriter
from efm_core.bags.reader import read_record
from efm_core.bags.writer import TopicTable
from efm_core.episode import EpisodeRecord, Outcome, TopicCounts
from efm_core.topics import GUARD_STATE, Qos

_log = logging.getLogger(__name__)
_REWRITTEN = "recovered.tmp"
_OPENING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RecoveredEpisode:
    """What became of one partial directory; `path` is None where nothing could be saved."""

    partial: Path
    path: Path | None
    messages: int
    reason: str


def recover_all(data_dir: Path) -> list[RecoveredEpisode]:
    """Recover every partial episode directly below `data_dir` that no living writer holds.

    One that holds no message is removed; see `recover`.
    """
    results = []
    for partial in sorted(data_dir.glob(f"*{PARTIAL}")):
        try:
            lock = lock_directory(partial)
        except FileNotFoundError:
            continue  # its writer has just finished and renamed it
        if lock is None:
            continue  # being written right now
        try:
            if not _is_at(lock, partial):
                continue  # renamed between opening and locking
            results.append(_recover(partial))
        finally:
            os.close(lock)
        _log.info("%s: %s", partial, results[-1].reason)
    return results


def recover(partial: Path) -> Path | None:
    """Make one `<id>.partial` a finished episode; None when it holds nothing to save.

    A cut episode gets outcome interrupted, termination_reason crash and recovered=True; one that
    was complete but for its name keeps its outcome. One without a single message is removed if
    nothing else lies in it. Raises BagError when a living writer holds it, FileNotFoundError when
    it is not there (any more).
    """
    lock = lock_directory(partial)
    if lock is None:
        raise BagError(f"{partial} is being written by a living process; let it finish")
    try:
        if not _is_at(lock, partial):
            raise FileNotFoundError(f"{partial} was finished by its writer meanwhile")
        return _recover(partial).path
    finally:
        os.close(lock)


def _is_at(lock: int, path: Path) -> bool:
    """Whether the locked directory still has this name: its writer may have renamed it."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _recover(partial: Path) -> RecoveredEpisode:
    final = partial.with_name(partial.name.removesuffix(PARTIAL))
    try:
        record = read_record(partial)
    except BagError as error:
        empty = _is_old(partial) and not _salvage(partial, ChannelTable())
        reason = _remove(partial) if empty else None
        return RecoveredEpisode(partial, None, 0, reason or f"left as it is: {error}")
    if final.exists():
        return RecoveredEpisode(partial, None, 0, f"left as it is: {final} exists")
    if record.saved and (counts := _whole(partial)) is not None:
        write_record(partial, record.model_copy(update={"recovered": True}))
        publish_directory(partial, final)
        return RecoveredEpisode(partial, final, counts.total(), "was complete; renamed")
    table = ChannelTable()
    kept = _salvage(partial, table)
    if not kept:
        reason = _remove(partial)
        kept_why = "left as it is: it holds no whole message, but other files"
        return RecoveredEpisode(partial, None, 0, reason or kept_why)
    _rewrite(partial, kept, _topics(table))
    write_record(partial, _interrupted(record, kept))
    publish_directory(partial, final)
    return RecoveredEpisode(partial, final, len(kept), f"{len(kept)} messages saved")


def _is_old(partial: Path) -> bool:
    """Whether nobody may be about to lock it: a writer makes the directory, then its lock."""
    return time.time() - partial.stat().st_mtime > _OPENING_SECONDS


def _remove(partial: Path) -> str | None:
    """Remove a directory without messages, with the recorder's own files.

    Returns what was done, None where it was left because of other files.
    """
    files = list(partial.iterdir())
    ours = {RECORD_NAME, RECORD_NAME + ".tmp", _REWRITTEN, "metadata.yaml"}
    if any(file.name not in ours and file.suffix != ".mcap" for file in files):
        return None
    for file in files:
        file.unlink()
    partial.rmdir()
    return "removed: it held no whole message"


def _whole(partial: Path) -> Counter[str] | None:
    if not (partial / "metadata.yaml").exists():
        return None
    try:
        return count_messages(partial)
    except BagError:
        return None


def _salvage(partial: Path, table: ChannelTable) -> list[Message]:
    kept: list[Message] = []
    for file in sorted(partial.glob("*.mcap")):
        try:
            kept += stream_messages(file, table=table, strict=False)
        except BagError as error:  # not even its first bytes are there
            _log.warning("nothing to save in %s: %s", file, error)
    return kept


def _topics(table: ChannelTable) -> TopicTable:
    return {
        topic: (kind, _qos(table.qos.get(topic, ""))) for topic, kind in table.channels.values()
    }


def _qos(profiles: str) -> Qos:
    """The kind of topic that offers these profiles (the YAML of a channel's metadata)."""
    offered = yaml.safe_load(profiles) if profiles else []
    first = offered[0] if offered else {}
    if first.get("durability") == "transient_local":
        return "latched"
    return "image" if first.get("reliability") == "best_effort" else "reliable"


def _rewrite(partial: Path, kept: list[Message], topics: TopicTable) -> None:
    writer = McapBagWriter(_REWRITTEN)
    writer.open_file(partial, topics)
    for topic, _, log_ns, data in kept:
        writer.write(topic, data, log_ns)
    writer.close(FILE_NAME)
    for file in partial.glob("*.mcap"):
        if file.name != FILE_NAME:
            file.unlink()


def _interrupted(record: EpisodeRecord, kept: list[Message]) -> EpisodeRecord:
    counts = Counter(message[0] for message in kept)
    guard = f"/{record.robot}/{GUARD_STATE.name}"
    return record.model_copy(
        update={
            "saved": True,
            "recovered": True,
            "outcome": Outcome.INTERRUPTED,
            "termination_reason": "crash",
            "ticks": max(record.ticks, counts[guard]),
            "end_ns": max(message[2] for message in kept),
            "topics": {t: TopicCounts(expected=n, on_time=n) for t, n in counts.items()},
        }
    )
