"""An optimizer's state as named tensors, for safetensors: never a pickle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All per-parameter state, name "<parameter index>.<field>" -> tensor (a copy)."""
    result: dict[str, Tensor] = {}
    for index, fields in optimizer.state_dict()["state"].items():
        for name, value in fields.items():
            result[f"{index}.{name}"] = torch.as_tensor(value).detach().clone()
    return result


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put `optimizer_tensors` back. Raises ValueError when a shape differs from its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index_text, field = name.split(".", 1)
        index = int(index_text)
        if index >= len(parameters):
            raise ValueError(f"training_state: '{name}' has no parameter; it is of another model")
        if value.dim() and value.shape != parameters[index].shape:
            raise ValueError(
                f"training_state: '{name}' has shape {tuple(value.shape)}, the parameter "
                f"{tuple(parameters[index].shape)}; it is of another model"
            )
        state.setdefault(index, {})[field] = value.clone()
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
