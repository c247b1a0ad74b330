"""How fast the trainer reads, computes features and learns, in frames per second."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from efm_bringup.bench import material
from efm_bringup.bench.result import Figure, Finding, Settings, rated
from efm_bringup.bench.timing import Shown, Work, alternate, spread
from efm_core.bags.reader import list_episodes
from efm_core.fleet import FleetDescription
from efm_model.inference import Engine
from efm_model.loading import load_model
from efm_model.losses import action_loss, steps_to_go_loss
from efm_model.model import EmbodiedModel
from efm_trainer.data import load_episodes
from efm_trainer.episode_data import EpisodeData
from efm_trainer.features import FeatureCache
from efm_trainer.improve import ImproveSettings, new_optimizer, trainable, update
from efm_trainer.round_batch import RoundBatch, build_round
from efm_trainer.sft import collect_samples
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_steps import SftRun

DEMONSTRATION_LIMIT = 150
PRACTICE_LIMIT = 60
SFT_STEPS = 10
"""Optimiser steps per timed call."""

MEASURED = (
    "Frames are observations of a 64-pixel camera. `bags to features`: recorded episodes are read, "
    "decoded, aligned and run through the frozen trunk (back end of the robots), nothing cached; "
    "baseline: reading and decoding alone. `features, cold` and `warm`: the trunk's part by "
    "itself, and the second time from the memory cache (what is left is hashing the pictures). "
    "`fine-tuning`: `SftRun.advance`, frames of a batch per second; `self-improvement`: `update` "
    "by the default algorithm, every frame counted once per pass; baseline of both: the same "
    "model's forward and backward pass and optimiser step on ready tensors of the same size, with "
    "plain losses, no drawing, no noise, no soft targets, which is an upper bound. One thread."
)


def measure_trainer(
    rounds: int = 20,
    demos: int = 10,
    practised: int = 10,
    seed: int = 0,
    shown: Shown | None = None,
) -> Finding:
    """Record that many episodes and measure what the trainer does with them, `rounds` times."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="efm-bench-") as name:
        fleet = material.bench_fleet(Path(name))
        brain = material.engine(fleet, seed)
        material.demonstrations(fleet, demos, DEMONSTRATION_LIMIT, seed)
        material.practice_episodes(fleet, brain, practised, PRACTICE_LIMIT, seed)
        bench = _Trainer(fleet, brain, seed)
        works = {**bench.reading(), **bench.learning()}
        taken = {key: spread(s) for key, s in alternate(works, rounds, shown=shown).items()}
        frames, stepped = bench.frames, bench.batch * SFT_STEPS
        figures: tuple[Figure, ...] = (
            rated("bags to features", "frames/s", frames, taken["whole"], "reading and decoding",
                  taken["decode"]),
            rated("reading and decoding", "frames/s", frames, taken["decode"]),
            rated("features, cold", "frames/s", frames, taken["cold"], "warm", taken["warm"]),
            rated("features, warm", "frames/s", frames, taken["warm"]),
            rated("fine-tuning", "frames/s", stepped, taken["sft"], "ready tensors",
                  taken["sft ready"]),
            rated("self-improvement: check and advantages", "frames/s", bench.round_frames,
                  taken["round"]),
            rated("self-improvement: update", "frames/s", bench.update_frames, taken["update"],
                  "ready tensors", taken["update ready"]),
        )  # fmt: skip
        settings: Settings = {
            "frames": frames, "batch": bench.batch, "minibatch": ImproveSettings().minibatch,
            "demonstrations": demos, "practised": practised, "rounds": rounds,
            "backend": brain.backend, "seed": seed,
        }  # fmt: skip
    return Finding(measured=MEASURED, settings=settings, figures=figures)


class _Trainer:
    """The trainer's parts on the episodes recorded below a fleet's data_dir."""

    def __init__(self, fleet: FleetDescription, brain: Engine, seed: int) -> None:
        self._policy, _ = load_model(fleet.models_dir / material.POLICY, "policy")
        self._reward, _ = load_model(fleet.models_dir / material.REWARD, "reward")
        self._paths = list_episodes(fleet.data_dir / "demo")
        self._demos = _whole(self._paths)
        self._practised = _whole(list_episodes(fleet.data_dir / "practice"))
        self._cache = FeatureCache(self._policy, backend="auto")
        # Room for the newest episode alone: going round, it never holds what is asked for.
        self._forgetful = FeatureCache(self._policy, backend="auto", limit_bytes=0)
        self._seed = seed
        self.batch = SftConfig().batch
        self.frames = sum(len(episode) for episode in self._demos)
        self.round_frames = sum(len(episode) for episode in self._practised)
        self._round = self._build()
        settings = ImproveSettings()
        usable = len(self._round) // settings.minibatch * settings.minibatch
        self.update_frames = usable * settings.passes

    def reading(self) -> dict[str, Work]:
        """From bags to features."""
        return {
            "decode": lambda: _whole(self._paths),
            "whole": lambda: self._features(self._forgetful, _whole(self._paths)),
            "cold": lambda: self._features(self._forgetful, self._demos),
            "warm": lambda: self._features(self._cache, self._demos),
            "round": self._build,
        }

    def learning(self) -> dict[str, Work]:
        """Optimiser steps."""
        settings = ImproveSettings()
        optimizer = new_optimizer(self._policy, settings)
        learner, width = self._copy(), self._round.features.shape[1]
        steps = self.update_frames // settings.minibatch
        samples = collect_samples(self._cache, self._demos, SftConfig(steps=10**6))
        run = SftRun(learner, *samples, SftConfig(steps=10**6, seed=self._seed))
        return {
            "sft": _times(SFT_STEPS, run.advance),
            "sft ready": _times(SFT_STEPS, _ready_sft(self._copy(), self.batch, width)),
            "update": lambda: update(self._policy, optimizer, self._round, settings, self._seed),
            "update ready": _times(steps, _ready_update(self._copy(), self._round, settings)),
        }

    def _copy(self) -> EmbodiedModel:
        model = EmbodiedModel(self._policy.config, self._policy.preprocessor)
        model.load_state_dict(self._policy.state_dict())
        model.freeze_trunk()
        return model

    @staticmethod
    def _features(cache: FeatureCache, episodes: Sequence[EpisodeData]) -> None:
        for episode in episodes:
            cache.features(episode)

    def _build(self) -> RoundBatch:
        # Weights that have changed since would not be those that acted: the reward's copy of the
        # heads, which nothing trains, is the policy that did.
        return build_round(
            self._practised, self._reward, self._reward, self._cache, ImproveSettings(),
            material.POLICY, material.REWARD,
        )  # fmt: skip


def _whole(paths: Sequence[Path]) -> list[EpisodeData]:
    episodes, skipped = load_episodes(paths)
    if skipped:
        raise RuntimeError(f"an episode just recorded cannot be read: {skipped[0].reason}")
    return episodes


def _times(count: int, work: Work) -> Work:
    def works() -> None:
        for _ in range(count):
            work()

    return works


def _ready_sft(model: EmbodiedModel, batch: int, width: int) -> Work:
    half = batch // 2
    model.train()
    features = torch.randn(half, width)
    bins = torch.zeros((half, model.config.action_space.tokens), dtype=torch.int64)
    targets = torch.full((half, model.config.steps_to_go.count), 1 / model.config.steps_to_go.count)
    parameters = list(model.head_parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def work() -> None:
        loss = action_loss(model.action_logits(features, bins), bins)
        loss = loss + steps_to_go_loss(model.steps_to_go_logits(features), targets)
        _descend(loss, parameters, optimizer)

    return work


def _ready_update(model: EmbodiedModel, batch: RoundBatch, settings: ImproveSettings) -> Work:
    count = settings.minibatch
    features = torch.from_numpy(batch.features[:count])
    bins = torch.from_numpy(batch.bins[:count])
    parameters, optimizer = trainable(model), new_optimizer(model, settings)

    def work() -> None:
        log_prob, _ = model.token_log_prob(features, bins, batch.temperature)
        _descend(-log_prob.mean(), parameters, optimizer)

    return work


def _descend(
    loss: Tensor, parameters: Sequence[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
