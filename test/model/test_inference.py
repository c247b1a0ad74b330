"""The engine: batches, shared trunks, back ends and checkpoints give the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from model.conftest import make_model, pictures

from efm_core.checkpoint import CheckpointError
from efm_core.detector import DetectorSettings
from efm_model.inference import Engine
from efm_trainer.versions import Making, save_version

DRAWS = np.random.default_rng(3).random((6, 2))


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[Path, Path]:
    model = make_model()
    detector = DetectorSettings(threshold=1.25, hold=3)
    policy = save_version(tmp_path, "p", model, Making(role="policy", algorithm="sft"))
    reward = save_version(
        tmp_path, "r", model, Making(role="reward", algorithm="sft", detector=detector)
    )
    return policy, reward


def test_an_answer_does_not_depend_on_its_batch():
    engine = Engine(make_model(), make_model())
    observations = pictures(6)
    together = engine.infer(observations, DRAWS, 0.8)
    for i, observation in enumerate(observations):
        (decision,), (steps,) = engine.infer([observation], DRAWS[i : i + 1], 0.8)
        assert np.array_equal(decision.bins, together[0][i].bins)
        assert decision.log_prob == pytest.approx(together[0][i].log_prob, abs=1e-5)
        assert steps.mean == pytest.approx(together[1][i].mean, abs=1e-5)


def test_a_shared_trunk_runs_once_and_changes_nothing(monkeypatch):
    model, calls = make_model(), []
    engine = Engine(model, model)
    apart = engine.act(pictures(3), DRAWS[:3], 0.8), engine.steps_to_go(pictures(3))
    forward = model.trunk.forward
    monkeypatch.setattr(model.trunk, "forward", lambda *a: (calls.append(1), forward(*a))[1])
    together = engine.infer(pictures(3), DRAWS[:3], 0.8)
    assert len(calls) == 1
    assert [d.log_prob for d in apart[0]] == [d.log_prob for d in together[0]]
    assert apart[1] == together[1]


def test_trunks_with_other_weights_are_not_shared():
    policy, reward = make_model(seed=0), make_model(seed=1)
    both = Engine(policy, reward).infer(pictures(2), DRAWS[:2], 0.8)
    assert both[1] == Engine(None, reward).steps_to_go(pictures(2))


def test_a_checkpoint_answers_as_the_model_that_was_saved(checkpoints):
    engine = Engine.load(*checkpoints, backend="torch")
    expected = Engine(make_model(), make_model())
    ours, theirs = (e.infer(pictures(4), DRAWS[:4], 0.5) for e in (engine, expected))
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert np.array_equal(a.bins, b.bins)
        assert a.log_prob == pytest.approx(b.log_prob, abs=1e-6)
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert a.mean == pytest.approx(b.mean, abs=1e-6)
    assert engine.detector == DetectorSettings(threshold=1.25, hold=3)
    assert (engine.policy_version, engine.reward_version) == ("p", "r")


def test_onnx_agrees_with_torch(checkpoints, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("EFM_CACHE", str(tmp_path / "cache"))
    onnx = Engine.load(*checkpoints, backend="onnx")
    plain = Engine.load(*checkpoints, backend="torch")
    assert onnx.backend == "onnx"
    ours, theirs = (e.infer(pictures(5), DRAWS[:5], 0.8) for e in (onnx, plain))
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert a.mean == pytest.approx(b.mean, abs=1e-4)
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert np.array_equal(a.bins, b.bins)
        assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)
    # A second engine takes the exported file from the cache.
    assert len(list((tmp_path / "cache" / "onnx").glob("*.onnx"))) == 1
    Engine.load(*checkpoints, backend="onnx")
    assert len(list((tmp_path / "cache" / "onnx").glob("*.onnx"))) == 1


def test_roles_are_not_mixed_up(checkpoints):
    policy, reward = checkpoints
    with pytest.raises(CheckpointError, match="role"):
        Engine.load(reward, None)
    with pytest.raises(ValueError, match="holds no reward model"):
        Engine.load(policy, None, backend="torch").steps_to_go(pictures(1))
    with pytest.raises(ValueError, match="needs a policy or a reward model"):
        Engine(None, None)


def test_sampling_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    Engine(make_model(), make_model()).infer(pictures(2), DRAWS[:2], 1.0)
    assert torch.equal(before, torch.random.get_rng_state())
