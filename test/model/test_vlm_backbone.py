from __future__ import annotations

import hashlib
import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from model.vlm_tiny import KINDS, write_model
from safetensors.torch import load_file, save, save_file

from efm_core.actions import ActionDim, ActionSpace
from efm_core.checkpoint import CheckpointError, Manifest, verify_checkpoint, write_checkpoint
from efm_core.observation import Observation
from efm_core.steps_to_go import StepsToGoBins
from efm_model.backbone import Backbone
from efm_model.config import CameraSpec, HeadConfig, ModelConfig
from efm_model.inference import Engine
from efm_model.loading import load_model
from efm_model.losses import action_loss, steps_to_go_loss
from efm_model.model import EmbodiedModel
from efm_model.preprocess import PreprocessorConfig
from efm_model.vlm_config import BackboneRequest
from efm_model.vlm_prompt import pinned_config
from efm_model.vlm_source import BackboneError, check_directory, explain, read_config, read_model
from efm_model.vlm_take_over import load_processor, take_over
from efm_model.vlm_weights import transformers_model
from efm_trainer.versions import Making, save_version

SPACE = ActionSpace(
    dims=(
        ActionDim(name="x", unit="m", low=-0.02, high=0.02, bins=5),
        ActionDim(name="y", unit="m", low=-0.02, high=0.02, bins=3),
    )
)
CAMERAS = (CameraSpec(width=16, height=16), CameraSpec(name="side", width=16, height=16))
GOALS = ("push the red cube", "go to the middle", "push the blue star left now")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vlm")


@pytest.fixture(scope="module", params=KINDS)
def request_for(request, store) -> BackboneRequest:
    return write_model(request.param, store / request.param)


@pytest.fixture(scope="module")
def model(request_for, store) -> EmbodiedModel:
    heads = HeadConfig(hidden=64, token_width=32, dropout=0.0)
    return transformers_model(
        request_for, store / "store", SPACE, CAMERAS, StepsToGoBins(count=8), heads
    )


def inputs(model: EmbodiedModel, count: int, seed: int = 0):
    images = np.random.default_rng(seed).integers(
        0, 256, (count, len(CAMERAS), 16, 16, 3), dtype=np.uint8
    )
    return images, np.stack([model.preprocessor.tokens(GOALS[i % 3]) for i in range(count)])


def making(role: str) -> Making:
    return Making(role=role, algorithm="sft")  # type: ignore[arg-type]


def test_features_depend_on_pictures_and_instruction(model):
    assert isinstance(model.trunk, Backbone)
    images, tokens = inputs(model, 4)
    features = model.features(images, tokens)
    assert features.shape == (4, 32)
    assert features.dtype == torch.float32
    base = model.features(images[:1], tokens[:1])
    assert (model.features(images[1:2], tokens[:1]) - base).abs().max() > 1e-2
    assert (model.features(images[:1], tokens[1:2]) - base).abs().max() > 1e-2
    swapped = model.features(np.ascontiguousarray(images[:1, ::-1]), tokens[:1])
    assert (swapped - base).abs().max() > 1e-3  # which camera is which matters


def test_a_batch_of_one_and_of_twelve_agree(model):
    images, tokens = inputs(model, 12)  # more than one pass
    whole = model.features(images, tokens)
    rows = [model.features(images[i : i + 1], tokens[i : i + 1]) for i in range(12)]
    assert torch.allclose(whole, torch.cat(rows), atol=1e-5)
    four = model.features(images[3:7], tokens[3:7])
    assert torch.allclose(whole[3:7], four, atol=1e-5)


def test_padding_changes_nothing(model):
    images, tokens = inputs(model, 1)
    pre = model.preprocessor
    fields = {k: torch.from_numpy(v)[None] for k, v in pre._encode(GOALS[0]).items()}
    length = fields["input_ids"].shape[1]
    assert length < pre.config.length
    bare = model.trunk.vlm.hidden(
        {**fields, **pre.pixels(torch.from_numpy(images))}, torch.tensor([length - 1])
    )
    assert torch.allclose(bare, model.features(images, tokens), atol=1e-5)


def test_token_counts_are_pinned_and_instructions_are_checked(model, caplog):
    pre = model.preprocessor
    rows = pre.tokens("go"), pre.tokens("push the red cube to the blue star")
    assert rows[0].shape == rows[1].shape == (pre.config.length * len(pre.config.text_fields),)
    for row in rows:
        ids = row[: pre.config.length]
        assert (ids == pre.config.image_token_id).sum() == pre.config.image_tokens
    with caplog.at_level(logging.WARNING):
        cut = pre.tokens("push the red cube " * 9)
    assert "cut" in caplog.text
    assert cut.shape == rows[0].shape
    image_token = pre.processor.tokenizer.convert_ids_to_tokens(pre.config.image_token_id)
    with pytest.raises(ValueError, match="control token"):
        pre.tokens(f"push {image_token}")
    with pytest.raises(ValueError, match="holds no word"):
        pre.tokens("  ")


def test_a_checkpoint_holds_all_of_it(model, tmp_path, request_for):
    images, tokens = inputs(model, 3)
    expected = model.features(images, tokens)
    path = save_version(tmp_path, "vlm-policy", model, making("policy"))
    manifest = verify_checkpoint(path, cameras=("front", "side"), space=SPACE, role="policy")
    assert {"backbone/config.json", "backbone/model.safetensors"} <= set(manifest.files)
    assert not list(path.rglob("*.jinja"))
    source = model.preprocessor.folder / "model.safetensors"
    assert (path / "backbone/model.safetensors").stat().st_ino == source.stat().st_ino
    assert str(Path(request_for.source).parent) not in "".join(
        p.read_text() for p in path.rglob("*.json")
    )
    moved = tmp_path / "elsewhere" / path.name  # nothing but the directory is needed
    shutil.copytree(path, moved)
    loaded, _ = load_model(moved, "policy")
    assert loaded.trunk.vlm is model.trunk.vlm  # the same weights are in memory once
    assert torch.equal(loaded.features(images, loaded_tokens(loaded)), expected)


def loaded_tokens(model: EmbodiedModel) -> np.ndarray:
    return np.stack([model.preprocessor.tokens(goal) for goal in GOALS])


def test_a_damaged_or_foreign_backbone_is_refused(model, tmp_path, store):
    path = save_version(tmp_path, "v", model, making("policy"))
    file = path / "backbone/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()  # it is a link to the store's
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"backbone/model\.safetensors does not match"):
        load_model(path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["backbone/model.safetensors"] = hashlib.sha256(bytes(data)).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"transformers\.sha256"):
        load_model(path)
    shutil.rmtree(path / "backbone")
    kept = {k: v for k, v in manifest["files"].items() if not k.startswith("backbone/")}
    (path / "manifest.json").write_text(json.dumps({**manifest, "files": kept}))
    with pytest.raises(CheckpointError, match="backbone is missing"):
        load_model(path)


def test_statistics_of_another_model_are_refused(model, tmp_path):
    """Heads and statistics are of one frozen model: not of one with another prompt, say."""
    path = save_version(tmp_path, "v", model, making("policy"))
    file = path / "preprocessor.json"
    file.write_text(file.read_text().replace("The robot's task", "Task"))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["preprocessor.json"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"trunk\.identity"):
        load_model(path)


def test_sixteen_samples_are_learnt_by_heart(model):
    images, tokens = inputs(model, 16, seed=3)
    raw = model.features(images, tokens)
    rng = np.random.default_rng(5)
    bins = torch.from_numpy(np.stack([rng.integers(0, 5, 16), rng.integers(0, 3, 16)], 1))
    steps = rng.integers(0, 8, 16)
    model.trunk.standardise(raw.mean(0), raw.std(0))
    try:
        features = model.features(images, tokens)
        targets = torch.from_numpy(model.config.steps_to_go.soft_targets(steps, 0.0))
        optimizer = torch.optim.Adam(model.head_parameters(), lr=3e-3)
        for _ in range(400):
            loss = action_loss(model.action_logits(features, bins), bins)
            loss = loss + steps_to_go_loss(model.steps_to_go_logits(features), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found, _, _ = model.sample(features, np.full((16, 2), 0.5), 0.0)
        assert np.array_equal(found, bins.numpy())
        p = torch.softmax(model.steps_to_go_logits(features).detach().double(), -1).numpy()
        assert np.abs(model.config.steps_to_go.expectation(p) - steps).max() < 0.5
    finally:
        model.trunk.standardise(torch.zeros(32), torch.ones(32))


def test_policy_and_reward_share_one_pass(model, tmp_path, monkeypatch):
    for role in ("policy", "reward"):
        save_version(tmp_path, role, model, making(role))
    engine = Engine.load(tmp_path / "policy", tmp_path / "reward")
    assert engine.backend == "torch"
    calls = []
    base = model.trunk.vlm.hidden
    monkeypatch.setattr(
        model.trunk.vlm, "hidden", lambda *a: (calls.append(1), base(*a))[1], raising=True
    )
    images, _ = inputs(model, 2)
    seen = [
        Observation({"front": i[0], "side": i[1]}, goal)
        for i, goal in zip(images, GOALS, strict=False)
    ]
    decisions, words = engine.infer(seen, np.full((2, 2), 0.5), 1.0)
    assert len(calls) == 1
    assert np.isfinite([d.log_prob for d in decisions]).all()
    assert np.isfinite([w.mean for w in words]).all()


def test_the_line_at_load_says_what_it_costs(model):
    line = model.trunk.describe(0.012)
    tokens = model.preprocessor.config.length
    weights = sum(p.numel() for p in model.trunk.vlm._base.parameters())
    assert f"{tokens} tokens per observation" in line
    assert f"{weights / 1e6:.1f} M parameters, float32" in line
    assert "12 ms" in line


def test_half_precision_and_another_picture_size(request_for, store):
    request = request_for.model_copy(update={"dtype": "bfloat16", "image_size": 56})
    model = transformers_model(request, store / "store", SPACE, CAMERAS)
    features = model.features(*inputs(model, 2))
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert model.trunk.vlm.dtype is torch.bfloat16


@pytest.fixture
def idefics(tmp_path) -> Path:
    write_model("idefics3", tmp_path / "source")
    return tmp_path / "source"


def refusal(source: Path | str, tmp_path: Path) -> str:
    request = BackboneRequest(source=str(source), local_files_only=True)
    with pytest.raises(BackboneError) as caught:
        take_over(request, tmp_path / "store")
    folder = tmp_path / "store"
    assert not folder.exists() or not list(folder.iterdir())  # nothing is left behind
    return str(caught.value)


def test_what_is_missing_is_named(idefics, tmp_path):
    assert "no such directory" in refusal(tmp_path / "nowhere", tmp_path)
    weights = idefics / "model.safetensors"
    weights.rename(idefics / "pytorch_model.bin")
    assert "pickled" in refusal(idefics, tmp_path)
    (idefics / "pytorch_model.bin").unlink()
    assert "no *.safetensors" in refusal(idefics, tmp_path)
    (idefics / "config.json").unlink()
    assert "config.json is missing" in refusal(idefics, tmp_path)


def test_a_model_without_processor_is_refused(idefics, tmp_path):
    for name in ("processor_config.json", "chat_template.jinja"):
        (idefics / name).unlink()
    assert "processor" in refusal(idefics, tmp_path)


def test_an_unknown_architecture_and_foreign_code_are_refused(idefics, tmp_path):
    config = json.loads((idefics / "config.json").read_text())
    (idefics / "config.json").write_text(json.dumps({**config, "model_type": "from_tomorrow"}))
    assert "upgrade transformers" in refusal(idefics, tmp_path)
    remote = {**config, "model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}
    (idefics / "config.json").write_text(json.dumps(remote))
    assert "never run" in refusal(idefics, tmp_path)


def test_a_lacking_weight_is_refused_and_not_drawn_at_random(idefics, tmp_path):
    weights = load_file(idefics / "model.safetensors")
    name = next(n for n in weights if "q_proj" in n)
    del weights[name]
    save_file(weights, idefics / "model.safetensors", metadata={"format": "pt"})
    assert "q_proj" in refusal(idefics, tmp_path)


def test_overflow_in_half_precision_is_found_at_once(idefics, tmp_path):
    weights = load_file(idefics / "model.safetensors")
    large = {k: v * (1e6 if "down_proj" in k else 1.0) for k, v in weights.items()}
    save_file(large, idefics / "model.safetensors", metadata={"format": "pt"})
    request = BackboneRequest(source=str(idefics), dtype="float16", local_files_only=True)
    with pytest.raises(BackboneError, match="not finite; use dtype"):
        transformers_model(request, tmp_path / "store", SPACE, CAMERAS)


def test_inputs_of_text_and_pictures_together_are_refused(idefics):
    processor = load_processor(idefics)

    class CrossAttending:
        def __getattr__(self, name):
            return getattr(processor, name)

        def __call__(self, **asked):
            return {**processor(**asked), "cross_attention_mask": torch.ones(1, 3, 2)}

    base = PreprocessorConfig(cameras=CAMERAS, vocabulary=())
    with pytest.raises(ValueError, match="cross_attention_mask"):
        pinned_config(CrossAttending(), base, "do {instruction}", None, (), 0)


def test_the_hub_out_of_reach_and_closed_models_are_explained(tmp_path):
    assert "local cache" in refusal("someone/some-model", tmp_path)

    class GatedRepoError(OSError):
        pass

    assert "licence" in explain(GatedRepoError("403"))
    assert "licence" in explain(OSError("You are trying to access a gated repo."))
    assert check_directory("someone/some-model") is None


def test_attention_falls_back(idefics, monkeypatch):
    from transformers import AutoModelForImageTextToText

    load = AutoModelForImageTextToText.from_pretrained

    def without_sdpa(*args, **options):
        if options["attn_implementation"] == "sdpa":
            raise ValueError("M does not support an attention implementation through sdpa yet")
        return load(*args, **options)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", without_sdpa)
    options = {"local_files_only": True}
    assert read_config(str(idefics), options).model_type == "idefics3"
    assert read_model(str(idefics), "float32", options)[1] == "eager"


def test_small_checkpoints_are_written_as_before():
    config = ModelConfig(action_space=SPACE)
    assert "transformers" not in json.loads(config.model_dump_json())
    assert "transformers" not in config.model_dump(mode="json")
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_a_header_that_begins_like_a_pickle_is_none(tmp_path):
    """A header of 128 + 256 n bytes begins with 0x80, as pickles do."""
    tensors = {"action_head.bias": torch.zeros(3)}
    sizes = (save(tensors, metadata={"pad": "x" * n}) for n in range(300))
    data = next(data for data in sizes if data[0] == 0x80)
    files = {
        "config.json": ModelConfig(action_space=SPACE).model_dump_json().encode(),
        "preprocessor.json": PreprocessorConfig(vocabulary=("go",)).model_dump_json().encode(),
        "model.safetensors": data,
    }
    path = write_checkpoint(tmp_path, "v", files, Manifest(role="policy"))
    assert verify_checkpoint(path).version == "v"
    pickled = {**files, "model.safetensors": pickle.dumps(dict.fromkeys(range(9)))}
    path = write_checkpoint(tmp_path, "w", pickled, Manifest(role="policy"))
    with pytest.raises(CheckpointError, match="is a pickle"):
        verify_checkpoint(path)
