"""An adapter beside a frozen language model: what learns, what does not, what is stored of it."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from model.vlm_tiny import write_model

pytest.importorskip("peft", reason="pip install 'efm_bringup[lora]'")

from efm_core.actions import ActionDim, ActionSpace
from efm_core.checkpoint import CheckpointError, verify_checkpoint
from efm_core.observation import Observation
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import CameraSpec, HeadConfig
from efm_model.inference import Engine
from efm_model.loading import load_model
from efm_model.model import EmbodiedModel
from efm_model.vlm_adapter import PREFIX, language_part
from efm_model.vlm_config import AdapterConfig
from efm_model.vlm_source import BackboneError
from efm_model.vlm_weights import transformers_model
from efm_model.weights import trunk_hash
from efm_trainer.progress import TrainingCancelledError
from efm_trainer.samples import SftSamples
from efm_trainer.sft import SftResult, fine_tune
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_lora import LoraRun, LoraTraining
from efm_trainer.sft_state import head_weights
from efm_trainer.sft_steps import SftRun
from efm_trainer.versions import Making, save_version

SPACE = ActionSpace(
    dims=(
        ActionDim(name="x", unit="m", low=-0.02, high=0.02, bins=5),
        ActionDim(name="y", unit="m", low=-0.02, high=0.02, bins=3),
    )
)
CAMERAS = (CameraSpec(width=16, height=16), CameraSpec(name="side", width=16, height=16))
GOALS = ("push the red cube", "go to the middle", "push the blue star left now")
KINDS = ("paligemma", "idefics3", "qwen2_vl")
EXACT = SftConfig(
    steps=120, batch=16, learning_rate=4e-3, warmup=10, weight_decay=0.0, steps_sigma=0.0,
    action_sigma=0.0, feature_noise=0.0, validate_every=60, save_every=3, tolerance=0.0,
)  # fmt: skip
LORA = LoraTraining(rank=4, learning_rate=2e-3)


class Seen:
    """Sixteen observations; what `Observations` is to a run."""

    def __init__(self, model: EmbodiedModel, seed: int = 3) -> None:
        self.images = np.random.default_rng(seed).integers(
            0, 256, (16, len(CAMERAS), 16, 16, 3), dtype=np.uint8
        )
        self.tokens = np.stack([model.preprocessor.tokens(GOALS[i % 3]) for i in range(16)])

    def inputs(self, rows):
        return self.images[rows], self.tokens[rows]

    def digest(self) -> str:
        return hashlib.sha256(self.images.tobytes()).hexdigest()


def samples(model: EmbodiedModel) -> SftSamples:
    rng = np.random.default_rng(5)
    return SftSamples(
        features=np.arange(16), bins=np.stack([rng.integers(0, 5, 16), rng.integers(0, 3, 16)], 1),
        steps=rng.integers(0, 8, 16), episodes=1, observations=Seen(model),
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lora")


def new_model(kind: str, store: Path, lora: LoraTraining | None = LORA, **changes) -> EmbodiedModel:
    if not (store / kind).exists():
        write_model(kind, store / kind)
    request = write_model(kind, store / kind).model_copy(update={"rows_per_pass": 16, **changes})
    model = transformers_model(
        request, store / "store", SPACE, CAMERAS, StepsToGoBins(count=8),
        HeadConfig(hidden=64, token_width=32, dropout=0.0),
        adapter=lora.adapter if lora else None,
    )  # fmt: skip
    seen = Seen(model)
    raw = model.features(seen.images, seen.tokens)
    model.trunk.standardise(raw.mean(0), raw.std(0))
    return model


def frozen_bytes(model: EmbodiedModel) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(model.trunk.vlm._base.state_dict().items()):
        if "lora_" not in name:
            digest.update(weight.contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_samples_are_learnt_by_heart_and_survive_the_disk(kind, store, tmp_path):
    model = new_model(kind, store)
    before, frozen = head_weights(model), frozen_bytes(model)
    wanted = samples(model)
    result = fine_tune(model, wanted, wanted, EXACT, lora=LORA)
    assert frozen_bytes(model) == frozen
    for name, weight in model.trunk.vlm._base.named_parameters():
        assert "lora_" in name or (not weight.requires_grad and weight.grad is None)
    for name, weight in head_weights(model).items():
        assert not torch.equal(weight, before[name]), f"{name} has not moved"

    model.freeze_trunk()
    features = model.eval().features(*wanted.observations.inputs(np.arange(16)))
    found, _, _ = model.sample(features, np.full((16, 2), 0.5), 0.0)
    assert np.array_equal(found, wanted.bins)
    p = torch.softmax(model.steps_to_go_logits(features).detach().double(), -1).numpy()
    assert np.abs(model.config.steps_to_go.expectation(p) - wanted.steps).max() < 0.5
    _survives(model, result, tmp_path)


def _survives(model: EmbodiedModel, result: SftResult, root: Path) -> None:
    """Both roles on disk and back: equal outputs, one base on disk, the adapter in each version."""
    expected = {}
    seen = Seen(model)
    other = {**result.heads["reward"]}
    name = next(n for n in other if n.startswith(PREFIX) and n.endswith(".B"))
    other[name] = other[name] + 0.5  # as if the reward's best step had been another one
    for role, weights in (("policy", result.heads["policy"]), ("reward", other)):
        model.load_state_dict(weights, strict=False)
        expected[role] = model.features(seen.images, seen.tokens)
        save_version(root, role, model, Making(role=role, algorithm="sft"))
    manifests = {role: verify_checkpoint(root / role) for role in expected}
    assert manifests["policy"].trunk_hash != manifests["reward"].trunk_hash
    inodes = {(root / role / "backbone/model.safetensors").stat().st_ino for role in expected}
    assert len(inodes) == 1
    loaded = {role: load_model(root / role, role)[0] for role in expected}
    for role, one in loaded.items():
        assert one.trunk_frozen
        assert torch.equal(one.features(seen.images, seen.tokens), expected[role])
    assert loaded["policy"].trunk.vlm is loaded["reward"].trunk.vlm  # one base in memory
    _answers(root, loaded, seen)


def _answers(root: Path, loaded: dict[str, EmbodiedModel], seen: Seen) -> None:
    engine = Engine.load(root / "policy", root / "reward")
    assert not engine._shared
    observed = [
        Observation({"front": i[0], "side": i[1]}, GOALS[n % 3])
        for n, i in enumerate(seen.images[:3])
    ]
    draws = np.random.default_rng(2).random((3, SPACE.tokens))
    decisions, words = engine.infer(observed, draws, 1.0)
    policy, reward = loaded["policy"], loaded["reward"]
    bins, log_prob, _ = policy.sample(
        policy.features(seen.images[:3], seen.tokens[:3]), draws, 1.0
    )
    assert np.array_equal([d.bins.reshape(-1) for d in decisions], bins)
    assert np.allclose([d.log_prob for d in decisions], log_prob)
    with torch.no_grad():
        judged = reward.steps_to_go_logits(reward.features(seen.images[:3], seen.tokens[:3]))
    p = torch.softmax(judged.double(), -1).numpy()
    assert np.allclose([w.mean for w in words], reward.config.steps_to_go.expectation(p))


@pytest.fixture(scope="module")
def model(store) -> EmbodiedModel:
    return new_model("idefics3", store)


def test_an_adapter_begins_without_effect_beside_a_plain_model(model, store):
    plain = new_model("idefics3", store, None)
    seen = Seen(model)
    assert torch.equal(
        plain.features(seen.images, seen.tokens), model.features(seen.images, seen.tokens)
    )
    assert plain.trunk.vlm is not model.trunk.vlm  # the plain one has no slots to pass through
    assert "adapter" not in json.loads(plain.config.model_dump_json())["transformers"]
    assert trunk_hash(plain.trunk) != trunk_hash(model.trunk)
    stronger = new_model("idefics3", store, LORA.model_copy(update={"alpha": 1.0}))
    assert not torch.equal(stronger.trunk.identity, model.trunk.identity)


def test_the_vision_encoder_has_no_adapter(model):
    paths = {name.removeprefix("adapter.") for name, _ in model.trunk.named_parameters()}
    letters = {"A", "B"}
    expected = {
        f"layers.{i}.{path}.{letter}" for i in range(2) for letter in letters
        for path in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                     "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    }  # fmt: skip
    assert paths == expected


def gradients(kind: str, store: Path, lora: LoraTraining, **changes) -> dict[str, torch.Tensor]:
    model = new_model(kind, store, lora, **changes)
    wanted = samples(model)
    run = LoraRun(model, wanted, wanted, EXACT.model_copy(update={"gradient_norm": 1e9}), lora)
    for name, weight in model.trunk.named_parameters():
        if name.endswith(".B"):  # else there is no gradient for A
            torch.nn.init.constant_(weight, 0.01)
    run.advance()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_small_passes_and_recomputing_change_no_gradient(kind, store):
    whole = gradients(kind, store, LORA)
    for other in (
        gradients(kind, store, LORA, rows_per_pass=5),
        gradients(kind, store, LORA.model_copy(update={"recompute": True})),
    ):
        assert whole.keys() == other.keys()
        for name, gradient in whole.items():
            assert torch.allclose(gradient, other[name], rtol=1e-3, atol=1e-6), name


def test_recomputing_keeps_less(store):
    def kept(lora: LoraTraining) -> int:
        model = new_model("idefics3", store, lora)
        model.trunk.requires_grad_(True)
        model.trunk.vlm.recompute = lora.recompute
        found = {}

        def pack(tensor):
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = model.features(Seen(model).images, Seen(model).tokens)
        features.sum().backward()
        return sum(found.values())

    assert kept(LORA.model_copy(update={"recompute": True})) < 0.6 * kept(LORA)


def test_an_interrupted_run_goes_on_exactly(store, tmp_path):
    config = EXACT.model_copy(update={"steps": 6, "validate_every": 2, "warmup": 2})
    whole = new_model("idefics3", store)
    straight = fine_tune(whole, samples(whole), samples(whole), config, lora=LORA)
    cut, asked = new_model("idefics3", store), []
    with pytest.raises(TrainingCancelledError):
        fine_tune(
            cut, samples(cut), samples(cut), config, tmp_path, lora=LORA,
            cancelled=lambda: asked.append(1) or len(asked) > 3,
        )  # fmt: skip
    again = new_model("idefics3", store)
    resumed = fine_tune(again, samples(again), samples(again), config, tmp_path, lora=LORA)
    assert len(asked) == 4
    assert resumed.steps == straight.steps
    assert resumed.losses == straight.losses
    for role in ("policy", "reward"):
        for name, weight in straight.heads[role].items():
            assert torch.equal(weight, resumed.heads[role][name]), name
    for name, moment in straight.state.optimizer.items():
        assert torch.equal(moment, resumed.state.optimizer[name]), name
    assert any(name.startswith(PREFIX) for name in straight.heads["policy"])
    others = LORA.model_copy(update={"learning_rate": 1e-3})
    state = LoraRun(again, samples(again), samples(again), config, others)
    assert state.fingerprint != resumed.state.fingerprint


def test_copies_of_a_model_learn_apart(model):
    seen = Seen(model)
    before = model.features(seen.images, seen.tokens)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in twin.trunk.adapter.parameters():
            weight.add_(0.1)
    assert (twin.features(seen.images, seen.tokens) - before).abs().max() > 1e-2
    assert torch.equal(model.features(seen.images, seen.tokens), before)


def test_an_adapter_of_another_shape_is_refused(model, tmp_path):
    path = save_version(tmp_path, "v", model, Making(role="policy", algorithm="sft"))
    for change in ({"rank": 2}, {"alpha": 1.0}):
        fields = json.loads(model.config.model_dump_json())
        fields["transformers"]["adapter"].update(change)
        (path / "config.json").write_text(json.dumps(fields))
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"]["config.json"] = hashlib.sha256(
            (path / "config.json").read_bytes()
        ).hexdigest()
        (path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError, match=r"trunk\.identity is not that of .*adapter"):
            load_model(path)


def test_without_peft_the_remedy_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    lora = LoraTraining(rank=3)
    with pytest.raises(BackboneError, match=r"pip install 'efm_bringup\[lora\]'"):
        new_model("idefics3", store, lora)


def test_a_model_that_cannot_be_adapted_is_refused(model, store):
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(3, 2)

        def get_input_embeddings(self):
            return self.words

    with pytest.raises(BackboneError, match="train the heads alone"):
        language_part(Bare())
    plain = new_model("idefics3", store, None)
    wanted = samples(model)
    with pytest.raises(ValueError, match="no adapter"):
        LoraRun(plain, wanted, wanted, EXACT, LORA)
    bare = SftSamples(wanted.features, wanted.bins, wanted.steps, 1)
    with pytest.raises(ValueError, match="observation_samples"):
        LoraRun(copy.deepcopy(model), bare, bare, EXACT, LORA)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        AdapterConfig(rank=0, alpha=1.0)


def test_heads_alone_learn_as_before(model):
    """The run that everything else uses has one group, at the learning rate of its settings."""
    wanted = samples(model)
    features = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    plain = SftSamples(features, wanted.bins, wanted.steps, 1)
    run = SftRun(copy.deepcopy(model), plain, plain, EXACT)
    run.advance()
    (group,) = run._optimizer.param_groups
    assert group["lr"] == EXACT.learning_rate / EXACT.warmup
