"""Answers as tokens of the vocabulary: ids, constrained decoding, caches, what learns, the disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model.test_vlm_lora import CAMERAS, GOALS, LORA, SPACE, Seen, samples
from model.vlm_tiny import write_model

pytest.importorskip("peft", reason="pip install 'efm_bringup[lora]'")

from efm_core.actions import ActionDim, ActionSpace
from efm_core.steps_to_go import StepsToGoBins
from efm_model.inference import Engine
from efm_model.model import EmbodiedModel
from efm_model.vlm_source import BackboneError
from efm_model.vlm_token_ids import choose_ids
from efm_model.vlm_token_trunk import Prefilled
from efm_model.vlm_weights import transformers_model
from efm_trainer.versions import Making, save_version

KINDS = ("paligemma", "idefics3", "qwen2_vl", "qwen2_5_vl")
STEPS = StepsToGoBins(count=8)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tokens")


def new_model(kind: str, store: Path, space: ActionSpace = SPACE, **changes) -> EmbodiedModel:
    request = write_model(kind, store / kind, spare=40)
    request = request.model_copy(update={"rows_per_pass": 16, **changes})
    return transformers_model(
        request, store / "store", space, CAMERAS, STEPS, adapter=LORA.adapter, tokens=True
    )


def stirred(kind: str, store: Path, **options) -> EmbodiedModel:
    """A model whose learnt rows and adapter are not at their start."""
    model = new_model(kind, store, **options)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in (*model.head_parameters(), *model.trunk.adapter.parameters()):
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def features_of(model: EmbodiedModel) -> torch.Tensor:
    seen = Seen(model)
    return model.features(seen.images, seen.tokens)


def bins_of(model: EmbodiedModel) -> torch.Tensor:
    return torch.from_numpy(samples(model).bins)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_model_restricted_and_renormalised(kind, store):
    """At the start nothing is learnt: the masked softmax of the whole model's own logits."""
    model = new_model(kind, store)
    tokens, bins = model.config.transformers.tokens, bins_of(model)
    found = torch.exp(model.token_log_prob(features_of(model), bins, 0.7)[0])
    reference = _reference(store / kind)
    for group in model.trunk.groups(features_of(model)):
        rows = group.rows
        ids = torch.tensor(tokens.actions)[bins[rows]]
        ask = torch.full((len(rows), 1), tokens.ask_action)
        with torch.no_grad():
            inputs = model.trunk.behind(group, torch.cat([ask, ids[:, :-1]], dim=1))
            logits = reference(**inputs, use_cache=False).logits.double()[:, -2:] / 0.7
        for t, dim in enumerate(SPACE.dims):
            masked = torch.full_like(logits[:, t], -torch.inf)
            legal = list(tokens.actions[: dim.bins])
            masked[:, legal] = logits[:, t, legal]
            p = torch.softmax(masked, dim=-1)
            assert torch.allclose(p[:, legal].sum(-1), torch.ones(len(rows), dtype=torch.double))
            expected = p.gather(1, ids[:, t : t + 1])[:, 0]
            assert torch.allclose(found[rows, t].double(), expected, atol=1e-5)


def _reference(folder: Path):
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("kind", KINDS)
def test_cached_decoding_is_the_same_as_whole_passes(kind, store):
    model = stirred(kind, store)
    features = features_of(model)
    draws = np.random.default_rng(0).random((16, 2))
    bins, log_prob, entropy = model.sample(features, draws, 0.8)
    again, entropy_again = model.log_prob(features, torch.from_numpy(bins), 0.8)
    np.testing.assert_allclose(log_prob, again.detach().numpy(), atol=2e-5)
    np.testing.assert_allclose(entropy, entropy_again.detach().numpy(), atol=2e-5)
    assert (bins < [dim.bins for dim in SPACE.dims]).all()
    assert len(np.unique(bins[:, 0])) > 1
    total = sum(
        model.log_prob(features, torch.tensor([[a, b]] * 16), 0.8)[0].exp()
        for a in range(SPACE.dims[0].bins) for b in range(SPACE.dims[1].bins)
    )  # fmt: skip
    assert torch.allclose(total, torch.ones(16), atol=1e-5)
    with pytest.raises(ValueError, match="draws have shape"):
        model.sample(features, draws[:, :1], 0.8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_is_drawn_alone_as_in_a_batch(kind, store):
    """Four tokens, prompts of three lengths, passes of five observations or of one."""
    model = stirred(kind, store, space=SPACE.model_copy(update={"chunk": 2}), rows_per_pass=5)
    features = features_of(model)
    draws = np.random.default_rng(0).random((16, 4))
    bins, log_prob, _ = model.sample(features, draws, 0.8)
    again, _ = model.log_prob(features, torch.from_numpy(bins), 0.8)
    np.testing.assert_allclose(log_prob, again.detach().numpy(), atol=5e-5)
    for i in (0, 1, 2, 15):
        alone = model.sample(features[i : i + 1], draws[i : i + 1], 0.8)
        assert np.array_equal(alone[0][0], bins[i])
        assert alone[1][0] == pytest.approx(log_prob[i], abs=5e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_read_once_for_both_questions_where_it_may(kind, store, monkeypatch):
    model = stirred(kind, store)
    features = features_of(model)
    draws = np.random.default_rng(1).random((16, 2))
    separate = (model.sample(features, draws, 1.0), model.steps_to_go_logits(features))
    assert model.trunk.rule.shared == (kind != "paligemma")
    assert model.trunk.rule.answer == (kind == "paligemma")
    ready = model.trunk.prefill(features)
    assert isinstance(ready, Prefilled) == model.trunk.rule.shared
    judged = model.steps_to_go_logits(ready)
    bins, log_prob, _ = model.sample(ready, draws, 1.0)
    assert np.array_equal(bins, separate[0][0])
    np.testing.assert_allclose(log_prob, separate[0][1], atol=2e-5)
    assert torch.allclose(judged, separate[1], atol=1e-4)

    seen, run = [], model.trunk.vlm.run
    monkeypatch.setattr(
        model.trunk.vlm, "run",
        lambda inputs, *a, **k: (seen.append(inputs["input_ids"].shape[1]), run(inputs, *a, **k))[1]
    )  # fmt: skip
    for group in model.trunk.groups(features[:1]):
        model.steps_to_go_logits(model.trunk.prefill(features[:1]))
        seen.clear()
        model.sample(model.trunk.prefill(features[:1]), draws[:1], 1.0)
        prompt = group.text["input_ids"].shape[1]
        assert seen == ([prompt, 1, 1] if model.trunk.rule.shared else [prompt + 1, 1])


def test_an_engine_reads_the_prompt_once_for_both_roles(store, tmp_path):
    from efm_core.observation import Observation

    model = stirred("idefics3", store)
    for role in ("policy", "reward"):
        save_version(tmp_path, role, model, Making(role=role, algorithm="sft"))
    engine = Engine.load(tmp_path / "policy", tmp_path / "reward")
    seen = Seen(model)
    observations = [
        Observation(
            images={c.name: seen.images[i, n] for n, c in enumerate(CAMERAS)},
            instruction=("push the red cube", "go to the middle left")[i % 2], stamp_ns=i,
        )
        for i in range(3)
    ]  # fmt: skip
    draws = np.random.default_rng(1).random((3, 2))
    lengths, run = [], engine._policy.model.trunk.vlm.run
    engine._policy.model.trunk.vlm.run = lambda inputs, *a, **k: (
        lengths.append(inputs["input_ids"].shape[1]), run(inputs, *a, **k)
    )[1]  # fmt: skip
    decisions, words = engine.infer(observations, draws, 1.0)
    assert sum(length > 1 for length in lengths) == 1
    del engine._policy.model.trunk.vlm.run
    apart, judged = engine.act(observations, draws, 1.0), engine.steps_to_go(observations)
    for one, two, d, e in zip(decisions, apart, words, judged, strict=True):
        assert np.array_equal(one.bins, two.bins)
        assert one.log_prob == pytest.approx(two.log_prob, abs=2e-5)
        assert d.mean == pytest.approx(e.mean, abs=1e-4)


def test_ids_are_those_that_text_needs_least(store):
    names = ["<pad>", "<bos>", "a", "b", "<loc0001>", "c", "<unused7>", "d", "e", "<image>"]
    tokenizer = SimpleNamespace(
        get_vocab=lambda: {name: i for i, name in enumerate(names)}, all_special_ids=[0, 1],
        added_tokens_decoder={9: "<image>"},
    )  # fmt: skip
    assert choose_ids(tokenizer, 12, {8}, 5) == (4, 6, 10, 11, 7)
    for name in ("<seg012>", "<|extra_3|>", "<extra_id_9>", "<|reserved_special_token_4|>",
                 "[unused1]"):  # fmt: skip
        names[2] = name
        assert choose_ids(tokenizer, 12, {8}, 1) == (2,), name
    names[2] = "a"
    with pytest.raises(ValueError, match=r"can spare 5 ids, but 6 are needed .*no --tokens"):
        choose_ids(tokenizer, 12, {8}, 6)
    wide = ActionSpace(dims=(ActionDim(name="x", unit="m", low=-0.02, high=0.02, bins=101),))
    request = write_model("idefics3", store / "narrow")
    with pytest.raises(BackboneError, match=r"backbone '.*narrow': its vocabulary of"):
        transformers_model(request, store / "store", wide, CAMERAS, STEPS, tokens=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [False, True])
def test_two_adapters_look_at_the_pictures_once(kind, tokens, store, tmp_path):
    """Frozen reward and moving policy: two adapters over one base and one pass of its eyes."""
    from efm_core.observation import Observation

    request = write_model(kind, store / kind, spare=40)
    for seed, role in enumerate(("policy", "reward")):
        model = transformers_model(
            request, store / "store", SPACE, CAMERAS, STEPS, adapter=LORA.adapter, tokens=tokens
        )
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.trunk.adapter.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        save_version(tmp_path, role, model, Making(role=role, algorithm="sft"))
    engine = Engine.load(tmp_path / "policy", tmp_path / "reward")
    vlm = engine._policy.model.trunk.vlm
    assert vlm is engine._reward.model.trunk.vlm
    seen, draws = Seen(model), np.random.default_rng(1).random((10, 2))
    observations = [
        Observation({c.name: seen.images[i, n] for n, c in enumerate(CAMERAS)}, GOALS[i % 3])
        for i in range(10)
    ]  # two passes, of eight and of two
    looks: list[int] = []
    look = vlm._base.get_image_features
    vlm._base.get_image_features = lambda *a, **k: (looks.append(1), look(*a, **k))[1]
    try:
        decisions, words = engine.infer(observations, draws, 1.0)
        assert len(looks) == 2
        vlm._sight._last.clear()
        apart = engine.act(observations, draws, 1.0)
        vlm._sight._last.clear()
        judged = engine.steps_to_go(observations)
        assert len(looks) == 6
        other = [Observation(dict(o.images), o.instruction) for o in observations[::-1]]
        engine.infer(other, draws, 1.0)
        assert len(looks) == 8
    finally:
        vlm._base.get_image_features = look
    for one, two, d, e in zip(decisions, apart, words, judged, strict=True):
        assert np.array_equal(one.bins, two.bins)
        assert one.log_prob == two.log_prob
        assert d == e


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_answers_too(kind, store):
    model = stirred(kind, store, dtype="bfloat16")
    assert model.trunk.rule.shared == (kind != "paligemma")
    features = features_of(model)
    bins, log_prob, _ = model.sample(features, np.random.default_rng(0).random((16, 2)), 1.0)
    again, _ = model.log_prob(features, torch.from_numpy(bins), 1.0)
    assert float(np.median(np.abs(log_prob - again.detach().numpy()))) < 0.02
    (again.sum() + model.steps_to_go_logits(features).sum()).backward()
    assert model.action_head.embedding.grad.dtype is torch.float32
