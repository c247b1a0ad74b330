"""Calibration from labelled bags to a new reward version with detector settings."""

from __future__ import annotations

from pathlib import Path

from efm_core.bags import list_episodes
from efm_core.registry import Registry
from efm_trainer.calibrate import Calibration, CalibrationConfig, Trace, calibrate, trace_of
from efm_trainer.data import SkippedEpisode, load_episodes
from efm_trainer.features import FeatureCache, predicted_steps
from efm_trainer.versions import Making, free_name, load_version, save_version


def run_calibration(
    registry: Registry,
    data_set: Path,
    reward: str,
    config: CalibrationConfig,
    name: str = "",
    cameras: tuple[str, ...] = ("front",),
) -> tuple[str, Calibration, list[SkippedEpisode]]:
    """Choose the detector's settings on the labelled episodes of `data_set`; write a new version.

    The weights stay those of version `reward`; steps-to-go are recomputed from the images. The
    manifest says which episodes it was calibrated on. Returns (new version, calibration, skipped).
    Raises ValueError without enough labels.
    """
    model, manifest = load_version(registry, reward, "reward")
    episodes, skipped = load_episodes(list_episodes(data_set), cameras)
    cache = FeatureCache(model, backend="auto")
    traces: list[Trace] = []
    for episode in episodes:
        d = predicted_steps(model, cache.features(episode), model.config.steps_to_go)
        trace = trace_of(episode, d)
        if trace is not None:
            traces.append(trace)
    found = calibrate(traces, config)
    version = free_name(registry, name or f"{reward}-calibrated")
    making = Making(
        role="reward", algorithm="calibration", parent=reward, detector=found.settings,
        calibrated_on=found.episode_ids, data_ids=manifest.data_ids,
        practice_temperature=manifest.practice_temperature,
        deployment_temperature=manifest.deployment_temperature,
        metrics={**manifest.metrics, **found.metrics()},
        state={"label_sources": list(found.label_sources), "reached": found.reached},
    )  # fmt: skip
    save_version(registry.root, version, model, making)
    return version, found, skipped
