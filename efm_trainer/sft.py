"""Stage 1: supervised fine-tuning of the action head and the steps-to-go head on a frozen trunk.

Cross-entropies of the action tokens and of the steps-to-go bin, each batch split evenly between
the two (arXiv 2509.15155, section 3.1). The best step by each role's own validation loss becomes
that role's checkpoint. The whole run is a function of (data, settings, seed): the random numbers
of step k depend on (seed, k) alone, so that a run killed at any step and resumed gives the same
weights bit for bit at the same thread count.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from efm_model.losses import action_loss, steps_to_go_loss
from efm_model.model import EmbodiedModel
from efm_trainer.episode_data import EpisodeData
from efm_trainer.features import FeatureCache
from efm_trainer.optimizer_state import optimizer_tensors, restore_optimizer
from efm_trainer.progress import (
    Cancelled,
    MetricsLog,
    Pace,
    Progress,
    ProgressCallback,
    TrainingCancelledError,
    never,
)  # fmt: skip
from efm_trainer.samples import SftSamples, is_validation, join_samples, usable_for_sft
from efm_trainer.sft_state import (
    Best,
    SftState,
    fingerprint,
    head_weights,
    load_state,
    save_state,
)  # fmt: skip

_log = logging.getLogger(__name__)
ROLES = ("policy", "reward")


class SftConfig(BaseModel):
    """Settings of the fine-tuning.

    steps: optimiser steps. batch: observations per step, half for each objective. learning_rate:
    AdamW's peak, reached after `warmup` steps, then a cosine to a tenth. steps_sigma, action_sigma:
    deviations in steps and in bins of soft targets round the true bin, 0 for one-hot (the paper);
    neighbouring bins mean nearly the same, and few demonstrations are over-fitted without.
    feature_noise: deviation of normal noise on the (standardised) features. validate_every: steps
    between validations. save_every: steps between resume points. validation_share: of the
    episodes, used only where no record declares split "validation". clone_failures: learn actions
    from failed demonstrations too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Annotated[int, Field(ge=1)] = 2000
    batch: Annotated[int, Field(ge=2, multiple_of=2)] = 128
    learning_rate: Annotated[float, Field(gt=0.0, le=0.1)] = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.3
    steps_sigma: Annotated[float, Field(ge=0.0)] = 0.7
    action_sigma: Annotated[float, Field(ge=0.0)] = 1.0
    feature_noise: Annotated[float, Field(ge=0.0)] = 0.1
    gradient_norm: Annotated[float, Field(gt=0.0)] = 1.0
    validate_every: Annotated[int, Field(ge=1)] = 100
    save_every: Annotated[int, Field(ge=1)] = 500
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    clone_failures: bool = False
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True)
class SftResult:
    """What a run found, per role: head weights, validation loss in nats and its step.

    head: role -> state dict of the whole model without its trunk. history: one dict per validation.
    """

    heads: dict[str, dict[str, Tensor]]
    losses: dict[str, float]
    steps: dict[str, int]
    train_episodes: int
    validation_episodes: int
    state: SftState
    history: list[dict[str, float]] = field(default_factory=list)


def split_episodes(
    episodes: Sequence[EpisodeData], share: float
) -> tuple[list[EpisodeData], list[EpisodeData]]:
    """Training and validation episodes, by the records' split or else by a hash of the id.

    Episodes with split "none", faults and interrupted ones are left out.
    Raises ValueError when either side is empty.
    """
    usable = [e for e in episodes if usable_for_sft(e) and e.record.split != "none"]
    declared = any(e.record.split == "validation" for e in usable)
    chosen = [is_validation(e, share, declared) for e in usable]
    train = [e for e, held in zip(usable, chosen, strict=True) if not held]
    validation = [e for e, held in zip(usable, chosen, strict=True) if held]
    if not train or not validation:
        raise ValueError(
            f"{len(episodes)} episodes give {len(train)} for training and {len(validation)} for "
            "validation; record more demonstrations or mark some with split=validation"
        )
    return train, validation


def collect_samples(
    cache: FeatureCache, episodes: Sequence[EpisodeData], config: SftConfig
) -> tuple[SftSamples, SftSamples]:
    """Training and validation samples with their trunk features."""
    sides = split_episodes(episodes, config.validation_share)
    train, validation = (
        join_samples(side, [cache.features(e) for e in side], config.clone_failures)
        for side in sides
    )
    return train, validation


def fine_tune(
    model: EmbodiedModel,
    train: SftSamples,
    validation: SftSamples,
    config: SftConfig,
    run_dir: Path | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Cancelled = never,
) -> SftResult:
    """Train the heads of `model` in place; give the best weights of each role.

    run_dir: where metrics and resume points go; an unfinished run found there is continued when
    its settings and data agree. Raises TrainingCancelledError when `cancelled()` turns true (the
    resume point is kept).
    """
    run = _Run(model, train, validation, config)
    state = load_state(run_dir, run.fingerprint) if run_dir else None
    if state is not None:
        run.restore(state)
        _log.info("resuming fine-tuning at step %d of %d", run.step, config.steps)
    log = MetricsLog(run_dir) if run_dir else None
    pace = Pace(run.step / config.steps)
    try:
        while run.step < config.steps:
            run.advance()
            done = run.step / config.steps
            if run.step % config.validate_every == 0 or run.step == config.steps:
                figures = run.validate()
                if log:
                    log.write(run.step, figures)
                if progress:
                    progress(Progress("sft", done, pace.eta(done), figures))
            stop = cancelled()
            if run_dir and (stop or run.step % config.save_every == 0):
                save_state(run_dir, run.state())
            if stop:
                raise TrainingCancelledError(f"fine-tuning stopped at step {run.step}")
    finally:
        if log:
            log.close()
    return run.result()


class _Run:
    """One fine-tuning run: everything that a resume point must hold is an attribute here."""

    def __init__(
        self, model: EmbodiedModel, train: SftSamples, validation: SftSamples, config: SftConfig
    ) -> None:
        self.config, self._model, self._samples = config, model, train
        self._parameters = list(model.head_parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        self._best: dict[str, Best] = {}
        self._history: list[dict[str, float]] = []
        self._train_loss = np.zeros(2)
        self._since = 0
        self._action, self._reward = _sides(train, "training")
        self._action_validation, self._reward_validation = _sides(validation, "validation")
        self._episodes = (train.episodes, validation.episodes)
        self.fingerprint = fingerprint(model, train, validation, config.model_dump_json())

    def advance(self) -> None:
        """One optimiser step; its random numbers are a function of (seed, step)."""
        config = self.config
        generator = np.random.default_rng((config.seed, self.step))
        torch.manual_seed(int(generator.integers(2**62)))  # dropout
        self._model.train()
        half = config.batch // 2
        actions = self._noisy(self._action.draw(generator, half))
        steps = self._noisy(self._reward.draw(generator, half))
        of_action, of_steps = self._action_loss(*actions), self._steps_loss(*steps)
        self._optimizer.param_groups[0]["lr"] = _rate(config, self.step)
        self._optimizer.zero_grad(set_to_none=True)
        (of_action + of_steps).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, config.gradient_norm)
        self._optimizer.step()
        self._train_loss += [of_action.item(), of_steps.item()]
        self._since += 1
        self.step += 1

    def _noisy(self, drawn: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        features, bins, steps = drawn
        return features + self.config.feature_noise * torch.randn_like(features), bins, steps

    def _action_loss(self, features: Tensor, bins: Tensor, _: Tensor) -> Tensor:
        """Cross-entropy in nats per token against the (soft) bins."""
        logits = self._model.action_logits(features, bins)
        if self.config.action_sigma == 0.0:
            return action_loss(logits, bins)
        targets = soft_bins(bins, self._model.action_head.legal, self.config.action_sigma)
        finite = torch.log_softmax(logits, dim=-1).masked_fill(~self._model.action_head.legal, 0.0)
        return -(targets * finite).sum(-1).mean()

    def _steps_loss(self, features: Tensor, _: Tensor, steps: Tensor) -> Tensor:
        """Cross-entropy in nats against the (soft) bin of the steps to go."""
        targets = self._model.config.steps_to_go.soft_targets(
            steps.numpy(), self.config.steps_sigma
        )
        logits = self._model.steps_to_go_logits(features)
        return steps_to_go_loss(logits, torch.from_numpy(targets))

    def validate(self) -> dict[str, float]:
        """Both losses on the held-out episodes; keeps the best weights of each role."""
        self._model.eval()
        with torch.no_grad():
            action = float(self._action_loss(*self._action_validation.everything))
            reward = float(self._steps_loss(*self._reward_validation.everything))
        trained = self._train_loss / max(self._since, 1)
        self._train_loss, self._since = np.zeros(2), 0
        figures = {
            "step": float(self.step),
            "train/action_loss": float(trained[0]),
            "train/steps_loss": float(trained[1]),
            "validation/action_loss": action,
            "validation/steps_loss": reward,
        }
        for role, loss in zip(ROLES, (action, reward), strict=True):
            if role not in self._best or loss < self._best[role].loss:
                self._best[role] = Best(loss, self.step, head_weights(self._model))
        self._history.append(figures)
        return figures

    def state(self) -> SftState:
        """A resume point."""
        return SftState(
            fingerprint=self.fingerprint,
            step=self.step,
            heads=head_weights(self._model),
            optimizer=optimizer_tensors(self._optimizer),
            best=dict(self._best),
            history=list(self._history),
            train_loss=self._train_loss.tolist(),
            since=self._since,
        )

    def restore(self, state: SftState) -> None:
        """Continue from a resume point."""
        self.step = state.step
        self._model.load_state_dict(state.heads, strict=False)
        restore_optimizer(self._optimizer, state.optimizer)
        self._best, self._history = dict(state.best), list(state.history)
        self._train_loss, self._since = np.array(state.train_loss), state.since

    def result(self) -> SftResult:
        """The best weights of each role."""
        return SftResult(
            heads={role: best.heads for role, best in self._best.items()},
            losses={role: best.loss for role, best in self._best.items()},
            steps={role: best.step for role, best in self._best.items()},
            train_episodes=self._episodes[0],
            validation_episodes=self._episodes[1],
            state=self.state(),
            history=self._history,
        )


def soft_bins(bins: Tensor, legal: Tensor, sigma: float) -> Tensor:
    """Tokens int64 (B, T) -> distributions (B, T, M): a normal of `sigma` bins round each token.

    legal: bool (T, M); bins beyond a token's own get nothing and rows sum to 1.
    """
    grid = torch.arange(legal.shape[1], dtype=torch.float32)
    weight = torch.exp(-0.5 * ((grid - bins[..., None]) / sigma) ** 2) * legal
    return weight / weight.sum(-1, keepdim=True)


class _Side:
    """The rows of `samples` that one objective may use, drawn with replacement."""

    def __init__(self, samples: SftSamples, mask: NDArray[np.bool_], name: str) -> None:
        rows = np.flatnonzero(mask)
        if rows.size == 0:
            raise ValueError(f"no {name} in {samples.episodes} episodes; look at their labels")
        self._features = torch.from_numpy(samples.features[rows])
        self._bins = torch.from_numpy(samples.bins[rows])
        self._steps = torch.from_numpy(samples.steps[rows])

    def draw(self, generator: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Features, bins, steps of `count` random rows."""
        rows = torch.from_numpy(generator.integers(len(self._features), size=count))
        return self._features[rows], self._bins[rows], self._steps[rows]

    @property
    def everything(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features, bins, steps of all rows."""
        return self._features, self._bins, self._steps


def _sides(samples: SftSamples, name: str) -> tuple[_Side, _Side]:
    """Rows with a commanded action, and rows with known steps to go."""
    action = _Side(samples, samples.bins[:, 0] >= 0, f"{name} action of a person")
    return action, _Side(samples, samples.steps >= 0, f"{name} observation with steps-to-go")


def _rate(config: SftConfig, step: int) -> float:
    """Learning rate at `step`: linear warm-up, then a cosine to a tenth of the peak."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * (0.55 + 0.45 * math.cos(math.pi * done))
