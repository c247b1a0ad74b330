"""Every way of spoiling a checkpoint, tried on a real one: each must be refused with its reason."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from efm_bringup.faults.fleet_rounds import Findings
from efm_bringup.faults.results import Round, Trial
from efm_bringup.faults.testbed import POLICY
from efm_core.checkpoint import MANIFEST, CheckpointError, verify_checkpoint
from efm_core.fleet import FleetDescription

MODEL = "model.safetensors"
Mutation = Callable[[Path, random.Random], None]


def checkpoint_round(fleet: FleetDescription, trial: Trial, number: int, seed: int) -> Round:
    """Mutation `number` (modulo how many there are) of the fault checkpoint of `fleet`.

    Refused means: by `verify_checkpoint` and by the loader of the inference process, in words.
    """
    from efm_bringup.model_loading import ModelLoader
    from efm_bringup.model_shelf import BadCheckpointError, Versions

    name = list(MUTATIONS)[number % len(MUTATIONS)]
    found = Findings(note=name)
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    good = fleet.models_dir / POLICY
    robot = fleet.robots[0]
    bad = fleet.models_dir / "spoilt"
    shutil.rmtree(bad, ignore_errors=True)
    shutil.copytree(good, bad)
    try:
        _edit(bad, MANIFEST, version=bad.name)
        MUTATIONS[name](bad, rng)
        try:
            cameras = [camera.name for camera in robot.cameras]
            verify_checkpoint(bad, cameras=cameras, space=robot.space, role="policy")
            found.problems.append(f"{name}: verified")
        except CheckpointError as error:
            found.expect(len(str(error)) > 20, f"{name}: refused without a reason")
        try:
            ModelLoader(fleet).load(Versions(bad.name, ""), robot.name)
            found.problems.append(f"{name}: loaded")
        except BadCheckpointError as error:
            found.expect(bad.name in str(error), f"{name}: refused without its name")
    finally:
        shutil.rmtree(bad, ignore_errors=True)
    return Round(trial, number, seed, found.figures, found.problems, found.note)


def _sign(path: Path) -> None:
    """Make the manifest agree with the files, as a careless tool or an attacker would."""
    hashes = {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file() and file.name != MANIFEST
    }
    _edit(path, MANIFEST, files=hashes)


def _edit(path: Path, name: str, **fields: object) -> None:
    content = json.loads((path / name).read_text())
    content.update(fields)
    (path / name).write_text(json.dumps(content))


def _cut(path: Path, rng: random.Random) -> None:
    data = (path / MODEL).read_bytes()
    (path / MODEL).write_bytes(data[: rng.randrange(len(data))])


def _signed_cut(path: Path, rng: random.Random) -> None:
    _cut(path, rng)
    _sign(path)


def _flip(path: Path, rng: random.Random) -> None:
    name = rng.choice(sorted(f.name for f in path.iterdir() if f.is_file() and f.name != MANIFEST))
    data = bytearray((path / name).read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    (path / name).write_bytes(data)


def _not_finite(path: Path, rng: random.Random) -> None:
    """One float32 of the first tensor becomes NaN or infinity; the manifest agrees."""
    data = bytearray((path / MODEL).read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    spans = [v["data_offsets"] for k, v in header.items() if v.get("dtype") == "F32"]
    begin, end = rng.choice([span for span in spans if span[1] > span[0]])
    at = 8 + length + begin + 4 * rng.randrange((end - begin) // 4)
    struct.pack_into("<f", data, at, rng.choice([float("nan"), float("inf"), -float("inf")]))
    (path / MODEL).write_bytes(data)
    _edit(path, MANIFEST, trunk_hash="")
    _sign(path)


def _cameras(path: Path, rng: random.Random) -> None:
    config = json.loads((path / "config.json").read_text())
    for camera in config["cameras"]:
        camera["name"] = f"overhead{rng.randrange(100)}"
    _edit(path, "config.json", cameras=config["cameras"])
    _edit(path, "preprocessor.json", cameras=config["cameras"])
    _sign(path)


def _action_size(path: Path, rng: random.Random) -> None:
    space = json.loads((path / "config.json").read_text())["action_space"]
    space["dims"].pop(rng.randrange(len(space["dims"])))
    _edit(path, "config.json", action_space=space)
    _sign(path)


def _no_normalisation(path: Path, rng: random.Random) -> None:
    (path / "preprocessor.json").unlink()
    if rng.random() < 0.5:
        _sign(path)


def _no_mean(path: Path, rng: random.Random) -> None:
    content = json.loads((path / "preprocessor.json").read_text())
    del content[rng.choice(["mean", "std"])]
    (path / "preprocessor.json").write_text(json.dumps(content))
    _sign(path)


def _pickle(path: Path, rng: random.Random) -> None:
    name = rng.choice([MODEL, "config.json", "training_state/state.json"])
    (path / name).write_bytes(pickle.dumps({"weights": [1.0]}, protocol=rng.choice([0, 2, 4])))
    _sign(path)


def _half_written(path: Path, rng: random.Random) -> None:
    (path / MANIFEST).unlink()
    if rng.random() < 0.5:
        (path / MODEL).unlink()


MUTATIONS: dict[str, Mutation] = {
    "cut": _cut,
    "cut, manifest agrees": _signed_cut,
    "one bit flipped": _flip,
    "NaN or infinite weight": _not_finite,
    "wrong camera names": _cameras,
    "wrong action size": _action_size,
    "missing normalisation file": _no_normalisation,
    "missing mean or std": _no_mean,
    "pickle under an allowed name": _pickle,
    "half-written directory": _half_written,
}
"""Name -> what it does to a checkpoint's folder."""
