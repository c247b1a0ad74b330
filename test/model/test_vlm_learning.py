"""The whole way with a vision-language model: demonstrations, SFT, calibration, practice, robot."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model.vlm_tiny import write_model
from trainer.toy import GUARD, SIDE, SPACE, ToyPerson, ToyRobot, toy_plan

from efm_bringup.commands import train
from efm_core.bags import list_episodes
from efm_core.checkpoint import verify_checkpoint
from efm_core.episode import Mode
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_core.registry import Registry
from efm_model import vlm_weights
from efm_model.config import CameraSpec, HeadConfig
from efm_model.inference import Engine
from efm_model.vlm_config import BackboneRequest
from efm_model.vlm_source import BackboneError
from efm_trainer.calibrate import CalibrationConfig
from efm_trainer.calibrate_run import run_calibration
from efm_trainer.data import load_episodes
from efm_trainer.features import FeatureCache
from efm_trainer.improve import ImproveSettings
from efm_trainer.improve_run import PracticeStart, open_practice, saved_episodes
from efm_trainer.jobs import SftJob, Workplace, fine_tune_job
from efm_trainer.practice import PracticeSettings
from efm_trainer.rollout import InProcessFleet
from efm_trainer.sft import split_episodes
from efm_trainer.sft_config import SftConfig
from efm_trainer.versions import load_version

QUICK = SftConfig(steps=60, batch=32, validate_every=20, warmup=5, validation_share=0.3)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return demonstrations(tmp_path_factory.mktemp("data"), 6)


def demonstrations(root: Path, count: int) -> Path:
    plan = toy_plan(Mode.DEMO, count, policy_version="", reward_version="")
    InProcessFleet([ToyRobot(), ToyRobot()], GUARD, data_dir=root).demonstrate(
        plan, lambda _: ToyPerson()
    )
    return root


@pytest.mark.parametrize("kind", ["paligemma", "idefics3", "qwen2_vl", "qwen2_5_vl"])
def test_from_demonstrations_to_an_improved_policy(kind, data, tmp_path):
    place = Workplace(
        Registry(tmp_path / "models"), data, tmp_path / "runs", SPACE,
        (CameraSpec(width=SIDE, height=SIDE),),
    )  # fmt: skip
    job = SftJob(
        data_set="demo", config=QUICK, heads=HeadConfig(hidden=64, token_width=32),
        backbone=write_model(kind, tmp_path / kind),
    )  # fmt: skip
    absent = job.model_copy(
        update={"backbone": BackboneRequest(source="./nowhere"), "data_set": "none"}
    )
    with pytest.raises(BackboneError, match="no such directory"):  # before the bags are read
        fine_tune_job(place, absent, lambda *_: None, lambda: False)
    figures = fine_tune_job(place, job, lambda *_: None, lambda: False)
    registry = place.registry
    assert registry.versions() == ["sft-policy", "sft-reward"]
    history = figures["history"]
    assert history[-1]["train/action_loss"] < history[0]["train/action_loss"]
    _standardised(registry, data)
    _same_again(place, job, registry)

    # Detector settings from labelled episodes of this very model.
    engine = Engine.load(registry.path("sft-policy"), registry.path("sft-reward"))
    fleet = InProcessFleet([ToyRobot(), ToyRobot()], GUARD, data_dir=tmp_path / "practice")
    fleet.practise(_calibration_plan(), engine, oracle=True)
    reward, _, skipped = run_calibration(
        registry, tmp_path / "practice" / "calibration", "sft-reward",
        CalibrationConfig(minimum_labels=1),
    )  # fmt: skip
    assert not skipped

    # One round of practice; the trainer recomputes live d and log-probabilities within its limits.
    def collect(asked):
        brain = Engine.load(registry.path(asked.policy_version), registry.path(reward))
        fleet.practise(asked, brain)
        return saved_episodes(tmp_path / "practice" / asked.data_set, asked)[0]

    settings = PracticeSettings(
        name="vlm", robots=("toy",), rounds=1, episodes_per_round=4, limit=6, entropy_floor=0.0,
        improve=ImproveSettings(minibatch=8),
    )  # fmt: skip
    run = open_practice(registry, settings, PracticeStart("sft-policy", reward), collect)
    report = run.one_round()
    assert report.published == "vlm-r000"
    _only_heads_moved(registry)
    _answers(registry, reward)


def _calibration_plan() -> EpisodePlan:
    """Five starts next to the goal and five far away: both labels are sure to come."""
    robot, distance = ToyRobot(), {}
    for seed in range(100):
        robot.reset(seed)
        distance[seed] = robot.truth()["distance"]
    nearest = sorted(distance, key=distance.__getitem__)
    episodes = tuple(
        PlannedEpisode(index=i, scene={"seed": seed}, limit=6)
        for i, seed in enumerate(nearest[:5] + nearest[-5:])
    )
    plan = toy_plan(
        Mode.CALIBRATION, 0, end_on_success=False,
        policy_version="sft-policy", reward_version="sft-reward",
    )  # fmt: skip
    return plan.model_copy(update={"episodes": {"toy": episodes}})


def _standardised(registry: Registry, data: Path) -> None:
    """The checkpoint's features of the training data have zero mean and unit deviation."""
    model, manifest = load_version(registry, "sft-policy", "policy")
    episodes, _ = load_episodes(list_episodes(data / "demo"))
    train_side, _ = split_episodes(episodes, QUICK.validation_share)
    cache = FeatureCache(model)
    found = np.concatenate([cache.features(e) for e in train_side])  # fewer than 256 rows
    assert model.trunk.fitted
    assert np.abs(found.mean(0)).max() < 1e-3
    assert np.abs(found.std(0) - 1.0).max() < 1e-3
    assert manifest.trunk_hash == verify_checkpoint(registry.path("sft-reward")).trunk_hash


def _same_again(place: Workplace, job: SftJob, registry: Registry) -> None:
    """Another run from the same data and seed ends at the same weights, bit for bit."""
    fine_tune_job(place, job.model_copy(update={"name": "again"}), lambda *_: None, lambda: False)
    one, _ = load_version(registry, "sft-policy")
    two, _ = load_version(registry, "again-policy")
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def _only_heads_moved(registry: Registry) -> None:
    before, _ = load_version(registry, "sft-policy")
    after, manifest = load_version(registry, "vlm-r000", "policy")
    old, new = before.state_dict(), after.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved
    assert all(name.startswith("action_head.") for name in moved)
    assert manifest.parent == "sft-policy"
    assert before.trunk.vlm is after.trunk.vlm
    inodes = {
        (registry.path(v) / "backbone/model.safetensors").stat().st_ino for v in registry.versions()
    }
    assert len(inodes) == 1  # on disk once, however many versions


def _answers(registry: Registry, reward: str) -> None:
    engine = Engine.load(registry.path("vlm-r000"), registry.path(reward))
    robots = [ToyRobot() for _ in range(3)]
    for seed, robot in enumerate(robots):
        robot.reset(seed)
    seen = [robot.observe() for robot in robots]
    draws = np.random.default_rng(1).random((3, SPACE.tokens))
    together = engine.infer(seen, draws, 1.0)
    for i, observation in enumerate(seen):
        (decision,), (word,) = engine.infer([observation], draws[i : i + 1], 1.0)
        assert np.array_equal(decision.bins, together[0][i].bins)
        assert decision.log_prob == pytest.approx(together[0][i].log_prob, abs=1e-4)
        assert word.mean == pytest.approx(together[1][i].mean, abs=1e-3)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.configure(parser)
    return parser.parse_args(["sft", *words])


def test_the_command_line_names_a_backbone():
    assert train._backbone(arguments()) is None
    request = train._backbone(
        arguments(
            "--backbone", "org/name", "--backbone-revision", "v1", "--backbone-dtype", "bfloat16",
            "--image-size", "224", "--question", "Do: {instruction}", "--offline",
        )
    )  # fmt: skip
    assert (request.source, request.revision, request.dtype) == ("org/name", "v1", "bfloat16")
    assert (request.image_size, request.question) == (224, "Do: {instruction}")
    assert request.local_files_only
    with pytest.raises(ValueError, match="exactly once"):
        train._backbone(arguments("--backbone", "org/name", "--question", "Do it"))
    with pytest.raises(ValueError, match="one of the two"):
        SftJob(weights=Path("w"), backbone=request)
    job = SftJob(backbone=request)  # travels as JSON to the trainer node
    assert SftJob.model_validate(json.loads(job.model_dump_json())) == job


def test_the_command_trains_on_a_directory(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(vlm_weights, "_loaded", type(vlm_weights._loaded)())  # said once per load
    source = Path(write_model("idefics3", tmp_path / "tiny").source)
    camera = SimpleNamespace(name="front", width=SIDE, height=SIDE)
    fleet = SimpleNamespace(
        path="fleet.yaml", models_dir=tmp_path / "models",
        data_dir=demonstrations(tmp_path / "data", 24),
        robots=[SimpleNamespace(name="toy", space=SPACE, cameras=[camera])],
    )  # fmt: skip
    words = ("--backbone", str(source), "--offline", "--steps", "4", "--image-size", "28")
    args = arguments(*words, "--run-dir", str(tmp_path / "runs"))
    with caplog.at_level(logging.INFO):
        figures = train._fine_tune(args, fleet, lambda: False)  # type: ignore[arg-type]
    assert "tokens per observation" in caplog.text
    registry = Registry(tmp_path / "models")
    assert registry.alias("champion") == figures["policy"] == "sft-policy"
    model, _ = load_version(registry, "sft-reward", "reward")
    assert model.config.transformers.source == "tiny"
    assert model.preprocessor.config.image_size == 28
