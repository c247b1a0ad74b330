"""Pictures of one camera that stay on disk until a row is asked for: memory-mapped, checked.

A cache entry holds them as recorded: JPEG and PNG as their bytes, decoded when asked for by the
decoder of the robot; raw pictures as RGB. Nothing but the rows asked for is ever in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from efm_core import camera_pixels
from efm_core.camera_intake import Frame

_log = logging.getLogger(__name__)
OPEN_FILES = 4096
"""Mappings kept at a time: the kernel allows about 65,000 per process."""


class CacheDamagedError(ValueError):
    """A cache entry whose bytes are not those that were written; says what to do."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """What the decoder needs of a sensor_msgs/CompressedImage."""

    data: bytes | NDArray[np.uint8]
    format: str = ""


@dataclass(frozen=True, slots=True)
class CompressedPictures:
    """Pictures of one camera as they were recorded, compressed; row i is `data[i]`.

    shape: (N, H, W, 3) once decoded. digest: see `picture_digest`.
    """

    data: Sequence[bytes]
    shape: tuple[int, int, int, int]
    digest: str

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        return camera_pixels.decode(Compressed(self.data[row]))


class StoredPictures:
    """Row number -> uint8 (H, W, 3) RGB, out of the cache entry at `path`.

    Every row is checked against its checksum when it is first read; a damaged entry is made anew
    from its bag by `mend`, with a warning. Raises CacheDamagedError where that cannot be done.

    camera: whose. shape: (N, H, W, 3). digest: see `picture_digest`. checksums: uint32 (N,),
    CRC-32 of each row's bytes as stored. ends: int64 (N,) where each compressed row ends in them,
    None for raw ones.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, path: Path, camera: str, shape: tuple[int, int, int, int], digest: str,
        checksums: NDArray[np.uint32], ends: NDArray[np.int64] | None, mend: Callable[[], object],
    ) -> None:  # fmt: skip
        self.path, self.camera, self.shape, self.digest = path, camera, shape, digest
        self._checksums, self._ends, self._mend = checksums, ends, mend
        self._file, self._name = str(path), f"images/{camera}"
        self._checked = np.zeros(shape[0], dtype=bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Read-only where it needs no decoding: a view of the file."""
        row = operator.index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} pictures of camera '{self.camera}'")
        row %= len(self)
        stored = self._stored(row)
        return stored if self._ends is None else camera_pixels.decode(Compressed(stored))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """All of them at once, for comparisons: as large as they are."""
        if copy is False:
            raise ValueError("pictures on disk cannot be had without a copy")
        return np.stack([self[row] for row in range(len(self))]).astype(dtype or np.uint8)

    def _stored(self, row: int) -> NDArray[np.uint8]:
        try:
            return self._read(row)
        except CacheDamagedError as damage:
            _log.warning("%s; it is made anew from its bag", damage)
            self._mend()
            mapped.cache_clear()  # the old file's mapping
            return self._read(row)

    def _read(self, row: int) -> NDArray[np.uint8]:
        try:
            rows = mapped(self._file, self._name)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise CacheDamagedError(f"cache entry {self.path} cannot be read: {error}") from error
        stored: NDArray[np.uint8]
        if self._ends is None:
            stored = rows[row]
        else:
            stored = rows[self._ends[row - 1] if row else 0 : self._ends[row]]
        if not self._checked[row]:
            if zlib.crc32(stored.data) != self._checksums[row]:
                raise CacheDamagedError(
                    f"cache entry {self.path}: picture {row} of camera '{self.camera}' does not "
                    "match its checksum"
                )
            self._checked[row] = True
        return stored


Pictures = NDArray[np.uint8] | StoredPictures | CompressedPictures
"""uint8 (N, H, W, 3), RGB, in memory or not: row i by [i]."""


@lru_cache(maxsize=OPEN_FILES)
def mapped(path: str, name: str) -> NDArray[np.uint8]:
    """A tensor of a safetensors file as a read-only view of the file.

    `safe_open` would copy every row, `np.memmap` hold a file descriptor per episode. Raises
    OSError, RuntimeError, ValueError or KeyError for a file that is not there, cut or another one.
    """
    import torch  # not by those that read bags alone

    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        found = json.loads(file.read(start - 8))[name]
    begin, end = (start + offset for offset in found["data_offsets"])
    whole: NDArray[np.uint8] = torch.from_file(path, size=end, dtype=torch.uint8).numpy()
    whole.flags.writeable = False
    rows: NDArray[np.uint8] = whole[begin:end].reshape(found["shape"])
    return rows


def decoded(frames: Sequence[Frame]) -> NDArray[np.uint8]:
    """All pictures in memory, uint8 (N, H, W, 3)."""
    return np.stack([frame.rgb for frame in frames])


def as_recorded(frames: Sequence[Frame]) -> NDArray[np.uint8] | CompressedPictures:
    """Compressed pictures as their bytes, raw ones decoded."""
    if not all(camera_pixels.is_compressed(frame.message) for frame in frames):
        return decoded(frames)
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(np.ascontiguousarray(frame.rgb).data)
    shape = (len(frames), *frames[0].rgb.shape)
    return CompressedPictures(
        [bytes(frame.message.data) for frame in frames], shape, digest.hexdigest()
    )


def picture_digest(pictures: Pictures) -> str:
    """SHA-256 (hex) of all pixels; equal for the same pictures in memory and on disk."""
    if isinstance(pictures, (StoredPictures, CompressedPictures)):
        return pictures.digest
    return hashlib.sha256(np.ascontiguousarray(pictures).data).hexdigest()
