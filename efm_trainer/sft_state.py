"""A resume point of fine-tuning: one safetensors file, replaced by rename."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from efm_model.model import EmbodiedModel
from efm_trainer.distributed import ALONE, World
from efm_trainer.samples import SftSamples

STATE_FILE = "resume.safetensors"
_ADAPTER = "trunk.adapter."


@dataclass(frozen=True, slots=True)
class Best:
    """The weights of a role to keep: validation error, step, weights; smallest error so far."""

    loss: float
    step: int
    heads: dict[str, Tensor]
    smallest: float


@dataclass(frozen=True, slots=True)
class SftState:
    """Everything that a run needs to go on as if it had never stopped.

    fingerprint: hash of data, settings and starting weights. optimizer: see `optimizer_tensors`.
    train_loss, since: sums since the last validation and how many steps they cover.
    """

    fingerprint: str
    step: int
    heads: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Best]
    history: list[dict[str, float]]
    train_loss: list[float]
    since: int


def head_weights(model: EmbodiedModel) -> dict[str, Tensor]:
    """A copy of every weight that learns: all but the trunk's, and the trunk's adapter, if any."""
    return {
        name: value.detach().clone()
        for name, value in model.state_dict().items()
        if not name.startswith("trunk.") or name.startswith(_ADAPTER)
    }


def fingerprint(
    model: EmbodiedModel, train: SftSamples, validation: SftSamples, settings: str
) -> str:
    """SHA-256 of everything that a run is a function of."""
    digest = hashlib.sha256(settings.encode())
    for side in (train, validation):
        for array in (side.features, side.bins, side.steps):
            digest.update(np.ascontiguousarray(array).data)
    for name, value in sorted(head_weights(model).items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def save_state(run_dir: Path, state: SftState) -> None:
    """Write `run_dir/resume.safetensors` atomically."""
    partial = run_dir / (STATE_FILE + ".partial")
    with partial.open("wb") as file:
        file.write(state_bytes(state))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, run_dir / STATE_FILE)


def state_bytes(state: SftState) -> bytes:
    """A resume point as a safetensors file."""
    tensors: dict[str, Tensor] = {f"heads/{k}": v for k, v in state.heads.items()}
    tensors |= {f"optimizer/{k}": v for k, v in state.optimizer.items()}
    for role, best in state.best.items():
        tensors |= {f"best/{role}/{k}": v for k, v in best.heads.items()}
    facts = {
        "fingerprint": state.fingerprint,
        "step": state.step,
        "best": {role: [b.loss, b.step, b.smallest] for role, b in state.best.items()},
        "history": state.history,
        "train_loss": state.train_loss,
        "since": state.since,
    }
    return save_tensors(
        {k: v.contiguous() for k, v in tensors.items()}, metadata={"state": json.dumps(facts)}
    )


def load_state(run_dir: Path, wanted: str, world: World = ALONE) -> SftState | None:
    """The resume point in `run_dir`, None when there is none or it is of another run.

    Rank 0 reads it and hands it to the others, whose machines need not see the folder.
    """
    path = run_dir / STATE_FILE
    data = path.read_bytes() if world.is_main and _fingerprint_in(path) == wanted else b""
    data = world.broadcast(data)
    if not data:
        return None
    facts = _facts(data[8 : 8 + _header_length(data)])
    tensors = load_tensors(data)
    return SftState(
        fingerprint=wanted,
        step=int(facts["step"]),
        heads=_below(tensors, "heads/"),
        optimizer=_below(tensors, "optimizer/"),
        best={
            role: Best(float(loss), int(step), _below(tensors, f"best/{role}/"), float(smallest))
            for role, (loss, step, smallest) in facts["best"].items()
        },
        history=facts["history"],
        train_loss=facts["train_loss"],
        since=int(facts["since"]),
    )


def _fingerprint_in(path: Path) -> str | None:
    if not path.exists():
        return None
    with path.open("rb") as file:
        found: str | None = _facts(file.read(_header_length(file.read(8)))).get("fingerprint")
    return found


def _header_length(data: bytes) -> int:
    """A safetensors file begins with the length of its JSON header, uint64, little-endian."""
    return int.from_bytes(data[:8], "little")


def _facts(header: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        json.loads(header).get("__metadata__", {}).get("state", "{}")
    )
    return found


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
