"""The two long jobs of the trainer, with their settings, free of ROS: who waits for what."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from efm_core.actions import ActionSpace
from efm_core.checkpoint import read_manifest
from efm_core.registry import Registry
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import CameraSpec, HeadConfig
from efm_model.model import EmbodiedModel
from efm_model.onnx_trunk import cache_dir
from efm_model.vlm_config import BackboneRequest
from efm_model.weights import pretrained_model
from efm_trainer.distributed import ALONE, World
from efm_trainer.early_warning import Watch
from efm_trainer.episode_cache import EpisodeCache
from efm_trainer.improve_run import PracticeStart, open_practice
from efm_trainer.practice import Collect, Practice, PracticeSettings, RoundReport
from efm_trainer.progress import Cancelled, MetricsLog, Progress
from efm_trainer.remote_bags import is_url
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_lora import LoraTraining
from efm_trainer.sft_run import run_sft

_log = logging.getLogger(__name__)

RESULT_FILE = "result.json"
Tell = Callable[[Progress, str], None]
"""How far a job is, and the newest version it has made."""


class SftJob(BaseModel):
    """What the trainer is asked to fine-tune. data_set: folder below the data root, or a url."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_set: str = "demo"
    name: str = "sft"
    config: SftConfig = SftConfig()
    heads: HeadConfig = HeadConfig(dropout=0.3)
    weights: Path | None = None
    """Folder of weights of the small backbone; None = the shipped ones."""
    backbone: BackboneRequest | None = None
    """A vision-language model to learn on; None = the small backbone."""
    lora: LoraTraining | None = None
    """An adapter of that model learns too; None = its heads alone."""
    tokens: bool = False
    """Answers are tokens of that model's vocabulary; False = of heads beside it."""

    @model_validator(mode="after")
    def _one_backbone(self) -> SftJob:
        if self.lora is not None and self.backbone is None:
            raise ValueError("lora is an adapter of a vision-language model; give its backbone too")
        if self.tokens and self.lora is None:
            raise ValueError(
                "answers as tokens are learnt with an adapter of the language model; give lora too"
            )
        if self.lora is not None and self.backbone and self.backbone.dtype == "float16":
            raise ValueError("lora learns beside float32 or bfloat16 weights, not float16")
        if self.backbone is not None and self.weights is not None:
            raise ValueError(
                "weights are of the small backbone, backbone is another one; give one of the two"
            )
        return self


class ImproveJob(PracticeSettings):
    """What the trainer is asked to practise: the practice and the versions it starts from."""

    policy: str
    reward: str

    def practice(self, robots: tuple[str, ...]) -> PracticeSettings:
        """The practice of `robots`, where none were listed."""
        fields = self.model_dump(exclude={"policy", "reward"})
        return PracticeSettings.model_validate({**fields, "robots": self.robots or robots})

    robots: tuple[str, ...] = Field(default=())


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where jobs work: models, data, the run's folder, and what robots look like."""

    registry: Registry
    data_dir: Path
    run_dir: Path
    space: ActionSpace
    cameras: tuple[CameraSpec, ...]

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras, the first one primary."""
        return tuple(camera.name for camera in self.cameras)


def new_model(place: Workplace, job: SftJob, horizon: int) -> EmbodiedModel:
    """Fresh heads on the pre-trained, frozen backbone, steps-to-go bins up to `horizon` steps."""
    bins = StepsToGoBins(count=max(horizon + 1, 2))
    if job.backbone is not None:
        from efm_model.vlm_weights import transformers_model

        return transformers_model(
            job.backbone, _backbones(place), place.space, place.cameras, bins, job.heads,
            job.config.seed, job.lora.adapter if job.lora else None, job.tokens,
        )  # fmt: skip
    options: dict[str, Any] = {} if job.weights is None else {"weights": job.weights}
    return pretrained_model(
        place.space, place.cameras, bins, job.heads, seed=job.config.seed, **options
    )


def _backbones(place: Workplace) -> Path:
    """Where models that were taken over lie: on the versions' disk, which link to them."""
    return place.registry.root / ".backbones"


def fine_tune_job(
    place: Workplace, job: SftJob, tell: Tell, cancelled: Cancelled, world: World = ALONE
) -> dict[str, Any]:
    """Stage 1; returns and (rank 0 of `world`) writes `<run_dir>/<name>/result.json`."""
    if job.backbone is not None:  # refused, if it is, before all the bags are read
        from efm_model.vlm_take_over import take_over
        from efm_trainer.memory_plan import Asked, free_memory, plan_memory

        asked = Asked(
            job.backbone, job.lora, place.space, place.cameras, job.heads, job.config.batch,
            job.tokens,
        )  # fmt: skip
        room = free_memory().shared(world.local_size)
        plan_memory(asked, _backbones(place), room, _log.info)
        world.barrier()  # all have looked at what is free before one takes of it
        with world.first_per_node():
            take_over(job.backbone, _backbones(place))
    folder = place.run_dir / job.name
    outcome = run_sft(
        place.registry, job.data_set if is_url(job.data_set) else place.data_dir / job.data_set,
        lambda horizon: new_model(place, job, horizon), job.config, folder, job.name,
        place.camera_names, lambda progress: tell(progress, ""), cancelled, job.lora,
        world, EpisodeCache(cache_dir() / "episodes"),
    )  # fmt: skip
    figures = outcome.figures()
    return write_result(folder, figures) if world.is_main else figures


def improve_job(
    place: Workplace,
    job: ImproveJob,
    robots: tuple[str, ...],
    collect: Collect,
    tell: Tell,
    cancelled: Cancelled,
) -> dict[str, Any]:
    """Stage 2; returns and writes `<run_dir>/<name>/result.json`, after every round anew."""
    settings = job.practice(robots)
    run = open_practice(
        place.registry, settings, PracticeStart(job.policy, job.reward), collect
    )
    folder = place.run_dir / settings.name
    before = [settings.version_of(number) for number in range(run.round)]
    there = set(place.registry.versions())  # somebody may have made room
    rounds = [_figures(place.registry, version) for version in before if version in there]

    def on_round(report: RoundReport) -> None:
        _put_forward(place.registry, run)
        rounds.append({**_figures(place.registry, report.published), "stop": report.stop})
        write_result(folder, figures())

    def figures() -> dict[str, Any]:
        return {
            "policy": run.chosen(), "newest": run.version, "start": job.policy,
            "reward": job.reward, "rounds_done": run.round, "detections": run.detections,
            "stop": {"rule": settings.stop, "reason": run.why_ended()},
            "warning": _told(run.watched()), "rounds": rounds,
        }  # fmt: skip

    if run.round:  # killed between a version and its alias, it may have stayed behind
        _put_forward(place.registry, run)
    with MetricsLog(folder) as log:
        run.run(log, lambda progress: tell(progress, run.version), on_round, cancelled)
    return write_result(folder, figures())


def _put_forward(registry: Registry, run: Practice) -> None:
    """Let the aliases follow the last round, unless operators' labels speak against it."""
    watched = run.watched()
    if watched.alarmed == run.round - 1:
        _log.warning("%s", watched.text)
    if run.settings.stop == "auto":
        registry.promote(run.chosen(), "best")
    if run.settings.stop == "rounds" or watched.alarmed is None:
        registry.promote(run.version, "candidate")


def _told(watched: Watch) -> dict[str, Any]:
    return {
        "text": watched.text, "round": watched.alarmed, "since": watched.since,
        "labels": watched.labels, "precision": watched.precision, "expected": watched.expected,
    }  # fmt: skip


def _figures(registry: Registry, version: str) -> dict[str, Any]:
    """What a round did, as its version tells: also that of a process that was killed after it."""
    made = read_manifest(registry.path(version))
    return {
        "round": made.round, "acted": made.parent, "published": version, "stop": "", **made.metrics,
    }  # fmt: skip


def write_result(folder: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """Replace `<folder>/result.json`; returns the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (RESULT_FILE + ".tmp")
    temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / RESULT_FILE)
    return figures
