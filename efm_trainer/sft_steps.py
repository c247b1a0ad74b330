"""The steps of a fine-tuning run: losses, batches, validation, everything a resume point holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efm_model.losses import action_loss, steps_to_go_loss
from efm_model.model import EmbodiedModel
from efm_trainer.distributed import ALONE, World
from efm_trainer.optimizer_state import optimizer_tensors, restore_optimizer
from efm_trainer.samples import SftSamples
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_state import Best, SftState, fingerprint, head_weights

ROLES = ("policy", "reward")
Drawn = tuple[Tensor, Tensor, Tensor]
"""Features, bins and steps to go of some observations; see `SftSamples`."""


class SftRun:
    """One fine-tuning run: everything that a resume point must hold is an attribute here.

    Every process of `world` draws the whole batch, computes its own rows of it and takes the same
    step; every one holds all of the state.
    """

    def __init__(
        self, model: EmbodiedModel, train: SftSamples, validation: SftSamples, config: SftConfig,
        world: World = ALONE,
    ) -> None:  # fmt: skip
        """Raises ValueError for samples that teach nothing, for a batch that does not divide."""
        check_batch(config, world)
        self.config, self._model, self._samples, self._world = config, model, train, world
        groups = self._groups()
        self._parameters = [p for group in groups for p in group["params"]]
        self._optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        self._best: dict[str, Best] = {}
        self._history: list[dict[str, float]] = []
        self._train_loss = np.zeros(2)
        self._since = 0
        self._action, self._reward = _sides(train, "training")
        self._action_validation, self._reward_validation = _sides(validation, "validation")
        self.fingerprint = fingerprint(model, train, validation, config.model_dump_json())

    def _groups(self) -> list[dict[str, Any]]:
        """What learns, in the optimiser's groups; `scale` multiplies a group's learning rate."""
        return [{"params": list(self._model.head_parameters()), "scale": 1.0}]

    def advance(self) -> None:
        """One optimiser step; its random numbers are a function of (seed, step)."""
        config = self.config
        generator = np.random.default_rng((config.seed, self.step))
        torch.manual_seed(int(generator.integers(2**62)))  # dropout
        self._model.train()
        half = config.batch // 2
        actions = self._action.draw(generator, half)
        steps = self._reward.draw(generator, half)
        for group in self._optimizer.param_groups:
            group["lr"] = _rate(config, self.step) * group["scale"]
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._world.mean(self._gradients(actions, steps))
        self._world.average_gradients(self._parameters)
        torch.nn.utils.clip_grad_norm_(self._parameters, config.gradient_norm)
        self._optimizer.step()
        self._train_loss += losses
        self._since += 1
        self.step += 1

    def _gradients(self, actions: Drawn, steps: Drawn) -> tuple[float, float]:
        """Leave the gradients of this process's rows in the parameters; both losses in nats."""
        half = len(actions[0])
        own = self._world.rows(half)
        actions, steps = (
            (features[own], bins[own], left[own])
            for features, bins, left in (self._noisy(actions), self._noisy(steps))
        )
        with self._world.dropout(own.start, own.stop, half):
            of_action, of_steps = self._action_loss(*actions), self._steps_loss(*steps)
        (of_action + of_steps).backward()  # type: ignore[no-untyped-call]
        return of_action.item(), of_steps.item()

    def _noisy(self, drawn: Drawn) -> Drawn:
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
        """Losses and errors on the held-out episodes; keeps weights for each role.

        What counts is the error of the expectation, of the action in bins and of d in relative
        terms: it is what the robot feels. The cross-entropy of few, human demonstrations turns
        upwards after 100 steps, when the policy reaches the goal in one of ten episodes. The
        error is flat long before success stops rising, so of all that are about as good as the
        best (`SftConfig.tolerance`) the latest is kept (docs/log.md).
        """
        self._model.eval()
        with torch.no_grad():
            acting, judging = self._held_out()
            action = float(self._action_loss(*acting))
            reward = float(self._steps_loss(*judging))
            errors = (self._action_error(*acting), self._steps_error(*judging))
        trained = self._train_loss / max(self._since, 1)
        self._train_loss, self._since = np.zeros(2), 0
        figures = {
            "step": float(self.step),
            "train/action_loss": float(trained[0]),
            "train/steps_loss": float(trained[1]),
            "validation/action_loss": action,
            "validation/steps_loss": reward,
            "validation/action_error_bins": errors[0],
            "validation/steps_log_error": errors[1],
        }
        for role, error in zip(ROLES, errors, strict=True):
            smallest = min(error, self._best[role].smallest) if role in self._best else error
            if error <= (1.0 + self.config.tolerance) * smallest:
                self._best[role] = Best(error, self.step, head_weights(self._model), smallest)
        self._history.append(figures)
        return figures

    def _held_out(self) -> tuple[Drawn, Drawn]:
        """What validation looks at: observations with an action, and with steps to go."""
        return self._action_validation.everything, self._reward_validation.everything

    def _action_error(self, features: Tensor, bins: Tensor, _: Tensor) -> float:
        """Mean distance in bins between the expected token and the true one."""
        p = torch.softmax(self._model.action_logits(features, bins), dim=-1)
        expected = p @ torch.arange(p.shape[-1], dtype=p.dtype)
        return float((expected - bins).abs().mean())

    def _steps_error(self, features: Tensor, _: Tensor, steps: Tensor) -> float:
        """Mean |log((1 + d) / (1 + steps left))|: relative, so that frames near the goal, on which
        the detector depends, count as much as the many far from it.
        """
        p = torch.softmax(self._model.steps_to_go_logits(features), dim=-1).numpy()
        bins = self._model.config.steps_to_go
        truth = np.minimum(steps.numpy(), bins.centres[-1])
        return float(np.abs(np.log1p(bins.expectation(p)) - np.log1p(truth)).mean())

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

    @property
    def best(self) -> dict[str, Best]:
        """The best validation so far, by role."""
        return dict(self._best)

    @property
    def history(self) -> list[dict[str, float]]:
        """One dict per validation so far."""
        return list(self._history)


def check_batch(config: SftConfig, world: World) -> None:
    """Raises ValueError when the global batch does not divide evenly by the processes."""
    least = 2 * world.size  # one row for each objective
    if config.batch % least:
        lower = config.batch // least * least
        choice = f"{lower} or {lower + least}" if lower else str(least)
        raise ValueError(
            f"batch {config.batch} does not divide by {world.size} processes and two objectives; "
            f"take --batch {choice}, or another number of processes"
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

    def draw(self, generator: np.random.Generator, count: int) -> Drawn:
        """Features, bins, steps of `count` random rows."""
        rows = torch.from_numpy(generator.integers(len(self._features), size=count))
        return self._features[rows], self._bins[rows], self._steps[rows]

    @property
    def everything(self) -> Drawn:
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
