"""A resume point of fine-tuning: one safetensors file, replaced by rename."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from efm_model.model import EmbodiedModel
from efm_trainer.samples import SftSamples

STATE_FILE = "resume.safetensors"


@dataclass(frozen=True, slots=True)
class Best:
    """The weights of a role to keep: validation error, step, heads; smallest error seen so far."""

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
    """A copy of every weight but the trunk's."""
    state = model.state_dict()
    return {k: v.detach().clone() for k, v in state.items() if not k.startswith("trunk.")}


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
    data = save_tensors(
        {k: v.contiguous() for k, v in tensors.items()}, metadata={"state": json.dumps(facts)}
    )
    partial = run_dir / (STATE_FILE + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, run_dir / STATE_FILE)


def load_state(run_dir: Path, wanted: str) -> SftState | None:
    """The resume point in `run_dir`, None when there is none or it is of another run."""
    path = run_dir / STATE_FILE
    if not path.exists():
        return None
    with safe_open(str(path), framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get("state", "{}"))
        if facts.get("fingerprint") != wanted:
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
