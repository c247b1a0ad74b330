"""The decisions of one round, checked against the weights that made them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from efm_core.episode import Mode, Outcome
from efm_model.model import EmbodiedModel
from efm_trainer.baseline import advantages, fit_baseline
from efm_trainer.episode_data import EpisodeData
from efm_trainer.features import FeatureCache, predicted_steps
from efm_trainer.segments import DecisionSegment, decision_segments

if TYPE_CHECKING:
    from efm_trainer.improve import ImproveSettings


class RoundRefusedError(ValueError):
    """The round's episodes do not fit the checkpoints that are said to have made them."""


@dataclass(frozen=True, slots=True)
class RoundBatch:
    """M usable decisions of one round.

    features: float32 (M, F). bins: int64 (M, tokens). log_prob: float64 (M, tokens), nats per
    token, by the weights that the batch was made for. returns, advantages, steps_to_go: float64
    (M,), steps. temperature: of the whole round. report: counts and figures for the metrics.
    """

    features: NDArray[np.float32]
    bins: NDArray[np.int64]
    log_prob: NDArray[np.float64]
    returns: NDArray[np.float64]
    advantages: NDArray[np.float64]
    steps_to_go: NDArray[np.float64]
    temperature: float
    report: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of usable decisions M."""
        return len(self.returns)

    @property
    def tokens(self) -> int:
        """Tokens per decision."""
        return self.bins.shape[1]


@dataclass(frozen=True, slots=True)
class Stretch:
    """One segment with the features, tokens and recorded log-probabilities of its decisions.

    live_log_prob: float64 (K,), nats over all tokens of a decision, as published when it was made.
    """

    segment: DecisionSegment
    features: NDArray[np.float32]
    bins: NDArray[np.int64]
    live_log_prob: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gathered:
    """The stretches of many episodes, all sampled at one temperature."""

    stretches: list[Stretch]
    temperature: float
    report: dict[str, float]


def build_round(
    episodes: Sequence[EpisodeData],
    policy: EmbodiedModel,
    reward: EmbodiedModel,
    cache: FeatureCache,
    settings: ImproveSettings,
    policy_version: str,
    reward_version: str,
) -> RoundBatch:
    """Recompute d and log pi, refuse what does not agree, fit the baseline, give the batch.

    policy: the weights that acted (behaviour). cache: features of the trunk shared by both.
    Raises RoundRefusedError when an episode was made by another version, when d differs from the
    live value by more than `steps_to_go_tolerance`, when log-probabilities differ by more than
    `log_prob_tolerance` in the median, or when temperatures are mixed.
    """
    gathered = gather(episodes, reward, cache, settings, policy_version, reward_version)
    batch, live = join(gathered, policy, settings)
    difference = _check_log_prob(batch.log_prob.sum(axis=1), live, settings)
    batch.report["log_prob_difference"] = difference
    return batch


def gather(
    episodes: Iterable[EpisodeData],
    reward: EmbodiedModel,
    cache: FeatureCache,
    settings: ImproveSettings,
    policy_version: str | None,
    reward_version: str,
) -> Gathered:
    """Recompute d and cut episodes into stretches; nothing of their pictures is kept.

    policy_version: of the weights that acted; None: whatever acted. Raises RoundRefusedError as
    `build_round` does, but for log-probabilities.
    """
    dropped, temperatures = Counter[str](), set[float]()
    stretches: list[Stretch] = []
    worst_steps, count = 0.0, 0
    for episode in episodes:
        count += 1
        if not _belongs(episode, dropped):
            continue
        _check_versions(episode, policy_version, reward_version)
        features = cache.features(episode)
        d = predicted_steps(reward, features, reward.config.steps_to_go)
        worst_steps = max(worst_steps, _check_steps(episode, d, settings.steps_to_go_tolerance))
        for segment in decision_segments(episode, d, settings.fault_tail):
            rows = segment.rows
            stretches.append(
                Stretch(segment, features[rows], episode.bins[rows], episode.log_prob[rows])
            )
            temperatures |= set(episode.temperature[rows].tolist())
    if not stretches:
        raise RoundRefusedError(f"no usable decision in {count} episodes: {dict(dropped)}")
    if len(temperatures) > 1:
        raise RoundRefusedError(
            f"temperatures {sorted(temperatures)} are mixed in one round; "
            "practise a round at one temperature"
        )
    report = {f"episodes_dropped/{reason}": float(n) for reason, n in dropped.items()}
    report["steps_to_go_difference"] = worst_steps
    return Gathered(stretches, temperatures.pop(), report)


def _belongs(episode: EpisodeData, dropped: Counter[str]) -> bool:
    record = episode.record
    if record.mode is not Mode.PRACTICE:
        dropped[f"mode_{record.mode.value}"] += 1
    elif record.outcome is Outcome.INTERRUPTED:
        dropped["interrupted"] += 1
    elif record.termination_reason == "fault:frozen_camera":
        dropped["frozen_camera"] += 1
    else:
        return True
    return False


def _check_versions(
    episode: EpisodeData, policy_version: str | None, reward_version: str
) -> None:
    policies = set(episode.policy_versions[: episode.end_row]) - {""}
    rewards = set(episode.reward_versions[: episode.end_row + 1]) - {""}
    for kind, found, wanted in (
        ("policy", policies, policy_version), ("reward", rewards, reward_version),
    ):  # fmt: skip
        if wanted is not None and found - {wanted}:
            raise RoundRefusedError(
                f"episode {episode.record.episode_id}: {kind} version {sorted(found)} acted, but "
                f"the round is of '{wanted}'; give the version that made these episodes"
            )


def _check_steps(episode: EpisodeData, d: NDArray[np.float64], tolerance: float) -> float:
    """Largest |d recomputed - d live| in steps over the rows that have a live value."""
    rows = slice(0, episode.end_row + 1)
    live = episode.steps_to_go[rows]
    heard = np.isfinite(live)
    if not heard.any():
        return 0.0
    worst = float(np.max(np.abs(live[heard] - d[rows][heard])))
    if worst > tolerance:
        raise RoundRefusedError(
            f"episode {episode.record.episode_id}: steps-to-go recomputed from the bag differ from "
            f"the live ones by {worst:.2e} steps (tolerance {tolerance:.0e}); the reward "
            "checkpoint or the preprocessing is not the one that ran on the robot"
        )
    return worst


def join(
    gathered: Gathered, policy: EmbodiedModel, settings: ImproveSettings
) -> tuple[RoundBatch, NDArray[np.float64]]:
    """Baseline, advantages and log pi under `policy` of all decisions executed as sampled.

    Second, their recorded log-probabilities, float64 (M,), nats. Raises RoundRefusedError when no
    decision was executed as sampled.
    """
    stretches = gathered.stretches
    used = np.concatenate([s.segment.as_sampled for s in stretches])
    if not used.any():
        raise RoundRefusedError("no decision was executed as sampled; look at guard/state")
    bins = np.concatenate([s.bins for s in stretches])[used]
    features = np.concatenate([s.features for s in stretches])[used]
    live = np.concatenate([s.live_log_prob for s in stretches])[used]
    values = [s.segment.values for s in stretches]
    baseline = fit_baseline(values, settings.gamma)
    tails = [
        0.0 if settings.zero_past_end else float(baseline(v.steps_to_go[-1])) for v in values
    ]
    gained = np.concatenate(
        [v.returns(settings.gamma, tail) for v, tail in zip(values, tails, strict=True)]
    )
    gain = np.concatenate(
        [advantages(v, baseline, settings.gamma, settings.trace, settings.zero_past_end)
         for v in values]
    )  # fmt: skip
    d = np.concatenate([v.steps_to_go[:-1] for v in values])
    report = {
        "decisions": float(len(used)),
        "decisions_used": float(used.sum()),
        "return_mean": float(gained.mean()),
    }
    batch = RoundBatch(
        features=features, bins=bins,
        log_prob=behaviour_log_prob(policy, features, bins, gathered.temperature),
        returns=gained[used], advantages=gain[used], steps_to_go=d[used],
        temperature=gathered.temperature, report=gathered.report | report,
    )  # fmt: skip
    return batch, live


def behaviour_log_prob(
    policy: EmbodiedModel,
    features: NDArray[np.float32],
    bins: NDArray[np.int64],
    temperature: float,
) -> NDArray[np.float64]:
    """log pi of each token given those before it, nats, at `temperature`: float64 (M, tokens)."""
    policy.eval()
    with torch.inference_mode():
        values, _ = policy.token_log_prob(
            torch.from_numpy(features), torch.from_numpy(bins), temperature
        )
    return values.double().numpy()


def _check_log_prob(
    recomputed: NDArray[np.float64], live: NDArray[np.float64], settings: ImproveSettings
) -> float:
    """Median |recomputed - live| in nats."""
    median = float(np.median(np.abs(recomputed - live)))
    if not median <= settings.log_prob_tolerance:
        raise RoundRefusedError(
            f"log-probabilities recomputed from the bags differ by {median:.3f} nats in the median "
            f"(tolerance {settings.log_prob_tolerance}); temperature, weights or numeric back end "
            "are not those that acted"
        )
    return median
