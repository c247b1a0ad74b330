"""Model versions on disk: writing one with all that is known of its making, and loading one."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from efm_core.checkpoint import FileContent, Manifest, write_checkpoint
from efm_core.detector import DetectorSettings
from efm_core.registry import Registry
from efm_model.loading import backbone_files, load_model
from efm_model.model import EmbodiedModel
from efm_model.weights import trunk_hash

OPTIMIZER_FILE = "training_state/optimizer.safetensors"
STATE_FILE = "training_state/state.json"
BIN_RULE = "bin i of width w holds steps i*w .. (i+1)*w - 1 and stands for their mean"

Role = Literal["policy", "reward"]


@dataclass(frozen=True, slots=True)
class Making:
    """How a version came about; see `efm_core.checkpoint.Manifest` for the fields.

    state: JSON facts to resume from. optimizer: see `optimizer_tensors`.
    """

    role: Role
    algorithm: str
    parent: str = ""
    round: int = -1
    reward_version: str = ""
    reward_hash: str = ""
    detector: DetectorSettings | None = None
    calibrated_on: Sequence[str] = ()
    practice_temperature: float = 0.8
    deployment_temperature: float = 0.5
    data_ids: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)


def save_version(root: Path, version: str, model: EmbodiedModel, making: Making) -> Path:
    """Write `<root>/<version>/` atomically. Raises FileExistsError for a version that is there."""
    weights = {k: v.detach().contiguous() for k, v in model.state_dict().items()}
    files: dict[str, FileContent] = {
        "config.json": (model.config.model_dump_json(indent=2) + "\n").encode(),
        "model.safetensors": save_tensors(weights),
        "preprocessor.json": model.preprocessor.to_json().encode(),
        STATE_FILE: (json.dumps(dict(making.state), indent=1) + "\n").encode(),
        **backbone_files(model),
    }
    if making.optimizer:
        moments = {k: v.contiguous() for k, v in making.optimizer.items()}
        files[OPTIMIZER_FILE] = save_tensors(moments)
    manifest = Manifest(
        role=making.role, trunk_hash=trunk_hash(model.trunk), parent=making.parent,
        algorithm=making.algorithm, round=making.round, reward_version=making.reward_version,
        reward_hash=making.reward_hash, bin_rule=BIN_RULE, detector=making.detector,
        calibrated_on=list(making.calibrated_on),
        practice_temperature=making.practice_temperature,
        deployment_temperature=making.deployment_temperature, data_ids=list(making.data_ids),
        metrics=dict(making.metrics), code_version=code_version(), created_ns=time.time_ns(),
    )  # fmt: skip
    return write_checkpoint(root, version, files, manifest)


def load_version(
    registry: Registry, version: str, role: Role | None = None
) -> tuple[EmbodiedModel, Manifest]:
    """A verified version's model, in eval mode, its trunk frozen.

    Raises RegistryError when it is not there, CheckpointError when it must not be used.
    """
    return load_model(registry.path(version), role)


def load_training_state(
    registry: Registry, version: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A version's (JSON facts, optimizer tensors); both empty where it has none."""
    path = registry.path(version)
    facts = path / STATE_FILE
    moments = path / OPTIMIZER_FILE
    return (
        json.loads(facts.read_text(encoding="utf-8")) if facts.exists() else {},
        load_file(moments) if moments.exists() else {},
    )


def free_name(registry: Registry, wanted: str) -> str:
    """`wanted`, or with the first free number behind it: versions are never overwritten."""
    taken = set(registry.versions())
    if wanted not in taken:
        return wanted
    number = 2
    while f"{wanted}-{number}" in taken:
        number += 1
    return f"{wanted}-{number}"


def code_version() -> str:
    """The installed version, "" in a checkout that was never installed."""
    try:
        return package_version("efm_bringup")
    except PackageNotFoundError:
        return ""
