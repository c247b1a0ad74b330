"""Practice with versions on disk: where a run begins, where it goes on, what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel

from efm_core.bags import list_episodes, read_record
from efm_core.plan import EpisodePlan
from efm_core.registry import Registry
from efm_model.model import EmbodiedModel
from efm_trainer.data import SkippedEpisode, load_episodes
from efm_trainer.early_warning import LabelTally
from efm_trainer.episode_data import EpisodeData
from efm_trainer.features import FeatureCache
from efm_trainer.improve import new_optimizer
from efm_trainer.optimizer_state import optimizer_tensors, restore_optimizer
from efm_trainer.practice import Collect, Practice, PracticeSettings
from efm_trainer.stopping import RoundTally
from efm_trainer.versions import Making, load_training_state, load_version, save_version

_Tally = TypeVar("_Tally", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class PracticeStart:
    """The versions a run starts from: the fine-tuned policy and the calibrated reward."""

    policy: str
    reward: str


def open_practice(
    registry: Registry, settings: PracticeSettings, start: PracticeStart, collect: Collect
) -> Practice:
    """A practice run, continued after the newest of its rounds that is on disk.

    A run that a stop rule has ended stays ended. A version `<name>-rNNN` of other settings or
    another start is refused with ValueError: its rounds and new ones would not belong together.
    """
    reward, reward_manifest = load_version(registry, start.reward, "reward")
    done = [i for i in range(settings.rounds) if settings.version_of(i) in registry.versions()]
    version = settings.version_of(max(done)) if done else start.policy
    policy, _ = load_version(registry, version, "policy")
    run = Practice(
        settings, policy, reward, version, start.reward, collect, lambda *_: None,
        FeatureCache(policy, backend="auto"), start=start.policy,
        expected=settings.warning.expected(reward_manifest.metrics.get("detector/precision")),
    )  # fmt: skip
    if done:
        _take_up(run, registry, start, max(done))
    reward_hash = reward_manifest.files["model.safetensors"]

    def publish(
        model: EmbodiedModel, optimizer: torch.optim.Optimizer, name: str, number: int,
        metrics: dict[str, float],
    ) -> None:  # fmt: skip
        making = Making(
            role="policy", algorithm=settings.improve.algorithm, parent=run.version_before,
            round=number, reward_version=start.reward, reward_hash=reward_hash,
            detector=reward_manifest.detector, calibrated_on=reward_manifest.calibrated_on,
            practice_temperature=settings.temperature, metrics=metrics, data_ids=[name],
            state=_facts(run, start, number),
            optimizer=optimizer_tensors(optimizer),
        )  # fmt: skip
        save_version(registry.root, name, model, making)

    run.publish = publish
    return run


def _facts(run: Practice, start: PracticeStart, number: int) -> dict[str, Any]:
    """What `_take_up` needs, beside weights and moments."""
    return {
        "round": number, "start": start.policy, "reward": start.reward,
        "settings": run.settings.model_dump(mode="json"), "detections": run.detections,
        "tallies": [list(tally.model_dump().values()) for tally in run.tallies],
        "labels": [list(tally.model_dump().values()) for tally in run.labels],
        "ended": run.ended, "torch_threads": torch.get_num_threads(),
    }  # fmt: skip


def _take_up(run: Practice, registry: Registry, start: PracticeStart, number: int) -> None:
    facts, moments = load_training_state(registry, run.version)
    # More rounds than before are no other run; anything else would be.
    now = run.settings.model_dump(mode="json") | {"rounds": 0}
    younger = PracticeSettings().model_dump(mode="json")  # fields that it did not have yet
    then = younger | dict(facts.get("settings", {})) | {"rounds": 0}
    if (facts.get("start"), facts.get("reward")) != (start.policy, start.reward) or now != then:
        raise ValueError(
            f"version '{run.version}' was made with other settings or from other versions; give "
            "this run another name"
        )
    run.optimizer = new_optimizer(run.policy, run.settings.improve)
    restore_optimizer(run.optimizer, moments)
    run.round = number + 1
    run.detections = [float(value) for value in facts["detections"]]
    run.tallies = _rows(RoundTally, facts.get("tallies", []))
    run.labels = _rows(LabelTally, facts.get("labels", []))
    run.ended = str(facts.get("ended", ""))


def _rows(kind: type[_Tally], rows: Sequence[Sequence[int]]) -> list[_Tally]:
    names = tuple(kind.model_fields)
    return [kind.model_validate(dict(zip(names, row, strict=True))) for row in rows]


def saved_episodes(
    data_set: Path, plan: EpisodePlan, cameras: tuple[str, ...] = ("front",)
) -> tuple[list[EpisodeData], list[SkippedEpisode]]:
    """The plan's episodes on disk by robot and index, each once, and those that were skipped."""
    chosen: dict[tuple[str, int], Path] = {}
    skipped: list[SkippedEpisode] = []
    for path in list_episodes(data_set):
        try:
            record = read_record(path)
        except ValueError as error:
            skipped.append(SkippedEpisode(path, str(error)))
            continue
        if record.plan == plan.plan_id:
            chosen.setdefault((record.robot, record.index), path)
    episodes, unreadable = load_episodes([chosen[key] for key in sorted(chosen)], cameras)
    return episodes, skipped + unreadable
