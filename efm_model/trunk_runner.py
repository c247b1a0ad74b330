"""What runs a frozen trunk: one choice for the robots' engine and for the trainer.

Live and recomputed steps-to-go are compared to a thousandth of a step; two numeric back ends would
differ by more where the heads are sure of themselves.
"""

from __future__ import annotations

import logging
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from efm_model.model import EmbodiedModel
from efm_model.onnx_trunk import OnnxTrunk, OnnxUnavailableError

Backend = Literal["torch", "onnx", "auto"]
log = logging.getLogger(__name__)


class TrunkRunner(Protocol):
    """Images uint8 (B, cameras, H, W, 3), word ids int64 (B, L) -> features float32 (B, F)."""

    backend: str

    def __call__(
        self, images: NDArray[np.uint8], tokens: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Run the trunk without gradients."""
        ...


class TorchTrunk:
    """The trunk in torch."""

    backend = "torch"

    def __init__(self, model: EmbodiedModel) -> None:
        self._model = model

    def __call__(
        self, images: NDArray[np.uint8], tokens: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """See `TrunkRunner`."""
        with torch.no_grad():
            features: NDArray[np.float32] = self._model.features(images, tokens).numpy()
        return features


def trunk_runner(model: EmbodiedModel, weights_hash: str, backend: Backend) -> TrunkRunner:
    """What runs the trunk of `model`, whose weights hash to `weights_hash`.

    "auto" takes ONNX Runtime where it is installed and agrees with torch, and logs why not
    otherwise; "onnx" raises ValueError where it cannot be used.
    """
    if backend == "torch":
        return TorchTrunk(model)
    if model.config.backbone != "small":
        if backend == "onnx":
            raise ValueError(
                f"backend 'onnx': backbone '{model.config.backbone}' runs on torch alone; use "
                "backend 'auto' or 'torch'"
            )
        return TorchTrunk(model)
    try:
        return OnnxTrunk.of(model, weights_hash)
    except OnnxUnavailableError as error:
        if backend == "onnx":
            raise ValueError(f"backend 'onnx': {error}; use backend 'torch'") from error
        log.info("the trunk runs on torch: %s", error)
    return TorchTrunk(model)
