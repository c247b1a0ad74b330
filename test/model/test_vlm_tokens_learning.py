"""The whole way with answers as tokens: Stage 1, calibration, a round of practice, the robot."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from model.test_vlm_learning import _answers, _calibration_plan, arguments, demonstrations
from model.test_vlm_lora_learning import CAMERAS, HEADS, LORA, QUICK, _one_round, asked
from model.vlm_tiny import write_model
from trainer.toy import GUARD, SIDE, SPACE, ToyRobot

pytest.importorskip("peft", reason="pip install 'efm_bringup[lora]'")

from efm_bringup.commands import train
from efm_core.registry import Registry
from efm_model import vlm_weights
from efm_model.inference import Engine
from efm_trainer.calibrate import CalibrationConfig
from efm_trainer.calibrate_run import run_calibration
from efm_trainer.jobs import SftJob, Workplace, fine_tune_job
from efm_trainer.memory_plan import free_memory, plan_memory
from efm_trainer.rollout import InProcessFleet
from efm_trainer.sft_state import head_weights
from efm_trainer.versions import load_version


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return demonstrations(tmp_path_factory.mktemp("data"), 6)


@pytest.mark.parametrize("kind", ["paligemma", "idefics3", "qwen2_vl"])
def test_from_demonstrations_to_an_improved_policy(kind, data, tmp_path, caplog):
    place = Workplace(Registry(tmp_path / "models"), data, tmp_path / "runs", SPACE, CAMERAS)
    job = SftJob(
        data_set="demo", config=QUICK.model_copy(update={"learning_rate": 1e-2}), heads=HEADS,
        lora=LORA, tokens=True, backbone=write_model(kind, tmp_path / kind, spare=200),
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        figures = fine_tune_job(place, job, lambda *_: None, lambda: False)
    assert "answers as tokens" in caplog.text
    history = figures["history"]
    assert history[-1]["train/action_loss"] < history[0]["train/action_loss"]
    registry = place.registry
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


def test_the_command_trains_tokens(tmp_path):
    source = write_model("idefics3", tmp_path / "tiny", spare=300).source
    camera = SimpleNamespace(name="front", width=SIDE, height=SIDE)
    fleet = SimpleNamespace(
        path="fleet.yaml", models_dir=tmp_path / "models",
        data_dir=demonstrations(tmp_path / "data", 24),
        robots=[SimpleNamespace(name="toy", space=SPACE, cameras=[camera])],
    )  # fmt: skip
    words = ("--backbone", source, "--offline", "--steps", "2", "--batch", "4", "--tokens")
    with pytest.raises(ValueError, match="add --lora"):
        train._lora(arguments(*words))
    args = arguments(*words, "--lora", "2", "--run-dir", str(tmp_path / "runs"))
    train._fine_tune(args, fleet, lambda: False)  # type: ignore[arg-type]
    model, _ = load_version(Registry(tmp_path / "models"), "sft-reward", "reward")
    tokens = model.config.transformers.tokens
    assert len(tokens.actions) == max(dim.bins for dim in SPACE.dims)
    assert len(tokens.steps_to_go) == model.config.steps_to_go.count
    with pytest.raises(ValueError, match="give lora too"):
        SftJob(tokens=True, backbone=train._backbone(arguments(*words)))


def test_the_plan_counts_the_rows_that_learn(tmp_path):
    request = write_model("paligemma", tmp_path / "tiny", spare=600)
    plan = plan_memory(asked(request, tokens=True), tmp_path / "s", free_memory(), lambda _: None)
    model = vlm_weights.transformers_model(
        request, tmp_path / "s", SPACE, CAMERAS, adapter=LORA.adapter, tokens=True
    )
    learnt = sum(weight.numel() for weight in head_weights(model).values())
    longer = (512 - model.config.steps_to_go.count) * 32
    assert plan.device_parts["what learns"] == 4 * (learnt + longer)
