"""Stage-1 losses, both cross-entropies: cloning and steps-to-go (arXiv 2509.15155, 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values (B,) where mask (B,) is true; exactly 0, with gradient 0, when it never is."""
    if mask is None:
        return values.mean()
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


def action_loss(logits: Tensor, bins: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy of the action tokens in nats per token.

    logits (B, T, M) teacher-forced, bins int64 (B, T), mask bool (B,): frames with an action to
    imitate (still frames after a success have none).
    """
    per_token = functional.cross_entropy(logits.transpose(1, 2), bins, reduction="none")
    return _mean(per_token.mean(dim=1), mask)


def steps_to_go_loss(logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy in nats against distributions from `StepsToGoBins.soft_targets`.

    logits (B, bins), targets float32 (B, bins) with rows that sum to 1, mask bool (B,).
    """
    return _mean(-(targets * torch.log_softmax(logits, dim=-1)).sum(-1), mask)
