"""One episode of the cache as one safetensors file: tables, pictures as recorded, checksums.

The file holds no record: that is read from the episode each time, so nothing that stands in it
beside what learning may see can ever come from here.
"""

from __future__ import annotations

import json
import os
import uuid
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from efm_core.actions import ActionSpace
from efm_core.episode import EpisodeRecord
from efm_trainer.episode_data import EpisodeData
from efm_trainer.stored_pictures import (
    CacheDamagedError,
    CompressedPictures,
    StoredPictures,
    picture_digest,
)

_COLUMNS = (
    "stamps", "bins", "log_prob", "temperature", "executed", "source", "modified", "steps_to_go",
)  # fmt: skip
_PICTURES = "images/"


def write_entry(path: Path, episode: EpisodeData) -> None:
    """Write `episode` to `path`, complete or not at all: other file, fsync, rename. OSError."""
    tables = {name: getattr(episode, name) for name in _COLUMNS}
    tables |= {f"state/{name}": values for name, values in episode.state.items()}
    pictures: dict[str, NDArray[np.uint8]] = {}
    cameras: dict[str, dict[str, Any]] = {}
    for name, images in episode.images.items():
        if isinstance(images, CompressedPictures):
            rows = [np.frombuffer(data, dtype=np.uint8) for data in images.data]
            pictures[_PICTURES + name] = np.concatenate(rows)
            tables[f"ends/{name}"] = np.cumsum([len(row) for row in rows], dtype=np.int64)
        else:
            pictures[_PICTURES + name] = np.ascontiguousarray(images)
            rows = list(pictures[_PICTURES + name])
        sums = [zlib.crc32(row.data) for row in rows]
        tables[f"checksums/{name}"] = np.array(sums, dtype=np.uint32)
        cameras[name] = {"shape": images.shape, "digest": picture_digest(images)}
    facts = json.dumps({
        "cameras": cameras, "end_row": episode.end_row,
        "policy_versions": episode.policy_versions, "reward_versions": episode.reward_versions,
    })  # fmt: skip
    tables = {name: np.ascontiguousarray(values) for name, values in tables.items()}
    # One key: safetensors writes several in any order, and equal episodes make equal files.
    metadata = {"efm": json.dumps({"facts": facts, "checksum": _checksum(facts, tables)})}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        save_file(tables | pictures, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except SafetensorError as error:  # its I/O errors are of its own kind
        raise OSError(f"{partial} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def read_entry(path: Path, record: EpisodeRecord, mend: Callable[[], object]) -> EpisodeData:
    """The episode at `path`, its pictures still on disk.

    mend: makes the entry anew, should a picture be found damaged later. Raises FileNotFoundError,
    CacheDamagedError for a file that is cut or whose tables are not what was written.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if not name.startswith(_PICTURES)]  # noqa: SIM118
            tables = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise CacheDamagedError(f"cache entry {path} cannot be read: {error}") from error
    try:
        written = json.loads(metadata["efm"])
        whole = written["checksum"] == _checksum(written["facts"], tables)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise CacheDamagedError(f"cache entry {path} does not match its checksum")
    facts = json.loads(written["facts"])
    images = {
        name: StoredPictures(
            path, name, tuple(camera["shape"]), camera["digest"], tables[f"checksums/{name}"],
            tables.get(f"ends/{name}"), mend,
        )
        for name, camera in facts["cameras"].items()
    }  # fmt: skip
    return EpisodeData(
        record=record,
        space=ActionSpace.model_validate(record.action_space),
        images=images,
        state={
            name.removeprefix("state/"): values
            for name, values in tables.items() if name.startswith("state/")
        },
        policy_versions=tuple(facts["policy_versions"]),
        reward_versions=tuple(facts["reward_versions"]),
        end_row=facts["end_row"],
        **{name: tables[name] for name in _COLUMNS},
    )  # fmt: skip


def _checksum(facts: str, tables: Mapping[str, NDArray[Any]]) -> int:
    found = zlib.crc32(facts.encode())
    for name in sorted(tables):
        found = zlib.crc32(f"{name}{tables[name].shape}{tables[name].dtype}".encode(), found)
        found = zlib.crc32(np.ascontiguousarray(tables[name]).data, found)
    return found
