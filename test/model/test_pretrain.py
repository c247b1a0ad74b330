"""Pre-training on a toy board: it learns, resumes exactly, and its files are checked."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from efm_core.actions import ActionDim, ActionSpace
from efm_model.config import CameraSpec, SmallBackboneConfig
from efm_model.pretrain import PretrainConfig, Progress, pretrain
from efm_model.scene_set import SceneSet, ask
from efm_model.trunk import SmallTrunk
from efm_model.weights import pretrained_model, trunk_hash

SIDE = 32
NAMES = ("red cube", "blue cube", "green cube")
COLOURS = np.array([[255, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)
SPACE = ActionSpace(dims=(ActionDim(name="x", unit="m", low=-0.02, high=0.02),))
SMALL = SmallBackboneConfig(
    resolution=SIDE, stem=8, fine=8, width=16, blocks=1, words=8, language=16, free_maps=1
)
CONFIG = PretrainConfig(epochs=2, batch=32, warmup=5, small=SMALL)


def toy_scenes(count: int, seed: int) -> SceneSet:
    """Squares of 3 pixels on a board of 0.32 m: pixel (column, row) is (x, y) in cm."""
    rng = np.random.default_rng(seed)
    images = np.full((count, SIDE, SIDE, 3), 128, np.uint8)
    spots = rng.integers(2, SIDE - 2, (count, 4, 2))
    for image, places in zip(images, spots, strict=True):
        for (column, row), colour in zip(places, (*COLOURS, np.zeros(3)), strict=True):
            image[row - 1 : row + 2, column - 1 : column + 2] = colour
    metres = ((spots + 0.5) * 0.01).astype(np.float32)
    return SceneSet(images, metres[:, 3], NAMES, metres[:, :3])


class ToySource:
    recipe: dict[str, object] = {"toy": True}  # noqa: RUF012 - the protocol's plain attribute
    vocabulary = ("red", "blue", "green", "cube", "push", "to")

    def train(self) -> SceneSet:
        return toy_scenes(192, 0)

    def gate(self) -> dict[str, SceneSet]:
        return {"default": toy_scenes(32, 1)}

    def calibration(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        board = np.stack(np.meshgrid(np.linspace(0, 0.32, 8), np.linspace(0, 0.32, 8)), -1)
        flat = board.reshape(-1, 2)
        return flat / 0.16 - 1.0, flat

    def phrase(self, rng: np.random.Generator, a: str, b: str) -> str:
        return f"push {a} to {b}"


def test_it_learns_and_writes_what_it_measured(tmp_path):
    lines: list[Progress] = []
    gate = pretrain(CONFIG, ToySource(), tmp_path, lines.append)
    assert [line.epoch for line in lines] == [1, 2]
    assert sum(lines[1].losses.values()) < sum(lines[0].losses.values())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["gate"] == gate
    assert manifest["recipe"] == {"toy": True}
    assert set(gate["errors"]["default"]) == {"pusher", "a", "b", "pusher_to_a", "a_to_b"}
    assert not gate["passed"]  # two passes over 192 toy pictures are far from 4 mm


class CutError(Exception):
    """Stands for a kill between two epochs."""


def test_a_cut_run_ends_with_the_same_weights(tmp_path):
    def cut(line: Progress) -> None:
        raise CutError

    pretrain(CONFIG, ToySource(), tmp_path / "whole", lambda line: None)
    with pytest.raises(CutError):
        pretrain(CONFIG, ToySource(), tmp_path / "cut", cut)
    pretrain(CONFIG, ToySource(), tmp_path / "cut", lambda line: None)
    hashes = {
        json.loads((tmp_path / name / "manifest.json").read_text())["trunk_sha256"]
        for name in ("whole", "cut")
    }
    assert len(hashes) == 1
    other = CONFIG.model_copy(update={"epochs": 3})
    with pytest.raises(ValueError, match="other pre-training settings"):
        pretrain(other, ToySource(), tmp_path / "cut")


def test_weights_are_loaded_frozen_and_standardised(tmp_path):
    pretrain(CONFIG, ToySource(), tmp_path, lambda line: None)
    camera = (CameraSpec(width=SIDE, height=SIDE),)
    model = pretrained_model(SPACE, camera, weights=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert model.trunk_frozen
    assert trunk_hash(model.trunk) == manifest["trunk_sha256"]
    scenes = toy_scenes(64, 2)
    tokens = np.tile(model.preprocessor.tokens("push red cube to blue cube"), (64, 1))
    features = model.features(scenes.images[:, None], tokens)
    assert features.abs().mean() < 2.0
    other_heads = pretrained_model(SPACE, camera, weights=tmp_path, seed=1)
    assert trunk_hash(other_heads.trunk) == trunk_hash(model.trunk)


def test_damaged_or_missing_weights_are_named(tmp_path):
    pretrain(CONFIG, ToySource(), tmp_path, lambda line: None)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"model.safetensors: SHA-256 differs"):
        pretrained_model(SPACE, weights=tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"model.safetensors is missing"):
        pretrained_model(SPACE, weights=tmp_path)


def test_questions_name_two_blocks_and_list_the_others():
    scenes = toy_scenes(50, 3)
    batch = ask(scenes, np.arange(50), np.random.default_rng(0), ToySource(), near=1.0)
    index = np.arange(50)
    a, b = batch.pairs[:, 0], batch.pairs[:, 1]
    assert np.all(a != b)
    np.testing.assert_allclose(batch.targets[:, 0] / 10, scenes.pusher, atol=1e-6)
    np.testing.assert_allclose(batch.targets[:, 1] / 10, scenes.positions[index, a], atol=1e-6)
    assert np.all(np.isnan(batch.others[index, a]))
    assert np.all(np.isnan(batch.others[index, b]))
    assert np.isfinite(batch.others[..., 0]).sum() == 50
    distance = np.linalg.norm(scenes.positions - scenes.pusher[:, None], axis=-1)
    assert np.array_equal(a, distance.argmin(axis=1))  # near=1: A is next to the pusher
    assert batch.texts[0] == f"push {NAMES[a[0]]} to {NAMES[b[0]]}"


def test_a_key_point_starts_where_the_calibration_puts_it():
    trunk = SmallTrunk(SMALL)
    uv, board = ToySource().calibration()
    trunk.calibrate(torch.as_tensor(uv).float(), torch.as_tensor(board * 10).float())
    images = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    cells = trunk.ground(images, torch.ones(1, 16, dtype=torch.int64)).cells
    # 16 x 16 cells over 3.2 dm, row by row: cell (row 1, column 0) is centred at (0.1, 0.3) dm.
    torch.testing.assert_close(cells[16], torch.tensor([0.1, 0.3]), atol=1e-3, rtol=0)


def test_scenes_with_wrong_labels_are_refused():
    good = toy_scenes(4, 0)
    with pytest.raises(ValueError, match="expected uint8 NHWC"):
        SceneSet(good.images[0], good.pusher, NAMES, good.positions)
    with pytest.raises(ValueError, match="scene labels"):
        SceneSet(good.images, good.pusher[:2], NAMES, good.positions)
    lonely = good.positions.copy()
    lonely[0, 1:] = np.nan
    with pytest.raises(ValueError, match="fewer than two blocks"):
        SceneSet(good.images, good.pusher, NAMES, lonely)
