"""The recipe on point masses: cloning and steps-to-go from wandering demonstrations, then practice.

The smallest proof that the mathematics works: tokens, steps-to-go bins, returns, baseline and
update are the very ones of the robots; the backbone is the identity on the true state. Setting of
the authors' own example (arXiv 2509.15155): 10,000 demonstrations, gamma 0.9, rounds of 2,048
actions, 32 minibatches of 64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from efm_bringup.learning.pointmass_world import (
    LIMIT,
    SPACE,
    STATE,
    Demonstrations,
    Masses,
    demonstrate,
)
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import HeadConfig
from efm_model.heads import ActionHead, StepsToGoHead
from efm_model.losses import action_loss, steps_to_go_loss
from efm_model.model import EmbodiedModel
from efm_trainer.baseline import Segment, advantages, fit_baseline
from efm_trainer.features import predicted_steps
from efm_trainer.improve import ImproveSettings, new_optimizer, update
from efm_trainer.intervals import wilson
from efm_trainer.round_batch import RoundBatch, behaviour_log_prob

BINS = StepsToGoBins(count=47, width=3)
Told = Callable[[dict[str, float]], None]


class PointmassSettings(BaseModel):
    """Sizes of the run. near: d in steps at which the mass takes itself to be at the goal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0)] = 0
    demonstrations: Annotated[int, Field(ge=10)] = 10_000
    sft_steps: Annotated[int, Field(ge=1)] = 4_000
    batch: Annotated[int, Field(ge=2)] = 512
    rounds: Annotated[int, Field(ge=1)] = 64
    actions_per_round: Annotated[int, Field(ge=64)] = 2_048
    starts: Annotated[int, Field(ge=10)] = 1_000
    near: Annotated[float, Field(gt=0.0)] = 1.6


class StateModel(EmbodiedModel):
    """Both heads on the standardised true state; `features` are that state."""

    def __init__(self, seed: int) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(seed)
        heads = HeadConfig(hidden=128, dropout=0.0)
        self.trunk = nn.Identity()
        self.action_head = ActionHead(STATE, SPACE, heads)
        self.steps_to_go_head = StepsToGoHead(STATE, BINS, heads)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Success by the true distance, and actions to it, on starts that nobody trained on."""

    success: float
    interval: tuple[float, float]
    actions: float

    def named(self, name: str) -> dict[str, float]:
        """Figures with a prefix."""
        low, high = self.interval
        return {
            f"{name}/success": self.success, f"{name}/low": low, f"{name}/high": high,
            f"{name}/actions": self.actions,
        }  # fmt: skip


def clone(model: StateModel, data: Demonstrations, settings: PointmassSettings) -> None:
    """Stage 1: next action and steps-to-go by cross-entropy, the paper's two losses."""
    states, bins = torch.from_numpy(data.states), torch.from_numpy(data.bins)
    steps = torch.from_numpy(BINS.index(data.steps))
    acted = np.flatnonzero(data.bins[:, 0] >= 0)
    optimizer = torch.optim.Adam(model.head_parameters(), lr=1e-3)
    rng = np.random.default_rng((settings.seed, 2))
    for step in range(settings.sft_steps):
        for group in optimizer.param_groups:  # linear to zero: the last steps average the noise
            group["lr"] = 1e-3 * (1.0 - step / settings.sft_steps)
        rows = torch.from_numpy(rng.choice(acted, settings.batch))
        seen = torch.from_numpy(rng.integers(len(states), size=settings.batch))
        loss = action_loss(model.action_logits(states[rows], bins[rows]), bins[rows])
        targets = nn.functional.one_hot(steps[seen], BINS.count).float()
        loss = loss + steps_to_go_loss(model.steps_to_go_logits(states[seen]), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    model.eval()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One finished episode: states (T + 1, 8), tokens (T, 2), whether d said that it arrived."""

    states: NDArray[np.float32]
    bins: NDArray[np.int64]
    arrived: bool


def roll_out(
    policy: StateModel, reward: StateModel, rng: np.random.Generator, count: int, near: float
) -> list[Rollout]:
    """`count` episodes side by side, each until d <= near or the limit; temperature 1."""
    masses = Masses.at_random(rng, count)
    states, bins = [], []
    ended = np.full(count, LIMIT)
    arrived = np.zeros(count, dtype=bool)
    for tick in range(LIMIT + 1):
        seen = masses.state()
        states.append(seen)
        now = (predicted_steps(reward, seen, BINS) <= near) & ~arrived & (ended == LIMIT)
        ended[now], arrived[now] = tick, True
        if tick == LIMIT or arrived.all():
            break
        chosen, _, _ = policy.sample(torch.from_numpy(seen), rng.random((count, 2)), 1.0)
        bins.append(chosen)
        masses.step(SPACE.decode(chosen))
    seen_all, chosen_all = np.stack(states, 1), np.stack(bins, 1)
    return [
        Rollout(seen_all[i, : end + 1], chosen_all[i, :end], bool(arrived[i]))
        for i, end in enumerate(ended.tolist())
        if end > 0
    ]


def gather(
    policy: StateModel, reward: StateModel, settings: PointmassSettings, improve: ImproveSettings,
    number: int,
) -> RoundBatch:  # fmt: skip
    """One round: whole episodes until there are enough actions, with returns and advantages."""
    rng = np.random.default_rng((settings.seed, 3, number))
    episodes: list[Rollout] = []
    while sum(len(e.bins) for e in episodes) < settings.actions_per_round:
        episodes += roll_out(policy, reward, rng, 32, settings.near)
    segments = [
        Segment(predicted_steps(reward, e.states, BINS), bootstrap=not e.arrived)
        for e in episodes
    ]
    baseline = fit_baseline(segments, improve.gamma)
    tails = [
        0.0 if improve.zero_past_end else float(baseline(s.steps_to_go[-1])) for s in segments
    ]
    features = np.concatenate([e.states[:-1] for e in episodes])
    bins = np.concatenate([e.bins for e in episodes])
    gained = [s.returns(improve.gamma, tail) for s, tail in zip(segments, tails, strict=True)]
    gain = [
        advantages(s, baseline, improve.gamma, improve.trace, improve.zero_past_end)
        for s in segments
    ]
    chosen = rng.permutation(len(bins))[: settings.actions_per_round]
    return RoundBatch(
        features=features[chosen], bins=bins[chosen],
        log_prob=behaviour_log_prob(policy, features[chosen], bins[chosen], 1.0),
        returns=np.concatenate(gained)[chosen], advantages=np.concatenate(gain)[chosen],
        steps_to_go=np.concatenate([s.steps_to_go[:-1] for s in segments])[chosen],
        temperature=1.0,
    )  # fmt: skip


def evaluate(policy: StateModel, settings: PointmassSettings) -> Outcome:
    """Truth alone: within reach of the goal at any observation up to the limit."""
    rng = np.random.default_rng((settings.seed, 4))
    masses = Masses.at_random(rng, settings.starts)
    actions = np.full(settings.starts, -1)
    for tick in range(LIMIT + 1):
        actions[masses.reached & (actions < 0)] = tick
        if (actions >= 0).all() or tick == LIMIT:
            break
        draws = rng.random((settings.starts, 2))
        chosen, _, _ = policy.sample(torch.from_numpy(masses.state()), draws, 1.0)
        masses.step(SPACE.decode(chosen))
    reached = actions >= 0
    mean = float(actions[reached].mean()) if reached.any() else float(LIMIT)
    return Outcome(float(reached.mean()), wilson(int(reached.sum()), settings.starts), mean)


def run(settings: PointmassSettings, improve: ImproveSettings, told: Told) -> dict[str, float]:
    """The whole experiment; `told` hears every eighth round's figures. Deterministic by seed."""
    torch.set_num_threads(1)
    policy = StateModel(settings.seed)
    clone(policy, demonstrate(settings.demonstrations, settings.seed), settings)
    reward = StateModel(settings.seed)
    reward.load_state_dict(policy.state_dict())
    reward.eval()
    figures = evaluate(policy, settings).named("cloned")
    told({"round": 0.0, **figures})
    optimizer = new_optimizer(policy, improve)
    for number in range(settings.rounds):
        batch = gather(policy, reward, settings, improve, number)
        report = update(policy, optimizer, batch, improve, settings.seed * 1009 + number)
        if (number + 1) % 8 == 0:
            told({
                "round": number + 1.0, "entropy": report.entropy,
                **evaluate(policy, settings).named("practised"),
            })  # fmt: skip
    return {**figures, **evaluate(policy, settings).named("practised")}
