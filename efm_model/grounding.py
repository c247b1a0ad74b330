"""Pre-training losses of the small backbone and the errors that its gate is measured by."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from efm_model.geometry import DECIMETRE
from efm_model.preprocess import Preprocessor
from efm_model.scene_set import SceneSet, SceneSource, ask
from efm_model.trunk import PUSHER, REFERENT_A, REFERENT_B, Grounding, SmallTrunk

SPOT = 0.16
"""Standard deviation in dm of the target spot of an attention map: about a block's half width."""


class ContextReadout(nn.Module):
    """Discarded after pre-training: asks the learned context where the nearest other blocks are."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.read = nn.Linear(context, 6)

    def forward(self, context: Tensor) -> Tensor:
        """Context (B, n) -> saturated vectors (B, 3, 2) from pusher, A, B to the nearest other."""
        result: Tensor = self.read(torch.tanh(context)).view(-1, 3, 2)
        return result


def grounding_loss(
    found: Grounding, targets: Tensor, others: Tensor, readout: ContextReadout, map_weight: float
) -> dict[str, Tensor]:
    """All terms, already weighted; their sum is the loss.

    targets (B, 3, 2) positions of pusher, A, B in dm; others (B, K, 2) in dm with NaN for absent.
    """
    cells = found.cells.detach()
    position = functional.smooth_l1_loss(found.positions, targets, beta=0.05)
    vectors = functional.smooth_l1_loss(
        _relative(found.positions), _relative(targets), beta=0.05
    )
    spot = _spots(cells, targets)
    spot = spot / spot.sum(-1, keepdim=True).clamp_min(1e-6)
    pointing = -(spot * found.maps).sum(-1).mean()
    present = torch.isfinite(others[..., 0])
    wanted = (_spots(cells, others.nan_to_num(99.0)) * present[..., None]).amax(dim=1)
    occupied = functional.binary_cross_entropy_with_logits(
        found.others, wanted, pos_weight=torch.tensor(5.0)
    )
    nearest = _nearest(targets, others)
    context = functional.smooth_l1_loss(readout(found.context), nearest, beta=0.1)
    return {
        "position": position,
        "vectors": vectors,
        "pointing": map_weight * pointing,
        "others": 0.3 * occupied,
        "context": 0.1 * context,
    }


def _relative(positions: Tensor) -> Tensor:
    """(B, 3, 2) -> vectors pusher->A and A->B (B, 2, 2)."""
    return positions[:, 1:] - positions[:, :2]


def _spots(cells: Tensor, points: Tensor) -> Tensor:
    """Cells (C, 2), points (B, n, 2) -> unnormalised Gaussian spots (B, n, C)."""
    square = torch.cdist(points, cells[None].expand(len(points), -1, -1)).square()
    return torch.exp(-0.5 * square / SPOT**2)


def _nearest(targets: Tensor, others: Tensor) -> Tensor:
    """tanh of the vector (dm) from pusher, A, B to the nearest other block; 0 without one."""
    vectors = others[:, None] - targets[:, :, None]
    length = vectors.square().sum(-1).nan_to_num(1e6)
    index = length.argmin(-1)[..., None, None].expand(-1, -1, 1, 2)
    return torch.tanh(vectors.gather(2, index).squeeze(2).nan_to_num(0.0))


def errors(
    trunk: SmallTrunk,
    preprocessor: Preprocessor,
    scenes: SceneSet,
    source: SceneSource,
    seed: int = 7,
    questions: int = 2,
) -> dict[str, NDArray[np.float64]]:
    """Length of each error in mm over `questions` random questions per scene, with `pairs` (n, 2).

    Keys: pusher, a, b (positions), pusher_to_a, a_to_b (vectors), float64 (n,) each.
    """
    rng = np.random.default_rng(seed)
    trunk.eval()
    found, wanted, pairs = [], [], []
    for _ in range(questions):
        for start in range(0, len(scenes.images), 256):
            rows = np.arange(start, min(start + 256, len(scenes.images)))
            batch = ask(scenes, rows, rng, source, near=0.0)
            tokens = np.stack([preprocessor.tokens(text) for text in batch.texts])
            with torch.no_grad():
                ground = trunk.ground(torch.from_numpy(batch.images), torch.from_numpy(tokens))
            found.append(ground.positions.double().numpy())
            wanted.append(batch.targets.astype(np.float64))
            pairs.append(batch.pairs)
    off = (np.concatenate(found) - np.concatenate(wanted)) * DECIMETRE * 1000.0
    length = np.linalg.norm(off, axis=-1)
    return {
        "pusher": length[:, PUSHER],
        "a": length[:, REFERENT_A],
        "b": length[:, REFERENT_B],
        "pusher_to_a": np.linalg.norm(off[:, REFERENT_A] - off[:, PUSHER], axis=-1),
        "a_to_b": np.linalg.norm(off[:, REFERENT_B] - off[:, REFERENT_A], axis=-1),
        "pairs": np.concatenate(pairs),
    }


def summary(found: dict[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """Median and 90th percentile in mm of each kind of error."""
    return {
        name: {
            "median_mm": round(float(np.median(values)), 3),
            "p90_mm": round(float(np.quantile(values, 0.9)), 3),
        }
        for name, values in found.items()
        if name != "pairs"
    }
