"""Answers as tokens of the vocabulary: what learns, what is frozen, what is stored of it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from model.test_vlm_lora import EXACT, LORA, frozen_bytes, samples
from model.test_vlm_tokens import KINDS, STEPS, bins_of, features_of, new_model, stirred

pytest.importorskip("peft", reason="pip install 'efm_bringup[lora]'")

from efm_core.checkpoint import CheckpointError
from efm_model.loading import load_model
from efm_model.model import EmbodiedModel
from efm_trainer.improve import ImproveSettings, new_optimizer, update
from efm_trainer.progress import TrainingCancelledError
from efm_trainer.round_batch import RoundBatch
from efm_trainer.sft import fine_tune
from efm_trainer.sft_state import head_weights
from efm_trainer.versions import Making, save_version

TIED = ("paligemma", "qwen2_vl")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tokens")


def test_an_update_of_practice_is_the_same_in_smaller_passes(store):
    """Stage 2: the rows of actions learn, the gradients of passes add up to the minibatch's."""
    ends = []
    for rows in (16, 3):
        model = stirred("idefics3", store, rows_per_pass=rows)
        before, features, bins = head_weights(model), features_of(model), bins_of(model)
        batch = RoundBatch(
            features.numpy(), bins.numpy(), model.token_log_prob(features, bins, 1.0)[0]
            .detach().double().numpy(), np.arange(16.0), np.arange(16.0), np.arange(16.0), 1.0,
        )  # fmt: skip
        settings = ImproveSettings(minibatch=8, passes=2)
        report = update(model, new_optimizer(model, settings), batch, settings, seed=0)
        assert report.updates == 4
        assert report.kl == pytest.approx(0.0, abs=0.05)
        ends.append(head_weights(model))
        moved = {name for name, w in ends[-1].items() if not torch.equal(w, before[name])}
        assert moved == {"action_head.embedding", "action_head.weight"}
    for name, weight in ends[0].items():
        assert torch.allclose(weight, ends[1][name], atol=2e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_new_rows_and_the_adapter_and_no_frozen_weight(kind, store):
    model = new_model(kind, store)
    ends = (model.trunk.vlm.spoken._weight, model.trunk.vlm._base.get_input_embeddings().weight)
    assert (ends[0] is ends[1]) == (kind in TIED)
    model.trunk.requires_grad_(True)
    frozen, bins = frozen_bytes(model), bins_of(model)
    optimizer = torch.optim.Adam([*model.head_parameters(), *model.trunk.parameters()], lr=0.1)
    log_prob, _ = model.log_prob(features_of(model), bins, 1.0)
    (log_prob.sum() + model.steps_to_go_logits(features_of(model)).logsumexp(-1).sum()).backward()
    acting, judging = model.action_head, model.steps_to_go_head
    read = {0} | {1 + int(b) for b in bins[:, 0]}  # the question, and first tokens fed back
    for row in range(len(acting.embedding)):
        assert bool(acting.embedding.grad[row].abs().sum() > 0) == (row in read)
    assert (acting.weight.grad.abs().sum(-1) > 0).all()
    assert judging.embedding.grad.abs().sum() > 0
    assert (judging.weight.grad.abs().sum(-1) > 0).all()
    weights = dict(model.trunk.vlm._base.named_parameters())
    assert all(w.grad is None for n, w in weights.items() if "lora_" not in n)
    assert ends[0].grad is None
    optimizer.step()
    assert frozen_bytes(model) == frozen


@pytest.mark.parametrize("kind", KINDS[:3])
def test_sixteen_samples_are_learnt_by_heart_and_survive_the_disk(kind, store, tmp_path):
    model = new_model(kind, store)
    before, frozen, wanted = head_weights(model), frozen_bytes(model), samples(model)
    config = EXACT.model_copy(update={"learning_rate": 5e-2})
    result = fine_tune(model, wanted, wanted, config, lora=LORA)
    assert frozen_bytes(model) == frozen
    moved = [name for name, w in head_weights(model).items() if not torch.equal(w, before[name])]
    assert set(moved) == set(before)
    model.freeze_trunk()
    features = model.eval().features(*wanted.observations.inputs(np.arange(16)))
    found, _, _ = model.sample(features, np.full((16, 2), 0.5), 0.0)
    assert np.array_equal(found, wanted.bins)
    p = torch.softmax(model.steps_to_go_logits(features).detach().double(), -1).numpy()
    assert np.abs(STEPS.expectation(p) - wanted.steps).max() < 0.5
    assert result.heads["policy"].keys() == before.keys()

    draws = np.random.default_rng(2).random((16, 2))
    expected = (model.sample(features, draws, 1.0), model.steps_to_go_logits(features))
    loaded = {}
    for role in ("policy", "reward"):
        save_version(tmp_path, f"v-{role}", model, Making(role=role, algorithm="sft"))
        loaded[role], _ = load_model(tmp_path / f"v-{role}", role)
        assert loaded[role].config.transformers.tokens == model.config.transformers.tokens
        assert loaded[role].preprocessor.config.prompt == model.preprocessor.config.prompt
    bins, log_prob, _ = loaded["policy"].sample(features, draws, 1.0)
    assert np.array_equal(bins, expected[0][0])
    assert np.array_equal(log_prob, expected[0][1])
    assert torch.equal(loaded["reward"].steps_to_go_logits(features), expected[1])
    _refuses_another_table(tmp_path / "v-policy")


def _refuses_another_table(folder: Path) -> None:
    from efm_model.config import ModelConfig
    from efm_model.preprocess import Preprocessor

    preprocessor = Preprocessor.load(folder / "preprocessor.json")
    config = ModelConfig.model_validate_json((folder / "config.json").read_bytes())
    tokens = config.transformers.tokens
    image = preprocessor.config.image_token_id
    for change, match in (
        ({"actions": tokens.actions[:-1]}, "are needed"),
        ({"actions": (*tokens.actions[:-1], tokens.ask_action)}, "repeats an id"),
        ({"ask_action": 10**6}, "the model's embedding has"),
        ({"ask_action": image}, "which the prompt uses"),
    ):
        other = config.transformers.model_copy(
            update={"tokens": tokens.model_copy(update=change)}
        )
        with pytest.raises(ValueError, match=match):
            EmbodiedModel(config.model_copy(update={"transformers": other}), preprocessor)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        load_model(folder, "policy")


def test_layers_may_be_computed_again_in_the_backward_pass(store):
    found = []
    for recompute in (False, True):
        model = new_model("paligemma", store)
        model.trunk.requires_grad_(True)
        model.trunk.vlm.recompute = recompute
        log_prob, _ = model.log_prob(features_of(model), bins_of(model), 1.0)
        log_prob.sum().backward()
        model.trunk.vlm.recompute = False
        found.append([p.grad for p in (*model.action_head.parameters(), *model.trunk.parameters())])
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_an_interrupted_run_goes_on_exactly(store, tmp_path):
    config = EXACT.model_copy(update={"steps": 4, "validate_every": 2, "warmup": 2})
    whole, cut, again = (new_model("qwen2_vl", store) for _ in range(3))
    straight = fine_tune(whole, samples(whole), samples(whole), config, lora=LORA)
    asked: list[int] = []
    with pytest.raises(TrainingCancelledError):
        fine_tune(
            cut, samples(cut), samples(cut), config, tmp_path, lora=LORA,
            cancelled=lambda: asked.append(1) or len(asked) > 1,
        )  # fmt: skip
    resumed = fine_tune(again, samples(again), samples(again), config, tmp_path, lora=LORA)
    for role in ("policy", "reward"):
        for name, weight in straight.heads[role].items():
            assert torch.equal(weight, resumed.heads[role][name]), name


def test_copies_of_a_model_learn_apart(store):
    model = stirred("idefics3", store)
    features, bins = features_of(model), bins_of(model)
    twin = copy.deepcopy(model)
    before = model.log_prob(features, bins, 1.0)[0]
    assert torch.equal(twin.log_prob(features, bins, 1.0)[0], before)
    with torch.no_grad():
        for weight in twin.trunk.adapter.parameters():
            weight.add_(0.1)
    assert not torch.equal(twin.log_prob(features, bins, 1.0)[0], before)
    assert torch.equal(model.log_prob(features, bins, 1.0)[0], before)
    assert twin.trunk.vlm is model.trunk.vlm
