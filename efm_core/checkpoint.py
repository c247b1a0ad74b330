"""A checkpoint on disk: written atomically, and never believed without being checked.

`<version>/` = config.json, model.safetensors, preprocessor.json, training_state/ and, written
last, manifest.json with the SHA-256 of every other file. Only JSON, plain text and safetensors
are read; nothing here unpickles.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from efm_core.actions import ActionSpace
from efm_core.detector import DetectorSettings

VERSION = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,79}")
"""Names of versions: no leading dot, so neither hidden nor a way out of the folder."""
REQUIRED = ("config.json", "model.safetensors", "preprocessor.json")
MANIFEST = "manifest.json"
_SUFFIXES = (".json", ".safetensors", ".txt")
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,79}")
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
_WHOLE = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
_TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip

_Model = TypeVar("_Model", bound=BaseModel)
FileContent = bytes | Callable[[Path], None]
"""A file's bytes, or a function that writes it to the path given."""


class CheckpointError(ValueError):
    """A checkpoint that must not be used; says which file and field, and what to do."""


class Manifest(BaseModel):
    """`manifest.json`: what a checkpoint is, where it comes from and what its files hash to.

    files: relative path -> SHA-256 (hex), manifest.json excepted. trunk_hash: SHA-256 of the
    frozen trunk's tensors alone (`trunk_hash`). parent: version it was trained from.
    reward_version, reward_hash: the reward checkpoint of Stage 2 and its model.safetensors.
    bin_rule: how steps-to-go bins are centred. calibrated_on: ids of the episodes that the
    detector settings were chosen on. data_ids: episodes or data sets trained on.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    version: str = ""
    role: Literal["policy", "reward"]
    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(default_factory=dict)
    trunk_hash: str = ""
    parent: str = ""
    algorithm: str = "sft"
    round: int = -1
    reward_version: str = ""
    reward_hash: str = ""
    bin_rule: str = ""
    detector: DetectorSettings | None = None
    calibrated_on: list[str] = Field(default_factory=list)
    practice_temperature: Annotated[float, Field(ge=0.0)] = 0.8
    deployment_temperature: Annotated[float, Field(ge=0.0)] = 0.5
    data_ids: list[str] = Field(default_factory=list)
    metrics: dict[str, float] = Field(default_factory=dict)
    code_version: str = ""
    created_ns: int = 0


class _Camera(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


class CheckpointConfig(BaseModel):
    """The part of `config.json` that concerns a robot, whatever the network behind it."""

    model_config = ConfigDict(extra="allow")

    cameras: Annotated[tuple[_Camera, ...], Field(min_length=1)]
    action_space: ActionSpace

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras that the network wants, in order."""
        return tuple(camera.name for camera in self.cameras)


class _Normalisation(BaseModel):
    """The part of `preprocessor.json` without which every input would be wrong."""

    model_config = ConfigDict(extra="allow")

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    std: Annotated[tuple[float, ...], Field(min_length=1)]
    cameras: tuple[_Camera, ...] | None = None

    @model_validator(mode="after")
    def _usable(self) -> _Normalisation:
        finite = all(map(math.isfinite, self.mean + self.std))
        if len(self.mean) != len(self.std) or not finite or min(self.std) <= 0.0:
            raise ValueError(f"normalisation mean={self.mean} std={self.std} is not usable")
        return self


def check_version_name(version: str) -> str:
    """The name itself; raises CheckpointError for one that could leave its folder or hide."""
    if not VERSION.fullmatch(version):
        raise CheckpointError(
            f"version name {version!r}: use 1 to 80 of A-Z a-z 0-9 _ . - and no leading dot"
        )
    return version


def write_checkpoint(
    root: Path, version: str, files: Mapping[str, FileContent], manifest: Manifest
) -> Path:
    """Write `<root>/<version>/` so that it is there whole or not at all; returns its path.

    files: relative path -> content; at least `REQUIRED`. manifest: its `files` and `version` are
    filled in here. Raises CheckpointError for a bad name, FileExistsError for a version that is
    there (versions never change), OSError from the disk.
    """
    final = root / check_version_name(version)
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise CheckpointError(f"checkpoint {version} lacks {missing[0]}")
    if final.exists():
        raise FileExistsError(f"{final} exists; versions are never overwritten, choose a new name")
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f".{version}.tmp-{os.getpid()}"
    for left in root.glob(f".{version}.tmp-*"):  # of a process that was killed while writing it
        if left == temporary or not Path("/proc", left.name.rpartition("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()
    try:
        hashes = {name: _write(temporary, name, content) for name, content in files.items()}
        complete = manifest.model_copy(update={"version": version, "files": hashes})
        _write(temporary, MANIFEST, complete.model_dump_json(indent=2).encode() + b"\n")
        for folder in {temporary, *(p for p in temporary.rglob("*") if p.is_dir())}:
            _fsync(folder)
        temporary.rename(final)
        _fsync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _write(root: Path, name: str, content: FileContent) -> str:
    path = root / _safe_name(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    _fsync(path)
    return _file_hash(path)


def verify_checkpoint(
    path: Path,
    cameras: Collection[str] | None = None,
    space: ActionSpace | None = None,
    role: Literal["policy", "reward"] | None = None,
) -> Manifest:
    """Check every byte of a checkpoint, and that it fits the robot where one is given.

    cameras: names that the robot has. space: the robot's action space. role: what it shall be
    used for. Raises CheckpointError naming the file, the field and the remedy.
    """
    check_version_name(path.name)
    manifest = read_manifest(path)
    _check_listing(path, manifest)
    for name, expected in manifest.files.items():
        _check_file(path, name, expected)
    config = _parse(path / "config.json", CheckpointConfig)
    normalisation = _parse(path / "preprocessor.json", _Normalisation)
    if normalisation.cameras is not None:
        _check_cameras(path / "preprocessor.json", config, normalisation.cameras)
    trunk = _trunk_hash(_raw_tensors(path / "model.safetensors"))
    if manifest.trunk_hash and trunk != manifest.trunk_hash:
        raise CheckpointError(f"{path}/{MANIFEST}: trunk_hash is not that of the tensors 'trunk.*'")
    _check_fit(path, manifest, config, cameras, space, role)
    return manifest


def load_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a checkpoint's model.safetensors by name. Verify the checkpoint first.

    Raises CheckpointError when the file is not readable as safetensors.
    """
    file = path / "model.safetensors"
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: {error}; restore the checkpoint from its origin") from error


def read_config(path: Path) -> CheckpointConfig:
    """The robot's part of a checkpoint's config.json. Raises CheckpointError."""
    return _parse(path / "config.json", CheckpointConfig)


def trunk_hash(file: Path, prefix: str = "trunk.") -> str:
    """SHA-256 (hex) over the tensors of a safetensors file whose names begin with `prefix`.

    Over names (without the prefix), dtypes, shapes and bytes, sorted by name; "" without any.
    """
    return _trunk_hash(_raw_tensors(file), prefix)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a version's folder. Raises CheckpointError when it is absent or no good."""
    file = path / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{path} has no {MANIFEST}: it was never finished; choose another")
    manifest = _parse(file, Manifest)
    if manifest.version != path.name:
        raise CheckpointError(f"{file}: version is '{manifest.version}', the folder is {path.name}")
    return manifest


def _check_listing(path: Path, manifest: Manifest) -> None:
    for name in (*manifest.files, *REQUIRED):
        _safe_name(name)
        if name not in manifest.files:
            raise CheckpointError(f"{path}/{MANIFEST} does not list {name}; write it again")
    found = {str(p.relative_to(path).as_posix()) for p in path.rglob("*") if not p.is_dir()}
    for name in sorted(found - set(manifest.files) - {MANIFEST}):
        raise CheckpointError(f"{path}/{name} is not in {MANIFEST}; it does not belong here")


def _safe_name(name: str) -> str:
    parts = PurePosixPath(name).parts
    good = bool(parts) and len(parts) <= 3 and all(_PART.fullmatch(part) for part in parts)
    if not good or "/".join(parts) != name or not name.endswith(_SUFFIXES):
        raise CheckpointError(
            f"file name {name!r}: only {', '.join(_SUFFIXES)} below the checkpoint's own folder"
        )
    return name


def _check_file(path: Path, name: str, expected: str) -> None:
    file = path / name
    if not file.resolve().is_relative_to(path.resolve()) or file.is_symlink():
        raise CheckpointError(f"{file} leads out of the checkpoint; links are refused")
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; copy the checkpoint again")
    if _file_hash(file) != expected:
        raise CheckpointError(f"{file} does not match its SHA-256 in {MANIFEST}; copy it again")
    with file.open("rb") as opened:
        start = opened.read(9)
    # Every binary pickle since protocol 2 begins with 0x80, and so does one safetensors file in 32:
    # eight bytes of header length, a multiple of 8, and then the header's brace.
    tensors = name.endswith(".safetensors") and start[8:] == b"{"
    if start[:1] == b"\x80" and not tensors:
        raise CheckpointError(f"{file} is a pickle; it is refused and was not opened")
    if name.endswith(".json"):
        _json(file)
    elif name.endswith(".safetensors"):
        _check_finite(file)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}; copy the checkpoint again") from error


def _raw_tensors(file: Path) -> dict[str, tuple[str, tuple[int, ...], memoryview]]:
    """Name -> (safetensors dtype, shape, bytes), mapped and not read: it may be gigabytes."""
    try:
        with safe_open(str(file), framework="numpy"):  # checks the header against the file
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{file} is not safetensors: {error}; copy it again") from error
    with file.open("rb") as opened:
        content = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:start]))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        data = content[start + first : start + end]
        found[name] = (entry["dtype"], tuple(entry["shape"]), data)
    return found


def _check_finite(file: Path) -> None:
    for name, (kind, _, data) in _raw_tensors(file).items():
        if kind in _WHOLE:
            continue
        if kind in _FLOATS:
            finite = bool(np.isfinite(np.frombuffer(data, dtype=_FLOATS[kind])).all())
        elif kind == "BF16":  # NaN and infinity have all eight exponent bits set
            finite = not bool(np.any(np.frombuffer(data, np.uint16) & 0x7F80 == 0x7F80))
        else:
            raise CheckpointError(f"{file}: tensor {name} has dtype {kind}, which is not handled")
        if not finite:
            raise CheckpointError(f"{file}: tensor {name} holds NaN or infinity; do not use it")


def _trunk_hash(
    tensors: Mapping[str, tuple[str, tuple[int, ...], memoryview]], prefix: str = "trunk."
) -> str:
    names = sorted(name for name in tensors if name.startswith(prefix))
    digest = hashlib.sha256()
    for name in names:
        kind, shape, data = tensors[name]
        torch_name = _TORCH_NAMES.get(kind, kind)
        digest.update(f"{name.removeprefix(prefix)}|torch.{torch_name}|{shape}|".encode())
        digest.update(data)
    return digest.hexdigest() if names else ""


def _check_cameras(file: Path, config: CheckpointConfig, cameras: tuple[_Camera, ...]) -> None:
    names = tuple(camera.name for camera in cameras)
    if names != config.camera_names:
        raise CheckpointError(
            f"{file}: cameras are {names}, config.json says {config.camera_names}; "
            "the files are of different checkpoints"
        )


def _check_fit(
    path: Path,
    manifest: Manifest,
    config: CheckpointConfig,
    cameras: Collection[str] | None,
    space: ActionSpace | None,
    role: str | None,
) -> None:
    if role is not None and manifest.role != role:
        raise CheckpointError(f"{path}/{MANIFEST}: role is {manifest.role}, needed is {role}")
    if cameras is not None:
        lacking = [name for name in config.camera_names if name not in cameras]
        if lacking:
            raise CheckpointError(
                f"{path}/config.json: camera '{lacking[0]}' is not among the robot's "
                f"{sorted(cameras)}; rename the camera or choose another checkpoint"
            )
    if space is not None and config.action_space != space:
        raise CheckpointError(
            f"{path}/config.json: action_space.{_difference(config.action_space, space)}; "
            "choose a checkpoint trained for this robot"
        )


def _difference(ours: ActionSpace, theirs: ActionSpace) -> str:
    """The first field in which two action spaces differ, in words."""
    if ours.names != theirs.names:
        return f"dims are {ours.names}, the robot's are {theirs.names}"
    for field in ("kind", "frame", "rate", "chunk"):
        if getattr(ours, field) != getattr(theirs, field):
            return f"{field} is {getattr(ours, field)}, the robot's is {getattr(theirs, field)}"
    for a, b in zip(ours.dims, theirs.dims, strict=True):
        if a != b:
            return f"{a.name} is {a}, the robot's is {b}"
    return "is equal"


def _parse(file: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate(_json(file))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing; copy the checkpoint again") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise CheckpointError(f"{file}: {where}: {first['msg']}") from error


def _file_hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
