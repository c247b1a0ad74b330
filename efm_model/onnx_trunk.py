"""The frozen trunk on ONNX Runtime: exported once per set of weights, checked against torch.

Only the trunk is exported: it is most of the work and never changes in Stage 2, so one exported
file serves every policy version, while the small heads stay in torch.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from efm_model.model import EmbodiedModel

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference to torch in standardised features (about unit variance) that is accepted."""
_OPSET = 18
_GRAPH = 2  # raised whenever the trunk's computation changes, so that caches start afresh


class OnnxUnavailableError(RuntimeError):
    """ONNX Runtime cannot run this trunk here; the message says why."""


def cache_dir() -> Path:
    """Where exported trunks are kept: $EFM_CACHE, else $XDG_CACHE_HOME/efm, else ~/.cache/efm."""
    base = os.environ.get("EFM_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "efm"


class OnnxTrunk:
    """Images uint8 (B, cameras, H, W, 3), word ids int64 (B, L) -> features float32 (B, F)."""

    backend = "onnx"

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Open an exported file. Raises OnnxUnavailableError when that fails."""
        try:
            import onnxruntime
        except ImportError as error:
            raise OnnxUnavailableError(
                "onnxruntime is not installed; pip install 'efm_bringup[cpu]' (or [gpu])"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        available = onnxruntime.get_available_providers()
        wanted = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # onnxruntime's own exception classes have no common base
            raise OnnxUnavailableError(f"{path} cannot be opened: {error}") from error

    @classmethod
    def of(cls, model: EmbodiedModel, key: str, threads: int = 1) -> OnnxTrunk:
        """The trunk of `model`, whose weights hash to `key`; exported to the cache if need be."""
        folder = cache_dir() / "onnx"
        camera = model.config.cameras[0]  # the exported graph is for pictures of this size alone
        size = f"{len(model.config.cameras)}x{camera.width}x{camera.height}"
        path = folder / f"{key}-{size}-{torch.__version__.split('+')[0]}-{_OPSET}-{_GRAPH}.onnx"
        if not path.exists():
            _export(model, path)
        trunk = cls(path, threads)
        trunk._check(model)
        return trunk

    def __call__(
        self, images: NDArray[np.uint8], tokens: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Run the trunk; see the class."""
        (features,) = self._session.run(None, {"images": images, "tokens": tokens})
        return features  # type: ignore[no-any-return]

    def _check(self, model: EmbodiedModel) -> None:
        images, tokens = _example(model, 3)
        with torch.no_grad():
            expected = model.features(images, tokens).numpy()
        worst = float(np.abs(self(images, tokens) - expected).max())
        if not worst <= TOLERANCE:
            raise OnnxUnavailableError(f"its features differ from torch's by {worst:.2g}")


def _example(model: EmbodiedModel, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Random pictures and word ids of the model's sizes."""
    rng = np.random.default_rng(0)
    camera = model.config.cameras[0]
    shape = (count, len(model.config.cameras), camera.height, camera.width, 3)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    words = model.preprocessor.vocabulary_size
    tokens = rng.integers(1, words, (count, model.preprocessor.config.max_tokens))
    return images, tokens.astype(np.int64)


def _export(model: EmbodiedModel, path: Path) -> None:
    images, tokens = _example(model, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporter, about its own internals
                torch.onnx.export(
                    model.trunk, (torch.from_numpy(images), torch.from_numpy(tokens)),
                    str(temporary), input_names=["images", "tokens"], output_names=["features"],
                    dynamic_axes={n: {0: "batch"} for n in ("images", "tokens", "features")},
                    opset_version=_OPSET, dynamo=False,
                )  # fmt: skip
        except (ImportError, RuntimeError, ValueError, TypeError) as error:
            raise OnnxUnavailableError(f"the trunk cannot be exported: {error}") from error
        temporary.replace(path)
    log.info("exported the trunk to %s", path)
