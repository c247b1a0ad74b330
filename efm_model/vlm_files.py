"""The files of a backbone folder: what they hash to, and how checkpoints share them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from efm_core.checkpoint import FileContent

FOLDER = "backbone"
"""Folder of a checkpoint that holds the backbone's files."""
ORIGIN = "origin.json"
"""Where a taken-over folder came from; in no checkpoint."""
_hashes: dict[tuple[int, int, int, int], str] = {}


def folder_hash(folder: Path) -> str:
    """SHA-256 (hex) over names and SHA-256 of a backbone folder's files, origin.json left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name != ORIGIN:
            digest.update(f"{path.name}|{_file_hash(path)}|".encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file, read once however many versions link to it."""
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        _hashes[key] = digest.hexdigest()
    return _hashes[key]


def checkpoint_files(folder: Path) -> dict[str, FileContent]:
    """What a checkpoint stores of a backbone folder: hard links to it, copies on another disk."""
    return {
        f"{FOLDER}/{path.name}": _Link(path)
        for path in sorted(folder.iterdir())
        if path.name != ORIGIN
    }


class _Link:
    """Writes a file by linking to, or else copying, one that is there."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def __call__(self, path: Path) -> None:
        try:
            os.link(self._source, path)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(self._source, path)
