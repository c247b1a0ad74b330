"""A bad checkpoint never goes live: every way of spoiling one is refused, by file and field."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from efm_core.checkpoint import (
    CheckpointError,
    Manifest,
    load_tensors,
    read_config,
    trunk_hash,
    verify_checkpoint,
    write_checkpoint,
)
from efm_core.registry import Registry, RegistryError

TENSORS = {
    "trunk.conv.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "action_head.bias": np.linspace(-1, 1, 5, dtype=np.float32),
}


def files(space, **changed) -> dict[str, bytes]:
    camera = {"name": "front", "width": 64, "height": 64}
    config = {"cameras": [camera], "action_space": space.model_dump(mode="json")}
    preprocessor = {"cameras": [camera], "mean": [0.5] * 3, "std": [0.25] * 3}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(TENSORS),
        "preprocessor.json": json.dumps(preprocessor).encode(),
        "training_state/state.json": b'{"step": 7}',
        **changed,
    }


def write(root, version, space, role="policy", **changed) -> Path:
    return write_checkpoint(root, version, files(space, **changed), Manifest(role=role))


@pytest.fixture
def checkpoint(tmp_path, space) -> Path:
    return write(tmp_path, "v1", space)


def sign(path: Path) -> None:
    """What an attacker or a careless tool would do: make the manifest agree with the files."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"] = {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in path.rglob("*")
        if p.is_file() and p.name != "manifest.json"
    }
    (path / "manifest.json").write_text(json.dumps(manifest))


def edit(path: Path, name: str, **fields) -> None:
    content = json.loads((path / name).read_text())
    content.update(fields)
    kept = {key: value for key, value in content.items() if value is not None}
    (path / name).write_text(json.dumps(kept))


def test_a_good_checkpoint_verifies_and_loads(checkpoint, space):
    manifest = verify_checkpoint(checkpoint, cameras=["front", "wrist"], space=space, role="policy")
    assert manifest.version == "v1"
    assert set(manifest.files) == set(files(space))
    tensors = load_tensors(checkpoint)
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], value)
    assert read_config(checkpoint).camera_names == ("front",)
    assert read_config(checkpoint).action_space == space
    assert [p.name for p in checkpoint.parent.iterdir()] == ["v1"]


def test_a_function_may_write_a_file(tmp_path, space):
    content = files(space, **{"training_state/extra.json": lambda path: path.write_text("[1]")})
    path = write_checkpoint(tmp_path, "v1", content, Manifest(role="reward"))
    assert json.loads((path / "training_state" / "extra.json").read_text()) == [1]
    assert verify_checkpoint(path, role="reward").role == "reward"


# ---- the mutation list -----------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True], ids=["plain", "signed"])
@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_cut(checkpoint, keep, signed):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    if signed:
        sign(checkpoint)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        verify_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors",
    "config.json", "preprocessor.json", "training_state/state.json"])  # fmt: skip
def test_one_bit_flipped(checkpoint, name):
    file = checkpoint / name
    data = bytearray(file.read_bytes())
    data[-5] ^= 0x01
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        verify_checkpoint(checkpoint)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_weight_that_is_not_finite(tmp_path, space, bad, kind):
    spoilt = {**TENSORS, "head": np.array([1.0, bad], dtype=kind)}
    path = write(tmp_path, "v1", space, **{"model.safetensors": save(spoilt)})
    with pytest.raises(CheckpointError, match="tensor head holds NaN or infinity"):
        verify_checkpoint(path)


def bfloat16(bits: int) -> bytes:
    """A safetensors file with one bfloat16 number, made by hand: numpy lacks the type."""
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    return len(header).to_bytes(8, "little") + header + bits.to_bytes(2, "little")


@pytest.mark.parametrize(("bits", "good"), [(0x3F80, True), (0x7F80, False), (0xFFC1, False)])
def test_bfloat16_one_infinity_and_nan(tmp_path, space, bits, good):
    path = write(tmp_path, "v1", space, **{"model.safetensors": bfloat16(bits)})
    if good:
        verify_checkpoint(path)
    else:
        with pytest.raises(CheckpointError, match="NaN or infinity"):
            verify_checkpoint(path)


def test_wrong_camera_names(checkpoint):
    with pytest.raises(CheckpointError, match="camera 'front' is not among the robot's"):
        verify_checkpoint(checkpoint, cameras=["overhead"])
    edit(checkpoint, "preprocessor.json", cameras=[{"name": "overhead"}])
    sign(checkpoint)
    with pytest.raises(CheckpointError, match="cameras are"):
        verify_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"rate": 5.0}, "rate is 10.0, the robot's is 5.0"), ({"chunk": 5}, "chunk is 1")],
)
def test_another_action_space(checkpoint, space, change, said):
    with pytest.raises(CheckpointError, match=said):
        verify_checkpoint(checkpoint, space=space.model_copy(update=change))


def test_wrong_action_size_and_limits(checkpoint, space):
    with pytest.raises(CheckpointError, match="dims are"):
        verify_checkpoint(checkpoint, space=space.model_copy(update={"dims": space.dims[:1]}))
    wider = tuple(d.model_copy(update={"high": 0.03}) for d in space.dims)
    with pytest.raises(CheckpointError, match=r"high=0\.02.*high=0\.03"):
        verify_checkpoint(checkpoint, space=space.model_copy(update={"dims": wider}))


@pytest.mark.parametrize(
    "change", [{"mean": None}, {"std": None}, {"std": [0.1]}, {"std": [0.0, 1, 1]}]
)
def test_missing_or_useless_normalisation(checkpoint, change):
    edit(checkpoint, "preprocessor.json", **change)
    sign(checkpoint)
    with pytest.raises(CheckpointError, match=r"preprocessor\.json"):
        verify_checkpoint(checkpoint)


def test_normalisation_file_missing(checkpoint):
    (checkpoint / "preprocessor.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor\.json is missing"):
        verify_checkpoint(checkpoint)
    sign(checkpoint)
    with pytest.raises(CheckpointError, match=r"does not list preprocessor\.json"):
        verify_checkpoint(checkpoint)


class Bomb:
    """Unpickling this writes a file: proof that nobody did."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "training_state/optimizer.safetensors"]
)
def test_a_pickle_under_an_allowed_name(checkpoint, tmp_path, name, protocol):
    target = tmp_path / "exploded"
    (checkpoint / name).write_bytes(pickle.dumps(Bomb(target), protocol=protocol))
    sign(checkpoint)
    with pytest.raises(CheckpointError, match=r"pickle|not JSON|not safetensors"):
        verify_checkpoint(checkpoint)
    (checkpoint / "model.safetensors").write_bytes((checkpoint / name).read_bytes())
    with pytest.raises(CheckpointError):
        load_tensors(checkpoint)
    assert not target.exists()


def test_a_half_written_directory(checkpoint, tmp_path, space, monkeypatch):
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="never finished"):
        verify_checkpoint(checkpoint)
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        write(tmp_path, "v2", space)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v1"]
    assert Registry(tmp_path).versions() == []


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", ".hidden.json", "x.pt", "x.py"]
)
def test_names_that_lead_out_or_hide(checkpoint, tmp_path, space, name):
    with pytest.raises(CheckpointError, match="file name"):
        write(tmp_path, "v2", space, **{name: b"{}"})
    assert not (tmp_path / "v2").exists()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    edit(checkpoint, "manifest.json", files={**manifest["files"], name: "0" * 64})
    with pytest.raises(CheckpointError, match="file name"):
        verify_checkpoint(checkpoint)


@pytest.mark.parametrize("version", ["", ".", "..", "../v1", "a/b", ".v1", "v 1", "x" * 81, "v1\n"])
def test_version_names_stay_in_their_folder(tmp_path, space, version):
    with pytest.raises(CheckpointError, match="version name"):
        write(tmp_path, version, space)
    with pytest.raises(CheckpointError, match="version name"):
        Registry(tmp_path).path(version)


def test_links_are_refused(checkpoint, tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_bytes((checkpoint / "config.json").read_bytes())
    (checkpoint / "config.json").unlink()
    (checkpoint / "config.json").symlink_to(outside)
    with pytest.raises(CheckpointError, match="links"):
        verify_checkpoint(checkpoint)


def test_files_that_do_not_belong(checkpoint):
    (checkpoint / "run.sh").write_text("echo")
    with pytest.raises(CheckpointError, match=r"run\.sh is not in manifest"):
        verify_checkpoint(checkpoint)


def test_a_copy_under_another_name(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "v2")
    with pytest.raises(CheckpointError, match="version is 'v1'"):
        verify_checkpoint(tmp_path / "v2")


def test_roles_and_the_trunk_are_checked(tmp_path, space, checkpoint):
    with pytest.raises(CheckpointError, match="role is policy, needed is reward"):
        verify_checkpoint(checkpoint, role="reward")
    good = trunk_hash(checkpoint / "model.safetensors")
    manifest = Manifest(role="policy", trunk_hash=good)
    verify_checkpoint(write_checkpoint(tmp_path, "v2", files(space), manifest))
    other = {**TENSORS, "trunk.conv.weight": TENSORS["trunk.conv.weight"] + 1}
    changed = files(space, **{"model.safetensors": save(other)})
    with pytest.raises(CheckpointError, match="trunk_hash"):
        verify_checkpoint(write_checkpoint(tmp_path, "v3", changed, manifest))


def test_the_trunk_hash_leaves_the_heads_out(tmp_path, checkpoint):
    other = tmp_path / "other.safetensors"
    other.write_bytes(save({**TENSORS, "action_head.bias": np.zeros(5, np.float32)}))
    assert trunk_hash(other) == trunk_hash(checkpoint / "model.safetensors")
    digest = hashlib.sha256(b"conv.weight|torch.float32|(3, 4)|")
    digest.update(TENSORS["trunk.conv.weight"].tobytes())
    assert trunk_hash(other) == digest.hexdigest()


def test_versions_are_never_overwritten(checkpoint, space):
    with pytest.raises(FileExistsError, match="never overwritten"):
        write(checkpoint.parent, "v1", space)


# ---- registry --------------------------------------------------------------------------------


def test_promote_and_roll_back(tmp_path, space):
    registry = Registry(tmp_path / "models")
    assert (registry.versions(), registry.alias("champion")) == ([], None)
    for version in ("v1", "v2", "v3"):
        write(registry.root, version, space)
    registry.promote("v3", "candidate")
    registry.promote("v1")
    assert registry.alias("previous") is None
    with pytest.raises(RegistryError, match="roll back"):
        registry.rollback()
    registry.promote("v2")
    assert (registry.alias("champion"), registry.alias("previous")) == ("v2", "v1")
    assert registry.rollback() == "v1"
    assert (registry.alias("champion"), registry.alias("previous")) == ("v1", "v2")
    registry.promote("v1")  # again: previous stays
    assert registry.alias("previous") == "v2"
    assert registry.resolve("candidate") == registry.resolve("v3") == "v3"
    assert registry.versions() == ["v1", "v2", "v3"]


def test_a_spoilt_version_is_neither_promoted_nor_rolled_back_to(tmp_path, space):
    registry = Registry(tmp_path)
    for version in ("v1", "v2"):
        write(tmp_path, version, space)
        registry.promote(version)
    (tmp_path / "v1" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        registry.rollback()
    with pytest.raises(CheckpointError):
        registry.promote("v1")
    assert registry.alias("champion") == "v2"


def test_only_a_policy_can_be_champion(tmp_path, space):
    write(tmp_path, "r1", space, role="reward")
    with pytest.raises(CheckpointError, match="only a policy"):
        Registry(tmp_path).promote("r1")


def test_what_is_not_there_is_said_so(tmp_path, space):
    write(tmp_path, "v1", space)
    registry = Registry(tmp_path)
    with pytest.raises(RegistryError, match="there are: v1"):
        registry.path("v2")
    with pytest.raises(RegistryError, match="alias 'winner' is unknown"):
        registry.alias("winner")
    with pytest.raises(RegistryError, match="names no version"):
        registry.resolve("champion")
    (tmp_path / "champion").write_text("../../etc\n")
    with pytest.raises(RegistryError, match="no version"):
        registry.alias("champion")
