"""The two long jobs of the trainer, with their settings, free of ROS: who waits for what."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from efm_core.actions import ActionSpace
from efm_core.registry import Registry
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import CameraSpec, HeadConfig
from efm_model.model import EmbodiedModel
from efm_model.weights import pretrained_model
from efm_trainer.improve_run import PracticeStart, open_practice
from efm_trainer.practice import Collect, PracticeSettings, RoundReport
from efm_trainer.progress import Cancelled, MetricsLog, Progress
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_run import run_sft

RESULT_FILE = "result.json"
Tell = Callable[[Progress, str], None]
"""How far a job is, and the newest version it has made."""


class SftJob(BaseModel):
    """What the trainer is asked to fine-tune. data_set: folder below the data root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_set: str = "demo"
    name: str = "sft"
    config: SftConfig = SftConfig()
    heads: HeadConfig = HeadConfig(dropout=0.3)
    weights: Path | None = None
    """Folder of backbone weights; None = the shipped ones."""


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
    options: dict[str, Any] = {} if job.weights is None else {"weights": job.weights}
    return pretrained_model(
        place.space, place.cameras, bins, job.heads, seed=job.config.seed, **options
    )


def fine_tune_job(
    place: Workplace, job: SftJob, tell: Tell, cancelled: Cancelled
) -> dict[str, Any]:
    """Stage 1; returns and writes `<run_dir>/<name>/result.json`."""
    folder = place.run_dir / job.name
    outcome = run_sft(
        place.registry, place.data_dir / job.data_set,
        lambda horizon: new_model(place, job, horizon), job.config, folder, job.name,
        place.camera_names, lambda progress: tell(progress, ""), cancelled,
    )  # fmt: skip
    return write_result(folder, outcome.figures())


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
    rounds: list[dict[str, Any]] = []

    def on_round(report: RoundReport) -> None:
        place.registry.promote(report.published, "candidate")
        rounds.append(
            {"round": report.round, "acted": report.acted, "published": report.published,
             "stop": report.stop, **report.metrics}
        )  # fmt: skip
        write_result(folder, figures())

    def figures() -> dict[str, Any]:
        return {
            "policy": run.chosen(), "newest": run.version, "start": job.policy,
            "reward": job.reward, "rounds_done": run.round, "detections": run.detections,
            "rounds": rounds,
        }  # fmt: skip

    with MetricsLog(folder) as log:
        run.run(log, lambda progress: tell(progress, run.version), on_round, cancelled)
    return write_result(folder, figures())


def write_result(folder: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """Replace `<folder>/result.json`; returns the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (RESULT_FILE + ".tmp")
    temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / RESULT_FILE)
    return figures
