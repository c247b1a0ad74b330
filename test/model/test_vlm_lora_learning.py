"""The whole way with an adapter: plan, Stage 1, calibration, a round of practice, the robot."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model.test_vlm_learning import _answers, _calibration_plan, arguments, demonstrations
from model.vlm_tiny import write_model
from trainer.toy import GUARD, SIDE, SPACE, ToyRobot

pytest.importorskip("peft", reason="pip install 'efm_bringup[lora]'")

from efm_bringup.commands import train
from efm_core.checkpoint import verify_checkpoint
from efm_core.registry import Registry
from efm_model import vlm_weights
from efm_model.config import CameraSpec, HeadConfig
from efm_model.inference import Engine
from efm_model.vlm_adapter import PREFIX
from efm_trainer.calibrate import CalibrationConfig
from efm_trainer.calibrate_run import run_calibration
from efm_trainer.features import FeatureCache
from efm_trainer.improve import ImproveSettings
from efm_trainer.improve_run import PracticeStart, open_practice, saved_episodes
from efm_trainer.jobs import SftJob, Workplace, fine_tune_job
from efm_trainer.memory_plan import Asked, MemoryPlanError, Room, free_memory, plan_memory
from efm_trainer.practice import PracticeSettings
from efm_trainer.rollout import InProcessFleet
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_lora import LoraTraining
from efm_trainer.versions import load_version

QUICK = SftConfig(
    steps=16, batch=16, validate_every=4, warmup=2, validation_share=0.3, tolerance=0.0
)
LORA = LoraTraining(rank=2, learning_rate=5e-3, validation_rows=24)
HEADS = HeadConfig(hidden=64, token_width=32)
CAMERAS = (CameraSpec(width=SIDE, height=SIDE),)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return demonstrations(tmp_path_factory.mktemp("data"), 6)


@pytest.mark.parametrize("kind", ["paligemma", "idefics3", "qwen2_vl"])
def test_from_demonstrations_to_an_improved_policy(kind, data, tmp_path, caplog):
    place = Workplace(Registry(tmp_path / "models"), data, tmp_path / "runs", SPACE, CAMERAS)
    job = SftJob(
        data_set="demo", config=QUICK, heads=HEADS, lora=LORA,
        backbone=write_model(kind, tmp_path / kind),
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        figures = fine_tune_job(place, job, lambda *_: None, lambda: False)
    assert "memory plan" in caplog.text
    assert "LoRA of rank 2" in caplog.text
    registry = place.registry
    policy, acting = load_version(registry, "sft-policy", "policy")
    reward, judging = load_version(registry, "sft-reward", "reward")
    assert len(figures["history"]) == 4
    same = acting.metrics["step"] == judging.metrics["step"]
    assert (acting.trunk_hash == judging.trunk_hash) == same
    assert policy.trunk.vlm is reward.trunk.vlm
    assert all(weight.abs().max() > 0 for weight in policy.trunk.adapter.parameters())

    fleet = InProcessFleet([ToyRobot(), ToyRobot()], GUARD, data_dir=tmp_path / "practice")
    fleet.practise(_calibration_plan(), Engine.load(*map(registry.path, registry.versions())),
                   oracle=True)  # fmt: skip
    calibrated, _, skipped = run_calibration(
        registry, tmp_path / "practice" / "calibration", "sft-reward",
        CalibrationConfig(minimum_labels=1),
    )  # fmt: skip
    assert not skipped
    _one_round(registry, calibrated, fleet, tmp_path / "practice")
    _answers(registry, calibrated)


def _one_round(registry: Registry, reward: str, fleet: InProcessFleet, data: Path) -> None:
    """Live d and log-probabilities agree with those recomputed, each from its own adapter."""

    def collect(asked):
        brain = Engine.load(registry.path(asked.policy_version), registry.path(reward))
        fleet.practise(asked, brain)
        return saved_episodes(data / asked.data_set, asked)[0]

    settings = PracticeSettings(
        name="vlm", robots=("toy",), rounds=1, episodes_per_round=4, limit=6, entropy_floor=0.0,
        improve=ImproveSettings(minibatch=8),
    )  # fmt: skip
    run = open_practice(registry, settings, PracticeStart("sft-policy", reward), collect)
    report = run.one_round()
    assert report.published == "vlm-r000"
    assert report.metrics["round/steps_to_go_difference"] < 1e-4
    before, _ = load_version(registry, "sft-policy")
    after, _ = load_version(registry, "vlm-r000", "policy")
    old, new = before.state_dict(), after.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved
    assert all(name.startswith("action_head.") for name in moved)
    assert any(name.startswith(PREFIX) for name in old)
    inodes = {
        (registry.path(v) / "backbone/model.safetensors").stat().st_ino for v in registry.versions()
    }
    assert len(inodes) == 1


def test_a_cache_keeps_the_features_of_two_adapters_apart(data, tmp_path):
    from efm_core.bags import list_episodes
    from efm_trainer.data import load_episodes

    request = write_model("idefics3", tmp_path / "tiny")
    one, two = (
        vlm_weights.transformers_model(
            request, tmp_path / "store", SPACE, CAMERAS, adapter=LORA.adapter
        )
        for _ in range(2)
    )
    cache = FeatureCache(one)
    (episode, *_), _ = load_episodes(list_episodes(data / "demo"))
    assert np.shares_memory(cache.features(episode, two), cache.features(episode))  # equal so far
    with torch.no_grad():
        for weight in two.trunk.adapter.parameters():
            weight.add_(0.1)
    other = FeatureCache(one).features(episode, two)
    assert not np.allclose(other, cache.features(episode))
    assert np.array_equal(other, FeatureCache(two).features(episode))


def asked(request, **changes) -> Asked:
    given = {"lora": LORA, "space": SPACE, "cameras": CAMERAS, "heads": HEADS, "batch": 16}
    return Asked(request, **{**given, **changes})


def test_the_plan_counts_what_training_takes(tmp_path):
    request = write_model("idefics3", tmp_path / "tiny")
    told: list[str] = []
    plan = plan_memory(asked(request), tmp_path / "store", free_memory(), told.append)
    assert not (tmp_path / "store").exists()  # nothing was taken over
    assert told == plan.lines()
    assert "fits" in told[-1]
    model = vlm_weights.transformers_model(
        request, tmp_path / "store", SPACE, CAMERAS, heads=HEADS, adapter=LORA.adapter
    )
    parts = plan.device_parts
    adapter = sum(p.numel() for p in model.trunk.parameters())
    assert parts["frozen weights"] == model.trunk.vlm.size_bytes - 4 * adapter
    heads = parts["what learns"] // 4 - adapter
    acting = sum(p.numel() for p in model.action_head.parameters())
    horizon = 512 - model.config.steps_to_go.count
    judging = sum(p.numel() for p in model.steps_to_go_head.parameters())
    assert heads == acting + judging + horizon * (HEADS.hidden + 1)
    assert parts["optimiser"] == 2 * parts["gradients"] == 2 * parts["what learns"]

    model.trunk.requires_grad_(True)
    left = {False: 0, True: 0}
    for recompute in (False, True):
        lora = LORA.model_copy(update={"recompute": recompute})
        planned = plan_memory(asked(request, lora=lora), tmp_path / "store", free_memory(), print)
        model.trunk.vlm.recompute = recompute
        left[recompute] = _kept(model, request.rows_per_pass)
        layer = left[False] // 2 if recompute else 0  # one of two layers, while it is recomputed
        ahead = planned.device_parts["activations"] / (left[recompute] + layer)
        assert 0.9 < ahead < 3.0, (recompute, ahead)


def _kept(model, rows: int) -> int:
    """Bytes that one real pass leaves for the backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.trunk.vlm._base.parameters()}
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    images = np.zeros((rows, 1, SIDE, SIDE, 3), dtype=np.uint8)
    tokens = np.stack([model.preprocessor.tokens("push the red cube")] * rows)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.features(images, tokens)
    return sum(t.untyped_storage().nbytes() for t in found.values())


def test_too_little_memory_is_refused_before_any_weight_is_touched(tmp_path, monkeypatch):
    request = write_model("paligemma", tmp_path / "tiny")
    source = Path(request.source) / "model.safetensors"
    source.write_bytes(b"no weights at all")  # reading them would fail
    told: list[str] = []
    plan = plan_memory(asked(request), tmp_path / "store", Room("cpu", 10**12, 10**12), told.append)
    parts = plan.device_parts
    recomputed = plan.needed - parts["activations"]
    room = Room("cpu", recomputed + parts["activations"] // 4, 0)
    with pytest.raises(MemoryPlanError, match="DOES NOT FIT") as caught:
        plan_memory(asked(request), tmp_path / "store", room, told.append)
    assert "--rows-per-pass 1" in str(caught.value)
    assert str(caught.value).endswith("take these options, or free memory")
    nothing = Room("cpu", 10**6, 10**6)
    with pytest.raises(MemoryPlanError, match="take a smaller model") as caught:
        plan_memory(asked(request), tmp_path / "store", nothing, told.append)
    for option in ("--activation-checkpointing", "--backbone-dtype bfloat16", "no --lora"):
        assert option in str(caught.value)
    place = Workplace(Registry(tmp_path / "m"), tmp_path, tmp_path / "runs", SPACE, CAMERAS)
    monkeypatch.setattr("efm_trainer.memory_plan.free_memory", lambda: nothing)
    with pytest.raises(MemoryPlanError):
        fine_tune_job(
            place, SftJob(backbone=request, lora=LORA), lambda *_: None, lambda: False
        )
    assert not (tmp_path / "m").exists() or not list((tmp_path / "m").rglob("*.safetensors"))


def test_a_gpu_is_planned_beside_its_host(tmp_path):
    request = write_model("qwen2_vl", tmp_path / "tiny")
    room = Room("cuda", 10**12, 10**12)
    plan = plan_memory(asked(request), tmp_path / "store", room, lambda _: None)
    assert plan.device_parts["copies of weights"] > 0  # of autocast, beside float32
    half = request.model_copy(update={"dtype": "bfloat16"})
    small = plan_memory(asked(half), tmp_path / "store", room, lambda _: None)
    assert "copies of weights" not in small.device_parts
    assert 2 * small.device_parts["frozen weights"] == plan.device_parts["frozen weights"]
    assert small.host_parts["model on its way"] > 0
    tight = Room("cuda", 10**12, 10)
    with pytest.raises(MemoryPlanError, match="free on the host"):
        plan_memory(asked(request), tmp_path / "store", tight, lambda _: None)


def test_the_command_line_asks_for_an_adapter(tmp_path):
    assert train._lora(arguments("--backbone", "org/name")) is None
    words = ("--backbone", "org/name", "--lora", "8", "--activation-checkpointing",
             "--lora-rate", "1e-4", "--rows-per-pass", "2")  # fmt: skip
    lora = train._lora(arguments(*words))
    assert (lora.rank, lora.adapter.alpha, lora.recompute) == (8, 16.0, True)
    assert lora.learning_rate == 1e-4
    request = train._backbone(arguments(*words))
    assert request.rows_per_pass == 2
    with pytest.raises(ValueError, match="add --lora"):
        train._lora(arguments("--backbone", "org/name", "--activation-checkpointing"))
    with pytest.raises(ValueError, match="give its backbone too"):
        SftJob(lora=lora)
    with pytest.raises(ValueError, match="not float16"):
        SftJob(lora=lora, backbone=request.model_copy(update={"dtype": "float16"}))
    job = SftJob(lora=lora, backbone=request)
    assert SftJob.model_validate_json(job.model_dump_json()) == job


def test_the_command_trains_an_adapter(tmp_path):
    source = write_model("idefics3", tmp_path / "tiny").source
    camera = SimpleNamespace(name="front", width=SIDE, height=SIDE)
    fleet = SimpleNamespace(
        path="fleet.yaml", models_dir=tmp_path / "models",
        data_dir=demonstrations(tmp_path / "data", 24),
        robots=[SimpleNamespace(name="toy", space=SPACE, cameras=[camera])],
    )  # fmt: skip
    words = ("--backbone", source, "--offline", "--steps", "2", "--batch", "4", "--lora", "2")
    args = arguments(*words, "--run-dir", str(tmp_path / "runs"))
    train._fine_tune(args, fleet, lambda: False)  # type: ignore[arg-type]
    model, manifest = load_version(Registry(tmp_path / "models"), "sft-reward", "reward")
    assert model.config.transformers.adapter.rank == 2
    assert manifest == verify_checkpoint(tmp_path / "models" / "sft-reward")
