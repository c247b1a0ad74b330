"""Offline improvement with versions on disk: bags and a fine-tuned policy in, a new version out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from efm_core.bags import list_episodes
from efm_core.checkpoint import Manifest
from efm_model.model import EmbodiedModel
from efm_trainer.data import SkippedEpisode, load_episodes
from efm_trainer.episode_data import EpisodeData
from efm_trainer.features import FeatureCache
from efm_trainer.jobs import Tell, Workplace, write_result
from efm_trainer.offline import OfflineSettings, PassReport, improve_offline
from efm_trainer.progress import Cancelled, MetricsLog, Pace, Progress, TrainingCancelledError
from efm_trainer.round_batch import gather, join
from efm_trainer.versions import Making, free_name, load_version, save_version

_log = logging.getLogger(__name__)


class OfflineJob(BaseModel):
    """What is improved on what. data_set: folder of practice bags below the data root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    reward: str
    data_set: str = "practice"
    name: str = "offline"
    seed: int = 0
    settings: OfflineSettings = OfflineSettings()


@dataclass(slots=True)
class _Bags:
    """Reads episodes one at a time and remembers what they were."""

    folder: Path
    cameras: tuple[str, ...]
    cancelled: Cancelled
    ids: list[str]
    acted: Counter[str]
    skipped: list[SkippedEpisode]

    def __iter__(self) -> Iterator[EpisodeData]:
        for path in list_episodes(self.folder):
            if self.cancelled():
                raise TrainingCancelledError(f"stopped while reading {self.folder}")
            found, skipped = load_episodes([path], self.cameras)
            self.skipped += skipped
            for episode in found:
                self.ids.append(episode.record.episode_id)
                self.acted[episode.record.policy_version] += 1
                yield episode


def improve_offline_job(
    place: Workplace, job: OfflineJob, tell: Tell, cancelled: Cancelled
) -> dict[str, Any]:
    """Stage 2 without robots; returns and writes `<run_dir>/<name>/result.json`.

    Stopped, it begins anew, with the same draws: they depend on the seed alone.
    Publishes a policy version and names it candidate. Raises RoundRefusedError (a ValueError) when
    the bags do not fit the reward version or were sampled at several temperatures.
    """
    policy, _ = load_version(place.registry, job.policy, "policy")
    reward, manifest = load_version(place.registry, job.reward, "reward")
    bags = _Bags(
        place.data_dir / job.data_set, place.camera_names, cancelled, [], Counter(), []
    )
    cache = FeatureCache(policy, backend="auto")
    gathered = gather(bags, reward, cache, job.settings, None, job.reward)
    batch, recorded = join(gathered, policy, job.settings)
    _log.info("%d decisions in %d episodes of %s", len(batch), len(bags.ids), job.data_set)
    figures: dict[str, float] = batch.report | {"temperature": batch.temperature}
    pace = Pace(0.0)
    with MetricsLog(place.run_dir / job.name) as log:

        def on_pass(number: int, report: PassReport) -> None:
            if cancelled():
                raise TrainingCancelledError(f"stopped in pass {number}")
            figures.update(report.scalars())
            log.write(number, report.scalars())
            done = (number + 1) / job.settings.passes
            tell(Progress("offline", done, pace.eta(done), report.scalars()), "")

        improve_offline(policy, batch, recorded, job.settings, job.seed, on_pass)
    version = _publish(place, job, policy, manifest, bags.ids, figures)
    return write_result(place.run_dir / job.name, {
        "policy": version, "start": job.policy, "reward": job.reward, "episodes": len(bags.ids),
        "acted": dict(bags.acted), "skipped": [f"{s.path}: {s.reason}" for s in bags.skipped],
        **figures,
    })  # fmt: skip


def _publish(
    place: Workplace,
    job: OfflineJob,
    policy: EmbodiedModel,
    reward: Manifest,
    episodes: list[str],
    metrics: dict[str, float],
) -> str:
    """Write the version and name it candidate; its name."""
    version = free_name(place.registry, job.name)
    making = Making(
        role="policy", algorithm=f"offline_{job.settings.method}", parent=job.policy,
        reward_version=job.reward, reward_hash=reward.files["model.safetensors"],
        detector=reward.detector, calibrated_on=reward.calibrated_on,
        practice_temperature=metrics["temperature"], data_ids=episodes, metrics=metrics,
        state={"job": job.model_dump(mode="json")},
    )  # fmt: skip
    save_version(place.registry.root, version, policy, making)
    place.registry.promote(version, "candidate")
    return version
