"""Improvement from a folder of practice bags, without collecting anything.

The bags may come from any policy versions: each decision carries the log-probability with which it
was drawn, mu. Advantages are those of practice (frozen steps-to-go, baseline b(d), fitted to all
bags at once). Three forms by name:
- `importance`: A min(pi / mu, limit) log pi, the weight held fixed within a step and clipped on
  one side: what the policy would hardly do any more cannot push it further, and nothing counts
  more than `limit` times. The weight is that of the length-normalised log-probability.
- `tapered`, the default: the same for decisions with A < 0 alone, the others weigh 1 (Le Roux et
  al., arXiv 2503.14286).
- `weighted`: exp(A / beta) log pi, at most `heaviest`: cloning that prefers what went better than
  expected (advantage-weighted regression, Peng et al., arXiv 1910.00177); mu is not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from efm_model.model import EmbodiedModel
from efm_trainer.improve import ImproveSettings, new_optimizer, trainable, weights_of
from efm_trainer.round_batch import RoundBatch

Method = Literal["importance", "tapered", "weighted"]


class OfflineSettings(ImproveSettings):
    """Settings of the update; those of practice that are not named here mean the same.

    method: see above. limit: most that pi / mu counts, used by the first two. beta, heaviest:
    deviations of the advantage that make a decision weigh e times as much, and the most that one
    weighs, used by `weighted` alone.
    """

    method: Method = "tapered"
    passes: Annotated[int, Field(ge=1, le=1000)] = 30
    learning_rate: Annotated[float, Field(gt=0.0, le=0.1)] = 3e-4
    minibatch: Annotated[int, Field(ge=1)] = 256
    limit: Annotated[float, Field(gt=0.0)] = 1.0
    beta: Annotated[float, Field(gt=0.0)] = 1.0
    heaviest: Annotated[float, Field(gt=0.0)] = 20.0


@dataclass(frozen=True, slots=True)
class PassReport:
    """Means over the updates of one pass.

    loss: of what is minimised. entropy: nats per token. kl: nats per decision, of the recorded
    policies to the new one on their own decisions. weight: mean factor of a decision before its
    advantage.
    """

    loss: float
    entropy: float
    kl: float
    weight: float

    def scalars(self) -> dict[str, float]:
        """Name -> figure, for metrics files and plots."""
        return {f"offline/{name}": float(getattr(self, name)) for name in self.__slots__}


def improve_offline(
    model: EmbodiedModel,
    batch: RoundBatch,
    recorded: NDArray[np.float64],
    settings: OfflineSettings,
    seed: int,
    on_pass: Callable[[int, PassReport], None] = lambda number, report: None,
) -> None:
    """Change the action head of `model` in place by `settings.passes` passes over the bags.

    batch, recorded: from `round_batch.join`; recorded is log mu, float64 (M,), nats per decision.
    The order of decisions depends on `seed` alone. Raises ValueError for fewer decisions than one
    minibatch.
    """
    count = len(batch)
    if count < settings.minibatch:
        raise ValueError(
            f"the bags hold {count} usable decisions, fewer than minibatch={settings.minibatch}; "
            "give a larger folder or a smaller minibatch"
        )
    model.eval()
    optimizer = new_optimizer(model, settings)
    columns = (
        torch.from_numpy(batch.features), torch.from_numpy(batch.bins),
        torch.from_numpy(recorded).float(), torch.from_numpy(weights_of(batch, settings)).float(),
    )  # fmt: skip
    generator = np.random.default_rng(seed)
    for number in range(settings.passes):
        order = generator.permutation(count)
        sums, updates = np.zeros(4), 0
        for start in range(0, count - settings.minibatch + 1, settings.minibatch):
            rows = torch.from_numpy(order[start : start + settings.minibatch])
            drawn = tuple(column[rows] for column in columns)
            sums += _step(model, optimizer, drawn, batch.temperature, settings)
            updates += 1
        on_pass(number, PassReport(*(sums / updates).tolist()))


def _step(
    model: EmbodiedModel,
    optimizer: torch.optim.Optimizer,
    drawn: tuple[Tensor, ...],
    temperature: float,
    settings: OfflineSettings,
) -> NDArray[np.float64]:
    """One update by a minibatch; its loss, entropy, kl and mean weight.

    drawn: features, bins, recorded log-probabilities and advantages of its decisions.
    """
    optimizer.zero_grad(set_to_none=True)
    count, means = len(drawn[0]), np.zeros(4)
    for part in torch.split(torch.arange(count), model.rows_per_pass or count):
        rows = tuple(column[part] for column in drawn)
        share = len(part) / count
        means += share * _backward(model, rows, share, temperature, settings)
    torch.nn.utils.clip_grad_norm_(trainable(model), settings.gradient_norm)
    optimizer.step()
    return means


def _backward(
    model: EmbodiedModel,
    drawn: tuple[Tensor, ...],
    share: float,
    temperature: float,
    settings: OfflineSettings,
) -> NDArray[np.float64]:
    """Add the gradients of a `share` of a minibatch; the means over it as `_step` gives them."""
    features, bins, recorded, advantage = drawn
    log_prob, entropy = model.token_log_prob(features, bins, temperature)
    weight = _weight(log_prob.detach(), recorded, advantage, settings)
    signed = weight if settings.method == "weighted" else weight * advantage
    gain = signed * log_prob.sum(dim=1)
    loss = -gain.mean() - settings.entropy_bonus * entropy.mean()
    (share * loss).backward()  # type: ignore[no-untyped-call]
    kl = (recorded - log_prob.detach().sum(dim=1)).mean()
    return np.array([loss.item(), entropy.mean().item(), kl.item(), weight.mean().item()])


def _weight(
    log_prob: Tensor, recorded: Tensor, advantage: Tensor, settings: OfflineSettings
) -> Tensor:
    """What a decision weighs, (B,); log_prob (B, tokens), recorded (B,) nats, advantage (B,)."""
    if settings.method == "weighted":
        return torch.exp(advantage / settings.beta).clamp(max=settings.heaviest)
    # Of a long chunk the raw product would be 0 or the limit at once.
    ratio = torch.exp((log_prob.sum(dim=1) - recorded) / log_prob.shape[1])
    clipped = ratio.clamp(max=settings.limit)
    if settings.method == "tapered":
        return torch.where(advantage > 0, torch.ones_like(clipped), clipped)
    return clipped
