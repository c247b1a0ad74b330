"""What the frozen vision encoder gave for the pictures of the last passes.

Adapters sit in the language part alone, so that policy and reward see the same: of two passes for
one observation the second takes the pictures' embeddings from here.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_PICTURES, _SEEN = "pixel_values", "mm_encoder_outputs"
_BULKY = ("last_hidden_state", "hidden_states", "attentions")
_KEPT = 4
"""Passes that are remembered: as many as a fleet's decision may be split into."""


class Sight:
    """The vision encoder of one base model, asked once for equal pictures; without gradients."""

    def __init__(self, base: Any) -> None:
        """base: the model without output layer."""
        self._base = base
        self._last: deque[tuple[dict[str, Tensor], Any]] = deque(maxlen=_KEPT)
        asked = getattr(base, "get_image_features", None)
        takes = _SEEN in inspect.signature(base.forward).parameters
        self._fields = tuple(inspect.signature(asked).parameters) if asked and takes else ()

    def replace(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Model inputs with pictures replaced by what is seen in them, where the model takes that.
        """
        if _PICTURES not in inputs or _PICTURES not in self._fields:
            return dict(inputs)
        given = {name: inputs[name] for name in self._fields if name in inputs}
        seen = next((out for known, out in self._last if _equal(known, given)), None)
        if seen is None:
            found = self._base.get_image_features(**given, return_dict=True)
            seen = type(found)(**{k: v for k, v in found.items() if k not in _BULKY})
            self._last.append((given, seen))
        return {**{k: v for k, v in inputs.items() if k != _PICTURES}, _SEEN: {"image": seen}}


def _equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
