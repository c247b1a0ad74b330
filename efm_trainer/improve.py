"""One round of self-improvement: episodes of one policy version in, better weights out.

Stage 2 of arXiv 2509.15155. Three algorithms by name:
- `reinforce`: the paper's form, loss -c * R_t * log pi, one pass, no baseline, zero past the end.
- `reinforce_baseline`: advantages R_t - b(d_t), divided by their deviation and clipped.
- `clipped_ratio`: the same advantages under a clipped importance ratio, several passes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from efm_model.model import EmbodiedModel
from efm_trainer.round_batch import RoundBatch

_log = logging.getLogger(__name__)

Algorithm = Literal["reinforce", "reinforce_baseline", "clipped_ratio"]


class ImproveSettings(BaseModel):
    """Settings of the update; `ImproveSettings.paper()` gives the paper's exact form.

    gamma: discount per decision. trace: lambda of the generalised advantage, 1 for R_t - b(d_t),
    unused by `reinforce`. scale: c of the paper, used by `reinforce` alone.
    passes: times every decision is used. minibatch: decisions per update, drawn without
    replacement, an incomplete last one dropped. clip_advantage: bound in deviations.
    clip_ratio: the ratio of each token's probabilities is clipped to 1 +- this.
    entropy_bonus: weight in loss per nat of mean token entropy. gradient_norm: bound of the
    gradient's norm. zero_past_end: the paper's returns (also at time limits) instead of
    bootstrapping with b. fault_tail: decisions dropped before a fault.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: Algorithm = "clipped_ratio"
    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9
    trace: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9
    scale: Annotated[float, Field(gt=0.0)] = 0.05
    learning_rate: Annotated[float, Field(gt=0.0, le=0.1)] = 5e-4
    minibatch: Annotated[int, Field(ge=1)] = 64
    passes: Annotated[int, Field(ge=1, le=100)] = 4
    clip_advantage: Annotated[float, Field(gt=0.0)] = 3.0
    clip_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    entropy_bonus: Annotated[float, Field(ge=0.0)] = 0.005
    gradient_norm: Annotated[float, Field(gt=0.0)] = 1.0
    zero_past_end: bool = False
    fault_tail: Annotated[int, Field(ge=0)] = 10
    log_prob_tolerance: Annotated[float, Field(gt=0.0)] = 0.02
    steps_to_go_tolerance: Annotated[float, Field(gt=0.0)] = 1e-3

    @classmethod
    def paper(cls) -> ImproveSettings:
        """The form of arXiv 2509.15155: no baseline, no entropy bonus, no clipping, zero ends."""
        return cls(
            algorithm="reinforce", passes=1, minibatch=64, scale=0.05, learning_rate=1e-4,
            entropy_bonus=0.0, gradient_norm=1e9, zero_past_end=True,
        )  # fmt: skip

    @classmethod
    def named(cls, algorithm: Algorithm) -> ImproveSettings:
        """The recommended settings of an algorithm; `reinforce` is the paper's exact form."""
        if algorithm == "reinforce":
            return cls.paper()
        if algorithm == "reinforce_baseline":
            return cls(algorithm=algorithm, learning_rate=3e-4, passes=1)
        return cls()


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one round's update did: means over its updates, in nats where log-probabilities."""

    updates: int
    loss: float
    entropy: float
    gradient_norm: float
    kl: float
    advantage_deviation: float

    def scalars(self) -> dict[str, float]:
        """Name -> value, for metrics files and plots."""
        return {name: float(getattr(self, name)) for name in self.__slots__}


def trainable(model: EmbodiedModel) -> list[torch.nn.Parameter]:
    """The parameters Stage 2 may change: those of the action head, never the trunk."""
    return list(model.action_head.parameters())


def new_optimizer(model: EmbodiedModel, settings: ImproveSettings) -> torch.optim.Adam:
    """Adam over the action head."""
    return torch.optim.Adam(trainable(model), lr=settings.learning_rate)


def weights_of(batch: RoundBatch, settings: ImproveSettings) -> NDArray[np.float64]:
    """The factor of log pi for every usable decision, float64 (M,).

    `reinforce`: c * R_t. Otherwise advantages less their mean, over their deviation, clipped.
    """
    if settings.algorithm == "reinforce":
        return settings.scale * batch.returns
    advantage = batch.advantages - batch.advantages.mean()
    scaled = advantage / max(float(np.std(advantage)), 1e-6)
    return np.clip(scaled, -settings.clip_advantage, settings.clip_advantage)


def update(
    model: EmbodiedModel,
    optimizer: torch.optim.Optimizer,
    batch: RoundBatch,
    settings: ImproveSettings,
    seed: int,
) -> UpdateReport:
    """Change the action head of `model` in place by one round.

    The order of decisions depends on `seed` alone. The model is used without dropout, as it was
    when it acted: otherwise log pi would be that of another policy. Raises ValueError when the
    round has fewer usable decisions than one minibatch.
    """
    count = len(batch)
    if count < settings.minibatch:
        raise ValueError(
            f"the round holds {count} usable decisions, fewer than minibatch={settings.minibatch}; "
            "run more episodes per round or lower the minibatch"
        )
    model.eval()
    weights = torch.from_numpy(weights_of(batch, settings)).float()
    features = torch.from_numpy(batch.features)
    bins = torch.from_numpy(batch.bins)
    behaviour = torch.from_numpy(batch.log_prob).float()
    generator = np.random.default_rng(seed)
    sums = np.zeros(4)
    updates = 0
    for _ in range(settings.passes):
        order = generator.permutation(count)
        for start in range(0, count - settings.minibatch + 1, settings.minibatch):
            rows = torch.from_numpy(order[start : start + settings.minibatch])
            optimizer.zero_grad(set_to_none=True)
            for part in rows.split(model.rows_per_pass or len(rows)):
                drawn = (features[part], bins[part], behaviour[part], weights[part])
                share = len(part) / len(rows)
                sums += _backward(model, drawn, share, batch.temperature, settings)
            norm = torch.nn.utils.clip_grad_norm_(trainable(model), settings.gradient_norm)
            optimizer.step()
            sums[2] += float(norm)
            updates += 1
    loss_mean, entropy_mean, norm_mean, kl_mean = sums / updates
    deviation = float(np.std(batch.advantages))
    return UpdateReport(updates, loss_mean, entropy_mean, norm_mean, kl_mean, deviation)


def _backward(
    model: EmbodiedModel,
    drawn: tuple[Tensor, Tensor, Tensor, Tensor],
    share: float,
    temperature: float,
    settings: ImproveSettings,
) -> NDArray[np.float64]:
    """Add the gradients of a `share` of a minibatch; its part of loss, entropy, 0 and kl.

    drawn: features, bins, log-probabilities under the behaviour and weights of its decisions.
    """
    features, bins, behaviour, weights = drawn
    log_prob, entropy = model.token_log_prob(features, bins, temperature)
    gain = _gain(log_prob, behaviour, weights, settings)
    loss = -gain.mean() - settings.entropy_bonus * entropy.mean()
    (share * loss).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        kl = (behaviour - log_prob).sum(dim=1).mean()
    return share * np.array([loss.item(), entropy.mean().item(), 0.0, kl.item()])


def _gain(log_prob: Tensor, behaviour: Tensor, weight: Tensor, settings: ImproveSettings) -> Tensor:
    """What is maximised, per decision (B,); log_prob, behaviour (B, tokens) nats, weight (B,)."""
    if settings.algorithm != "clipped_ratio":
        return weight * log_prob.sum(dim=1)
    # Per token: the product over a long chunk would leave the clip at once.
    ratio = torch.exp(log_prob - behaviour)
    clipped = ratio.clamp(1.0 - settings.clip_ratio, 1.0 + settings.clip_ratio)
    return torch.minimum(ratio * weight[:, None], clipped * weight[:, None]).sum(dim=1)
