"""Vision-language backbones on disk: taken over once, then loaded offline from a checkpoint.

A backbone folder holds the model's config.json, model.safetensors and its processor's files. Every
checkpoint has one, `backbone/`; versions on one disk share the big file by hard links.
"""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch

from efm_core.actions import ActionSpace
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import CameraSpec, HeadConfig, ModelConfig
from efm_model.model import EmbodiedModel
from efm_model.preprocess import Preprocessor
from efm_model.vlm_config import (
    AdapterConfig,
    BackboneRequest,
    TransformersConfig,
)
from efm_model.vlm_files import ORIGIN, folder_hash
from efm_model.vlm_prompt import VlmPreprocessor, pin_preprocessor
from efm_model.vlm_source import asking, read_config, read_model
from efm_model.vlm_take_over import OFFLINE, load_processor, origin_of, take_over
from efm_model.vlm_token_ids import answer_tokens, check_ids
from efm_model.vlm_token_trunk import TokenTrunk
from efm_model.vlm_trunk import FrozenVlm, VlmTrunk

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
_loaded: WeakValueDictionary[str, FrozenVlm] = WeakValueDictionary()


def load_vlm(
    folder: Path, dtype: str, sha256: str, adapter: AdapterConfig | None = None,
    answers: bool = False,
) -> FrozenVlm:  # fmt: skip
    """The model of a backbone folder, one copy in memory however many versions hold it.

    adapter: shape of the adapters it shall take; a model with slots is another copy than one
    without, so that the latter computes as if there were no adapters. answers: whether its own
    vocabulary shall answer; that is another copy too.
    """
    key = _memory_key(dtype, sha256, adapter, answers)
    vlm = _loaded.get(key)
    if vlm is None:
        model, attention = read_model(str(folder), dtype, OFFLINE)
        vlm = FrozenVlm(model, getattr(torch, dtype), attention, adapter, answers)
        _loaded[key] = vlm
    return vlm


def _memory_key(dtype: str, sha256: str, adapter: AdapterConfig | None, answers: bool) -> str:
    slots = f"/{adapter.rank}/{adapter.alpha}" if adapter else ""
    return f"{sha256}/{dtype}{slots}" + ("/answers" if answers else "")


def build_trunk(config: ModelConfig, preprocessor: Preprocessor) -> VlmTrunk:
    """The trunk whose files stand in the preprocessor's folder; says in the log what it costs.

    Raises ValueError when they are not those that config.json names.
    """
    ours = config.transformers
    if ours is None or not isinstance(preprocessor, VlmPreprocessor):
        raise ValueError(
            "config.json: backbone 'transformers' needs its section `transformers`, and a "
            "preprocessor.json of kind 'transformers'; the files are of different checkpoints"
        )
    if not preprocessor.folder.is_dir():
        raise ValueError(f"{preprocessor.folder} is missing; copy the checkpoint again")
    found = folder_hash(preprocessor.folder)
    if found != ours.sha256:
        raise ValueError(
            f"{preprocessor.folder}: the files hash to {found[:12]}..., config.json says "
            f"transformers.sha256 {ours.sha256[:12]}...; copy the checkpoint again"
        )
    answers = ours.tokens is not None
    fresh = _memory_key(ours.dtype, ours.sha256, ours.adapter, answers) not in _loaded
    vlm = load_vlm(preprocessor.folder, ours.dtype, ours.sha256, ours.adapter, answers)
    known = f"{ours.sha256}|{ours.dtype}|{preprocessor.to_json()}"
    if ours.adapter is not None:  # its matrices are hashed with the trunk's tensors
        known += f"|rank {ours.adapter.rank}|alpha {ours.adapter.alpha}"
    if ours.tokens is not None:
        assert vlm.spoken is not None  # asked for above
        check_ids(
            ours.tokens, preprocessor, vlm.spoken.rows, config.action_space, config.steps_to_go
        )
        known += f"|{ours.tokens.model_dump_json()}"
    identity = hashlib.sha256(known.encode()).hexdigest()
    kind = TokenTrunk if answers else VlmTrunk
    trunk = asking(ours.source, lambda: kind(ours, preprocessor, vlm, identity))
    if fresh:
        seconds = asking(ours.source, lambda: _seconds(trunk, preprocessor))
        log.info("backbone %s: %s", ours.source, trunk.describe(seconds))
    return trunk


def _seconds(trunk: VlmTrunk, preprocessor: VlmPreprocessor) -> float:
    """Time of the second of two plain pictures; the first one warms up.

    Raises ValueError when the answer is not finite: half precision overflows in some models.
    """
    cameras = preprocessor.config.cameras
    shape = (1, len(cameras), cameras[0].height, cameras[0].width, 3)
    tokens = torch.from_numpy(np.array(preprocessor.tokens("push")))[None]
    took = 0.0
    for shade in range(2):
        picture = torch.full(shape, shade, dtype=torch.uint8)
        start = time.perf_counter()
        features = trunk.probe(picture, tokens)
        took = time.perf_counter() - start
        if not bool(torch.isfinite(features).all()):
            raise ValueError("its features are not finite; use dtype float32 or bfloat16")
    return took


def transformers_model(
    request: BackboneRequest,
    store: Path,
    action_space: ActionSpace,
    cameras: tuple[CameraSpec, ...] = (CameraSpec(),),
    steps_to_go: StepsToGoBins | None = None,
    heads: HeadConfig | None = None,
    seed: int = 0,
    adapter: AdapterConfig | None = None,
    tokens: bool = False,
) -> EmbodiedModel:
    """A model with fresh heads on a frozen vision-language model: where fine-tuning starts.

    store: folder for the model's files (`take_over`), on the disk of the checkpoints. seed: of the
    heads and of the adapter, if any; the global torch generator is left as it was. The trunk's
    statistics are still to be set (`VlmTrunk.standardise`). tokens: answers are tokens of the
    model's own vocabulary in place of heads (`efm_model.vlm_token_heads`).
    Raises BackboneError when the model cannot be used.
    """
    folder = take_over(request, store)
    origin = origin_of(folder)
    preprocessor = _new_preprocessor(request, folder, cameras, origin["chat_template"])
    text = read_config(str(folder), OFFLINE).get_text_config()
    bins = steps_to_go or StepsToGoBins()
    answers = asking(
        request.source,
        lambda: answer_tokens(preprocessor, text.vocab_size, action_space, bins),
    ) if tokens else None  # fmt: skip
    section = TransformersConfig(
        source=origin["source"], revision=origin["revision"], dtype=request.dtype,
        features=text.hidden_size, rows_per_pass=request.rows_per_pass,
        sha256=folder_hash(folder), adapter=adapter, tokens=answers,
    )  # fmt: skip
    config = ModelConfig(
        backbone="transformers", transformers=section, cameras=cameras,
        action_space=action_space, steps_to_go=bins,
        heads=heads or HeadConfig(),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EmbodiedModel(config, preprocessor)
    model.freeze_trunk()
    return model.eval()


def _new_preprocessor(
    request: BackboneRequest, folder: Path, cameras: tuple[CameraSpec, ...], chat: str | None
) -> VlmPreprocessor:
    """Prompt, token counts and field names, found out once and pinned from then on."""
    processor = load_processor(folder)
    processor.chat_template = chat
    no_processor = {"config.json", "generation_config.json", WEIGHTS, ORIGIN}
    files = tuple(p.name for p in sorted(folder.iterdir()) if p.name not in no_processor)
    return VlmPreprocessor(pin_preprocessor(request, processor, cameras, files), folder, processor)
