"""What a vision-language model will need, found from its configuration: no weight is read.

The model is built without storage (torch's `meta` device), so that a 3 B model costs nothing; what
its layers keep for the backward pass is counted by running them so, for one observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efm_model.config import CameraSpec
from efm_model.vlm_adapter import insert_slots, language_part, layers
from efm_model.vlm_config import AdapterConfig, BackboneRequest
from efm_model.vlm_prompt import VlmPreprocessor, pin_preprocessor
from efm_model.vlm_source import asking, check_directory, options_of, read_config, read_processor
from efm_model.vlm_take_over import OFFLINE, origin_of, taken_over


@dataclass(frozen=True, slots=True)
class Survey:
    """A model's configuration and what one observation is to it.

    tokens: per observation, padding included. pixels: numbers per observation that the image
    processor gives. pictures: per observation. present: whether the model was taken over already.
    """

    source: str
    config: Any
    tokens: int
    pixels: int
    pictures: int
    present: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """Counts of one model at one shape of adapter.

    parameters: of the whole model; base: those in use, the output layer left out; language: of the
    language model's layers; adapter: of its adapter. features: size of the hidden state. layers:
    of the language model. tokens: of one observation. kept: bytes that it leaves for the backward
    pass. seeing: bytes that the vision encoder works with for one observation, an upper estimate.
    """

    parameters: int
    base: int
    language: int
    adapter: int
    features: int
    layers: int
    tokens: int
    kept: int
    seeing: int


def survey(request: BackboneRequest, cameras: tuple[CameraSpec, ...], store: Path) -> Survey:
    """Read configuration and processor, and no weight. Raises BackboneError."""
    check_directory(request.source)
    folder = taken_over(request, store)
    source = request.source if folder is None else str(folder)
    options = options_of(request) if folder is None else OFFLINE
    config = read_config(source, options)
    processor = read_processor(source, config, options)
    if folder is not None:
        processor.chat_template = origin_of(folder)["chat_template"]
    pinned = pin_preprocessor(request, processor, cameras, ())
    camera = cameras[0]
    blank = torch.zeros((1, len(cameras), camera.height, camera.width, 3), dtype=torch.uint8)
    ready = VlmPreprocessor(pinned, folder or store, processor)
    fields = asking(request.source, lambda: ready.pixels(blank))
    pixels = max(field.numel() for field in fields.values())
    return Survey(
        request.source, config, pinned.length, pixels, len(cameras), folder is not None
    )


def measure(found: Survey, adapter: AdapterConfig | None, dtype: str) -> Measured:
    """Counts for training with this adapter, or heads alone, in `dtype`. Raises BackboneError."""
    return asking(found.source, lambda: _measure(found, adapter, getattr(torch, dtype)))


def _measure(found: Survey, adapter: AdapterConfig | None, dtype: torch.dtype) -> Measured:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        build: Any = AutoModelForImageTextToText.from_config
        model = build(found.config, dtype=dtype)
    model.requires_grad_(False).eval()
    base: Any = model.base_model
    whole, in_use = _count(model), _count(base)
    language = language_part(base)
    stack = layers(language)
    of_layers, learnt = _count(stack), 0
    if adapter is not None:
        for layer in insert_slots(language, adapter).values():
            for part in (layer.lora_A, layer.lora_B):
                learnt += _count(part.float().requires_grad_(True))
    size = found.config.get_text_config().hidden_size
    words = torch.empty(
        1, found.tokens, size, dtype=dtype, device="meta", requires_grad=adapter is None
    )
    kept = _kept(language, words)
    seeing = _seeing(base, language, found) * dtype.itemsize
    return Measured(
        whole, in_use, of_layers, learnt, size, len(stack), found.tokens, kept, seeing
    )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _seeing(base: Any, language: nn.Module, found: Survey) -> int:
    """Numbers in flight in one vision layer: a perceptron's, and unfused attention's, twice."""
    inside = set(language.modules())
    widths, outside = [0], [m for m in base.modules() if m not in inside]
    for stack in (m for m in outside if isinstance(m, nn.ModuleList)):
        linear = [m for m in stack.modules() if isinstance(m, nn.Linear)]
        widths += [max(m.in_features, m.out_features) for m in linear]
    sight = getattr(found.config, "vision_config", None)
    side = int(getattr(sight, "patch_size", 0) or 14)
    heads = [getattr(sight, name, None) for name in ("num_attention_heads", "num_heads")]
    patches = found.pixels // (3 * side**2)
    attention = 2 * max(n or 0 for n in (*heads, 1)) * patches**2 // found.pictures
    return 4 * max(widths) * patches + attention


def _kept(language: Any, words: Tensor) -> int:
    """Bytes that a pass of embedded words (1, tokens, size) keeps, weights left out."""
    weights = {p.untyped_storage()._cdata for p in language.parameters()}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            found.setdefault(storage, tensor)
        return tensor

    tokens = words.shape[1]
    # A mask of four dimensions is taken as it is; others are looked into, which needs storage.
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device="meta")
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        language(inputs_embeds=words, attention_mask=mask, use_cache=False)
    return sum(t.untyped_storage().nbytes() for t in found.values())
