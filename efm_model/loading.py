"""A checkpoint on disk -> a model that answers; nothing is believed without being checked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from efm_core.checkpoint import CheckpointError, FileContent, Manifest, verify_checkpoint
from efm_model.config import ModelConfig
from efm_model.model import EmbodiedModel
from efm_model.preprocess import Preprocessor


def load_model(
    path: Path, role: Literal["policy", "reward"] | None = None
) -> tuple[EmbodiedModel, Manifest]:
    """The model of the checkpoint at `path`, in eval mode with a frozen trunk, and its manifest.

    Raises CheckpointError, naming file and remedy, for a checkpoint that must not be used: a
    damaged or missing file, another role, a network that this version does not have.
    """
    manifest = verify_checkpoint(path, role=role)
    try:
        config = ModelConfig.model_validate_json((path / "config.json").read_bytes())
        preprocessor = Preprocessor.load(path / "preprocessor.json")
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten
            model = EmbodiedModel(config, preprocessor)
        model.load_state_dict(load_file(path / "model.safetensors"))
    except (ValidationError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: the files do not make a model ({error}); load it with the version of efm "
            f"that wrote it ({manifest.code_version or 'unknown'}) or train again"
        ) from error
    model.freeze_trunk()
    return model.eval(), manifest


def backbone_files(model: EmbodiedModel) -> dict[str, FileContent]:
    """Files that a checkpoint of `model` holds besides the usual ones: its backbone's, if any."""
    if model.config.transformers is None:
        return {}
    from efm_model.vlm_files import checkpoint_files
    from efm_model.vlm_prompt import VlmPreprocessor

    assert isinstance(model.preprocessor, VlmPreprocessor)  # else there would be no such model
    return checkpoint_files(model.preprocessor.folder)
