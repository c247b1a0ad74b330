"""Stage 1: supervised fine-tuning of the action head and the steps-to-go head on a frozen trunk.

Cross-entropies of the action tokens and of the steps-to-go bin, each batch split evenly between
the two (arXiv 2509.15155, section 3.1). The best step by each role's own validation loss becomes
that role's checkpoint. The whole run is a function of (data, settings, seed): the random numbers
of step k depend on (seed, k) alone, so that a run killed at any step and resumed gives the same
weights bit for bit at the same thread count.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from efm_model.model import EmbodiedModel
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
from efm_trainer.sft_state import SftState, load_state, save_state
from efm_trainer.sft_steps import ROLES, SftRun

_log = logging.getLogger(__name__)


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
        join_samples(
            side, [cache.features(e) for e in side], config.clone_failures, config.clone_pauses
        )
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
    run = SftRun(model, train, validation, config)
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
