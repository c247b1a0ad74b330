"""The pre-trained backbone that ships with the package: writing, checking and loading it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from efm_core.actions import ActionSpace
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import CameraSpec, HeadConfig, ModelConfig, SmallBackboneConfig
from efm_model.model import EmbodiedModel
from efm_model.preprocess import Preprocessor, PreprocessorConfig

GROUNDING = Path(__file__).parent / "weights" / "grounding"
"""The shipped weights: config.json, model.safetensors, preprocessor.json, manifest.json."""

_FILES = ("config.json", "model.safetensors", "preprocessor.json")


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of tensors, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def trunk_hash(trunk: nn.Module) -> str:
    """`tensor_hash` of a backbone: policy and reward share one pass only when these agree."""
    return tensor_hash(dict(trunk.state_dict()))


def save_weights(
    folder: Path,
    trunk: nn.Module,
    config: SmallBackboneConfig,
    preprocessor: Preprocessor,
    facts: dict[str, Any],
) -> None:
    """Write a backbone's four files; `facts` (recipe, seed, gate figures) goes to manifest.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in trunk.state_dict().items()}
    contents = {
        "config.json": (json.dumps(config.model_dump(), indent=2) + "\n").encode(),
        "model.safetensors": save_bytes(tensors),
        "preprocessor.json": preprocessor.to_json().encode(),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    manifest = {
        "schema_version": 1,
        "role": "backbone",
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        "trunk_sha256": trunk_hash(trunk),
        **facts,
    }
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _verified(folder: Path) -> dict[str, bytes]:
    """The three files' bytes after comparing their SHA-256 with manifest.json."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        contents = {name: (folder / name).read_bytes() for name in _FILES}
    except FileNotFoundError as error:
        raise ValueError(
            f"backbone weights: {error.filename} is missing; reinstall the package or run "
            "`efm pretrain`"
        ) from error
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != manifest["files"].get(name):
            raise ValueError(
                f"{folder / name}: SHA-256 differs from manifest.json, the file is damaged; "
                "reinstall the package or run `efm pretrain`"
            )
    return contents


def pretrained_model(
    action_space: ActionSpace,
    cameras: tuple[CameraSpec, ...] = (CameraSpec(),),
    steps_to_go: StepsToGoBins | None = None,
    heads: HeadConfig | None = None,
    weights: Path | None = GROUNDING,
    seed: int = 0,
) -> EmbodiedModel:
    """A model with fresh heads on the pre-trained, frozen backbone: where fine-tuning starts.

    weights: folder of backbone weights; None keeps vocabulary and sizes of the shipped ones but
        starts the backbone from random weights, not frozen (the "no pre-training" comparison).
    seed: of the random weights; the global torch generator is left as it was.
    Raises ValueError for missing or damaged weights, naming the file.
    """
    folder = GROUNDING if weights is None else weights
    contents = _verified(folder)
    small = SmallBackboneConfig.model_validate_json(contents["config.json"])
    base = PreprocessorConfig.model_validate_json(contents["preprocessor.json"])
    preprocessor = Preprocessor(base.model_copy(update={"cameras": cameras}))
    config = ModelConfig(
        small=small,
        cameras=cameras,
        action_space=action_space,
        steps_to_go=steps_to_go or StepsToGoBins(),
        heads=heads or HeadConfig(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EmbodiedModel(config, preprocessor)
    if weights is not None:
        try:
            model.trunk.load_state_dict(load_bytes(contents["model.safetensors"]))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"{folder / 'model.safetensors'} does not fit config.json: {error}; both must "
                "come from one pre-training run"
            ) from error
        model.freeze_trunk()
    return model.eval()
