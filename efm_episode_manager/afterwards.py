"""What a person says about a take after its end: success or not, or not to be kept at all.

A saved episode is changed whole or not at all: its record is replaced by a rename, its directory
goes away by a rename.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from efm_core.bags import read_record
from efm_core.episode import EpisodeRecord
from efm_episode_manager.plans import DISCARDED, RECORD_FILE
from efm_episode_manager.session import Session


@dataclass(slots=True)
class LastTake:
    """The newest episode that was handed to the disk.

    path: its directory, None while it is being saved. label: what the person said, None when
    nobody did. discarded: thrown away, or to be thrown away once it is saved.
    """

    session: Session
    path: Path | None = None
    label: bool | None = None
    discarded: bool = False

    @property
    def label_text(self) -> str:
        """One of unknown, success, failure, discarded."""
        if self.discarded:
            return "discarded"
        return "unknown" if self.label is None else "success" if self.label else "failure"


def relabel(path: Path, success: bool, source: Literal["person", "oracle"]) -> EpisodeRecord:
    """Write what a person says of the saved episode in `path` into its record.

    Raises efm_core.bags.BagError for an unreadable record, OSError from the disk.
    """
    record = read_record(path)
    record.labels.operator, record.labels.operator_source = success, source
    new = path / f"{RECORD_FILE}.new"
    new.write_text(record.model_dump_json(indent=1))
    _sync(new)
    new.replace(path / RECORD_FILE)
    _sync(path)
    return record


def put_away(path: Path) -> Path:
    """Move the saved episode in `path` out of its data set, into `.discarded/` beside it.

    Returns where it is now; whoever wants the room back deletes that folder. Raises OSError.
    """
    away = path.parent / DISCARDED
    away.mkdir(exist_ok=True)
    new = path.rename(away / path.name)
    _sync(away)
    _sync(path.parent)
    return new


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
