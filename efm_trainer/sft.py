"""Stage 1: supervised fine-tuning of the action head and the steps-to-go head on a frozen trunk.

With an adapter beside the trunk's frozen weights, that learns too (`efm_trainer.sft_lora`).

Cross-entropies of the action tokens and of the steps-to-go bin, each batch split evenly between
the two (arXiv 2509.15155, section 3.1). The best step by each role's own validation loss becomes
that role's checkpoint. The whole run is a function of (data, settings, seed): the random numbers
of step k depend on (seed, k) alone, so that a run killed at any step and resumed gives the same
weights bit for bit at the same thread count and the same number of processes (`World`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from efm_model.model import EmbodiedModel
from efm_trainer.distributed import ALONE, World, gather_in_turn
from efm_trainer.episode_data import EpisodeData
from efm_trainer.features import FeatureCache
from efm_trainer.progress import (
    Cancelled,
    MetricsLog,
    Pace,
    Progress,
    ProgressCallback,
    TrainingCancelledError,
    never,
)
from efm_trainer.samples import SftSamples, is_validation, join_samples, usable_for_sft
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_lora import LoraRun, LoraTraining, observation_samples
from efm_trainer.sft_state import SftState, load_state, save_state
from efm_trainer.sft_steps import ROLES, SftRun

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SftResult:
    """What a run found, per role: head weights, validation loss in nats and its step.

    heads: role -> what learnt (`head_weights`). history: one dict per validation.
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
    cache: FeatureCache,
    episodes: Sequence[EpisodeData],
    config: SftConfig,
    world: World = ALONE,
) -> tuple[SftSamples, SftSamples]:
    """Training and validation samples with their trunk features, computed by all of `world`."""
    sides = split_episodes(episodes, config.validation_share)
    train, validation = (
        join_samples(
            side, gather_in_turn(world, side, cache.features),
            config.clone_failures, config.clone_pauses,
        )
        for side in sides
    )
    return train, validation


def collect_observations(
    model: EmbodiedModel, episodes: Sequence[EpisodeData], config: SftConfig
) -> tuple[SftSamples, SftSamples]:
    """Training and validation samples for a run whose adapter learns."""
    train, validation = split_episodes(episodes, config.validation_share)
    return (
        observation_samples(model, train, config),
        observation_samples(model, validation, config),
    )


def fine_tune(
    model: EmbodiedModel,
    train: SftSamples,
    validation: SftSamples,
    config: SftConfig,
    run_dir: Path | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Cancelled = never,
    lora: LoraTraining | None = None,
    world: World = ALONE,
) -> SftResult:
    """Train the heads of `model` in place, and its adapter by `lora`; give each role's best.

    run_dir: where metrics and resume points go; an unfinished run found there is continued when
    its settings and data agree. Raises TrainingCancelledError when `cancelled()` turns true (the
    resume point is kept).
    world: the processes that do it together; rank 0 writes files and tells progress, all return
    the same result. Also raises ValueError when they do not hold the same data.
    """
    run = (
        SftRun(model, train, validation, config, world) if lora is None
        else LoraRun(model, train, validation, config, lora, world)
    )  # fmt: skip
    _agree(run.fingerprint, world)
    state = load_state(run_dir, run.fingerprint, world) if run_dir else None
    if state is not None:
        run.restore(state)
        _log.info("resuming fine-tuning at step %d of %d", run.step, config.steps)
    log = MetricsLog(run_dir) if run_dir and world.is_main else None
    pace = Pace(run.step / config.steps)
    try:
        while run.step < config.steps:
            run.advance()
            done = run.step / config.steps
            if run.step % config.validate_every == 0 or run.step == config.steps:
                figures = run.validate()
                if log:
                    log.write(run.step, figures)
                if progress and world.is_main:
                    progress(Progress("sft", done, pace.eta(done), figures))
            stop = world.any(cancelled())
            if run_dir and world.is_main and (stop or run.step % config.save_every == 0):
                save_state(run_dir, run.state())
            if stop:
                raise TrainingCancelledError(f"fine-tuning stopped at step {run.step}")
    finally:
        if log:
            log.close()
    best = run.best
    return SftResult(
        heads={role: best[role].heads for role in ROLES},
        losses={role: best[role].loss for role in ROLES},
        steps={role: best[role].step for role in ROLES},
        train_episodes=train.episodes,
        validation_episodes=validation.episodes,
        state=run.state(),
        history=run.history,
    )


def _agree(fingerprint: str, world: World) -> None:
    found = world.gather(fingerprint.encode())
    others = [rank for rank, one in enumerate(found) if one != found[0]]
    if others:
        raise ValueError(
            f"ranks {others} have other data, settings or starting weights than rank 0; give all "
            "processes the same bags, models folder and versions of the software"
        )
