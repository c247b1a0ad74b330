"""Low-rank adapters (LoRA, through `peft`) beside the projections of a frozen language model.

The projections are found by what they are, linear layers below the module that owns the token
embedding, and not by names of models. One copy of the frozen weights serves any number of
adapters: `peft`'s layers are put in once as empty slots, and every pass lays its own matrices in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from efm_model.vlm_config import AdapterConfig
from efm_model.vlm_source import BackboneError

PREFIX = "trunk.adapter."
"""Names of adapter matrices in a model's state begin with this."""
_SLOT = "efm"
Shapes = dict[str, tuple[int, int]]
"""Name of a matrix, "<path below the language model>.A" or ".B" -> its rows and columns."""


def require_peft() -> None:
    """Raises BackboneError, with the remedy, where `peft` is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise BackboneError(
            f"an adapter (LoRA) needs the package peft ({error}); pip install 'efm_bringup[lora]'"
        ) from error


def language_part(base: Any) -> Any:
    """The language model inside a vision-language model: what owns the token embedding.

    Raises BackboneError where it holds the vision part too, so that they cannot be told apart.
    """
    embedding = base.get_input_embeddings()
    path = next(name for name, module in base.named_modules() if module is embedding)
    if "." not in path:
        raise BackboneError(
            f"{type(base).__name__}: its language part is no module of its own, so that an adapter "
            "would reach the vision encoder; train the heads alone (without --lora)"
        )
    return base.get_submodule(path.rpartition(".")[0])


def layers(language: nn.Module) -> nn.ModuleList:
    """The language model's stack of equal layers, first to last. Raises BackboneError."""
    found = [m for m in language.modules() if isinstance(m, nn.ModuleList) and _linear(m)]
    if not found:
        raise BackboneError(
            f"{type(language).__name__}: no stack of layers with linear projections is in it; "
            "train the heads alone (without --lora)"
        )
    return found[0]


def projections(language: nn.Module) -> dict[str, nn.Module]:
    """Path -> linear layer, for the attention and MLP projections of all layers."""
    stack = layers(language)
    root = next(name for name, module in language.named_modules() if module is stack)
    return {f"{root}.{path}": module for path, module in _linear(stack).items()}


def _linear(module: nn.Module) -> dict[str, nn.Module]:
    from transformers.pytorch_utils import Conv1D

    return {
        path: m for path, m in module.named_modules() if isinstance(m, (nn.Linear, Conv1D))
    }


def insert_slots(language: nn.Module, config: AdapterConfig) -> dict[str, Any]:
    """Put `peft`'s layers round the projections: path -> layer, frozen and without effect.

    The global torch generator is left as it was. Raises BackboneError.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    paths = list(projections(language))
    exact: Any = config.alpha  # peft declares whole numbers, and divides
    asked = LoraConfig(
        r=config.rank, lora_alpha=exact, lora_dropout=0.0, bias="none", target_modules=paths
    )
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(asked, language, adapter_name=_SLOT)
    language.requires_grad_(False)
    slots = {path: language.get_submodule(path) for path in paths}
    bare = [path for path, layer in slots.items() if not hasattr(layer, "lora_A")]
    if bare:
        raise BackboneError(f"peft cannot adapt '{bare[0]}'; train the heads alone, without --lora")
    return slots


def shapes_of(slots: Mapping[str, Any]) -> Shapes:
    """Names and shapes of the matrices that `lay_in` takes."""
    found: Shapes = {}
    for path, layer in slots.items():
        for letter, part in (("A", layer.lora_A), ("B", layer.lora_B)):
            rows, columns = part[_SLOT].weight.shape
            found[f"{path}.{letter}"] = (rows, columns)
    return found


def lay_in(slots: Mapping[str, Any], matrices: Mapping[str, Tensor]) -> None:
    """From now on the slots compute with `matrices`, without a copy: gradients reach them."""
    for path, layer in slots.items():
        layer.lora_A[_SLOT]._parameters["weight"] = matrices[f"{path}.A"]
        layer.lora_B[_SLOT]._parameters["weight"] = matrices[f"{path}.B"]


class AdapterWeights(nn.Module):
    """The matrices of one adapter, float32, under their paths: what learns, and what is stored."""

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        """A as `peft` draws it, on the CPU whatever the device; B zero: no effect at first."""
        super().__init__()
        for name, shape in shapes.items():
            *folders, leaf = name.split(".")
            weight = torch.zeros(shape)
            if leaf == "A":
                nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            _folder(self, folders).register_parameter(leaf, nn.Parameter(weight.to(device)))

    def matrices(self) -> dict[str, Tensor]:
        """Name -> matrix, as `lay_in` takes them."""
        return dict(self.named_parameters())


def _folder(owner: nn.Module, names: list[str]) -> nn.Module:
    for name in names:
        if name not in owner._modules:
            owner.add_module(name, nn.Module())
        owner = owner.get_submodule(name)
    return owner


def recompute_in_backward(language: nn.Module, wanted: Callable[[], bool]) -> None:
    """Layers keep only their inputs for the backward pass, whenever `wanted()` says so.

    Done here by wrapping each layer's `forward`: models differ in how they would do it, and most
    only in training mode, which switches other things on besides.
    """
    for layer in layers(language):
        layer.forward = _recomputed(layer.forward, wanted)


def _recomputed(forward: Callable[..., Any], wanted: Callable[[], bool]) -> Callable[..., Any]:
    def run(*inputs: Any, **options: Any) -> Any:
        if wanted() and torch.is_grad_enabled():
            return checkpoint(forward, *inputs, use_reentrant=False, **options)
        return forward(*inputs, **options)

    return run
