"""What a learning run carries from budget to budget, and how it lies on disk in between."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from efm_core.detector import DetectorSettings
from efm_model.model import EmbodiedModel
from efm_trainer.features import FeatureCache
from efm_trainer.improve import ImproveSettings, new_optimizer
from efm_trainer.optimizer_state import optimizer_tensors, restore_optimizer
from efm_trainer.practice import Practice, PracticeSettings
from efm_trainer.sft_state import head_weights

POLICY, REWARD = "policy", "reward"
_CACHE_BYTES = 64 << 20
ROBOTS = 8
"""Robots that practise side by side where scenes last."""


@dataclass(slots=True)
class Learner:
    """Policy and reward in eval mode, the calibrated detector and the practice loop.

    facts: JSON-compatible figures of how they were made. scenes: where practice without resets
    left the blocks (`LastingScenes.saved`).
    """

    policy: EmbodiedModel
    reward: EmbodiedModel
    detector: DetectorSettings
    practice: Practice
    facts: dict[str, Any]
    scenes: dict[str, Any] = field(default_factory=dict)


def new_learner(
    policy: EmbodiedModel, reward: EmbodiedModel, settings: PracticeSettings
) -> Learner:
    """A learner that has not practised. Nothing is published: the run evaluates it in memory."""
    practice = Practice(
        settings, policy, reward, POLICY, REWARD, lambda _: [], lambda *_: None,
        FeatureCache(policy, backend="auto", limit_bytes=_CACHE_BYTES),
    )  # fmt: skip
    return Learner(policy, reward, DetectorSettings(), practice, {})


def practice_settings(
    arm: str, seed: int, per_round: int, limit: int, temperature: float
) -> PracticeSettings:
    """The trainer's settings; arm `reinforce` takes the paper's update.

    Arm `reset_free` practises with ROBOTS robots, each with blocks of its own, as a fleet does.
    """
    improve = ImproveSettings.paper() if arm == "reinforce" else ImproveSettings()
    free = arm == "reset_free"
    robots = tuple(f"robot{i + 1}" for i in range(ROBOTS if free else 1))
    return PracticeSettings(
        robots=robots, reset_free=free, episodes_per_round=per_round, limit=limit,
        temperature=temperature, seed=seed, improve=improve,
    )  # fmt: skip


def save_learner(path: Path, learner: Learner) -> None:
    """Write weights, moments and round to one safetensors file, replaced by rename."""
    practice = learner.practice
    tensors: dict[str, Tensor] = {}
    for role, model in (("policy", learner.policy), ("reward", learner.reward)):
        tensors |= {f"{role}/{name}": value for name, value in head_weights(model).items()}
    if practice.optimizer is not None:
        moments = optimizer_tensors(practice.optimizer)
        tensors |= {f"optimizer/{name}": value for name, value in moments.items()}
    facts = {
        "bins": learner.reward.config.steps_to_go.count,
        "detector": learner.detector.model_dump(),
        "round": practice.round, "version": practice.version, "detections": practice.detections,
        "facts": learner.facts, "scenes": learner.scenes,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, partial,
        metadata={"state": json.dumps(facts)},
    )  # fmt: skip
    os.replace(partial, path)


def load_learner(
    path: Path, make_model: Callable[[int], EmbodiedModel], settings: PracticeSettings
) -> Learner:
    """The learner as it was saved; make_model: steps-to-go bins -> the model it began as.

    Raises FileNotFoundError when the file is gone.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, so its run cannot go on; delete its JSON file to run it again"
        )
    with safe_open(str(path), framework="pt") as file:
        facts = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    models = []
    for role in ("policy", "reward"):
        model = make_model(int(facts["bins"]))
        model.load_state_dict(_below(tensors, f"{role}/"), strict=False)
        models.append(model.eval())
    learner = new_learner(models[0], models[1], settings)
    learner.detector = DetectorSettings.model_validate(facts["detector"])
    learner.facts, learner.scenes = facts["facts"], facts.get("scenes", {})
    practice = learner.practice
    practice.round, practice.version = int(facts["round"]), facts["version"]
    practice.detections = [float(value) for value in facts["detections"]]
    moments = _below(tensors, "optimizer/")
    if moments:
        practice.optimizer = new_optimizer(practice.policy, settings.improve)
        restore_optimizer(practice.optimizer, moments)
    return learner


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
