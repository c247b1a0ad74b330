"""Fine-tuning from a data set of bags to two published versions: policy and reward."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efm_core.registry import Registry
from efm_model.model import EmbodiedModel
from efm_trainer.data import SkippedEpisode, load_episodes
from efm_trainer.distributed import ALONE, World
from efm_trainer.episode_cache import EpisodeCache
from efm_trainer.episode_data import EpisodeData
from efm_trainer.features import FeatureCache, fit_standardisation
from efm_trainer.progress import Cancelled, ProgressCallback, never
from efm_trainer.remote_bags import load_from, sources
from efm_trainer.sft import (
    SftResult,
    collect_observations,
    collect_samples,
    fine_tune,
    split_episodes,
)
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_lora import LoraTraining
from efm_trainer.sft_steps import ROLES, check_batch
from efm_trainer.versions import Making, free_name, save_version

_log = logging.getLogger(__name__)

MakeModel = Callable[[int], EmbodiedModel]
"""Steps-to-go horizon wanted (steps) -> a model with fresh heads on a frozen trunk."""


@dataclass(frozen=True, slots=True)
class SftOutcome:
    """The published versions and what they were made from."""

    policy: str
    reward: str
    result: SftResult
    skipped: list[SkippedEpisode]

    def figures(self) -> dict[str, object]:
        """JSON-compatible summary."""
        return {
            "policy": self.policy,
            "reward": self.reward,
            "losses": self.result.losses,
            "steps": self.result.steps,
            "train_episodes": self.result.train_episodes,
            "validation_episodes": self.result.validation_episodes,
            "skipped": [f"{entry.path}: {entry.reason}" for entry in self.skipped],
            "history": self.result.history,
        }


def run_sft(
    registry: Registry,
    data_set: Path | str,
    make_model: MakeModel,
    config: SftConfig,
    run_dir: Path,
    name: str = "sft",
    cameras: tuple[str, ...] = ("front",),
    progress: ProgressCallback | None = None,
    cancelled: Cancelled = never,
    lora: LoraTraining | None = None,
    world: World = ALONE,
    cache: EpisodeCache | None = None,
) -> SftOutcome:
    """Read the bags below `data_set`, train, publish `<name>-policy` and `<name>-reward`.

    data_set: a folder, or a url for fsspec (`efm_trainer.remote_bags`).
    lora: how the adapter of the made model learns, if it has one; each version holds that of its
    own best step. A run that was cut goes on from `run_dir`. Raises ValueError when there is
    nothing to learn from, TrainingCancelledError when cancelled.
    world: the processes that do it together; every one reads the bags, rank 0 publishes.
    cache: keeps what was read of the bags for the next run; pictures then stay on disk.
    """
    check_batch(config, world)
    paths = sources(data_set)
    episodes, skipped = (
        load_episodes(paths, cameras, load_from) if cache is None
        else cache.load_episodes(paths, cameras, world)
    )  # fmt: skip
    if not episodes:
        raise ValueError(
            f"{data_set} holds no usable episode ({len(skipped)} skipped); record demonstrations"
        )
    model = make_model(horizon(episodes))
    _check_space(model, episodes)
    fit_standardisation(model, lambda: split_episodes(episodes, config.validation_share)[0])
    if lora is None:
        features = FeatureCache(model, backend="auto")
        train, validation = collect_samples(features, episodes, config, world)
    else:
        train, validation = collect_observations(model, episodes, config)
    _log.info(
        "fine-tuning on %d episodes, %d for validation: %s",
        train.episodes, validation.episodes, config.model_dump_json(),
    )  # fmt: skip
    result = fine_tune(model, train, validation, config, run_dir, progress, cancelled, lora, world)
    model.freeze_trunk()
    published = _publish(registry, model, result, episodes, name) if world.is_main else {}
    versions = json.loads(world.broadcast(json.dumps(published).encode()))
    return SftOutcome(versions["policy"], versions["reward"], result, skipped)


def horizon(episodes: list[EpisodeData], percentile: float = 95.0) -> int:
    """Steps-to-go range: an upper percentile of the successful episodes' length, in steps.

    A range too short would flatten d far from the goal. Raises ValueError without a success.
    """
    lengths = [e.record.ticks for e in episodes if e.succeeded]
    if not lengths:
        raise ValueError("no episode is labelled a success; steps-to-go cannot be learnt")
    return max(int(np.ceil(np.percentile(lengths, percentile))), 2)


def _check_space(model: EmbodiedModel, episodes: list[EpisodeData]) -> None:
    for episode in episodes:
        if episode.space.hash != model.config.action_space.hash:
            raise ValueError(
                f"episode {episode.record.episode_id} was recorded with another action space than "
                "the model's; train on one kind of robot at a time"
            )


def _publish(
    registry: Registry,
    model: EmbodiedModel,
    result: SftResult,
    episodes: list[EpisodeData],
    name: str,
) -> dict[str, str]:
    names: dict[str, str] = {}
    for role in ROLES:
        names[role] = free_name(registry, f"{name}-{role}")
        model.load_state_dict(result.heads[role], strict=False)
        making = Making(
            role="policy" if role == "policy" else "reward",
            algorithm="sft",
            data_ids=[episode.record.episode_id for episode in episodes],
            metrics={"validation_loss": result.losses[role], "step": float(result.steps[role])},
            state={"step": result.state.step, "fingerprint": result.state.fingerprint},
            optimizer=result.state.optimizer,
        )
        save_version(registry.root, names[role], model.eval(), making)
    return names
