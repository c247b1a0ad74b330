"""Pre-training of the small backbone on rendered scenes: no demonstration, action or reward.

For a picture and a sentence that names two blocks, learn where pusher, A and B are. The labels are
the simulator's object positions; a list of colour-shape pairs is held out by the scene source.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from efm_model.config import CameraSpec, SmallBackboneConfig
from efm_model.geometry import DECIMETRE
from efm_model.grounding import ContextReadout, errors, grounding_loss, summary
from efm_model.preprocess import Preprocessor, PreprocessorConfig, build_vocabulary
from efm_model.scene_set import SceneSet, SceneSource, ask
from efm_model.trunk import SmallTrunk
from efm_model.weights import save_weights

log = logging.getLogger(__name__)

GATE_MEDIAN_MM, GATE_P90_MM = 4.0, 10.0
"""Largest median and 90th percentile of pusher->A and A->B that practice is worth starting with."""


class PretrainConfig(BaseModel):
    """Settings of a pre-training run.

    epochs: passes over the scenes, each with fresh questions. batch: questions per update.
    learning_rate: peak of a cosine schedule after `warmup` updates (AdamW).
    near: share of questions whose block A is the one next to the pusher.
    map_weight: weight of the attention maps' cross-entropy at the start, falling to a tenth.
    average: decay of the exponential moving average of the weights that is kept.
    gain: images are scaled by 1 +- this, drawn per image: light changes between robots.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    epochs: Annotated[int, Field(ge=1)] = 6
    batch: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 200
    near: Annotated[float, Field(ge=0, le=1)] = 0.3
    map_weight: Annotated[float, Field(ge=0)] = 0.3
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.08
    small: SmallBackboneConfig = SmallBackboneConfig()


class Progress(BaseModel):
    """One line of progress: seconds include evaluation, `errors_mm` maps set -> kind -> figures."""

    epoch: int
    epochs: int
    seconds: float
    eta_seconds: float
    losses: dict[str, float]
    errors_mm: dict[str, dict[str, dict[str, float]]] = {}


def pretrain(
    config: PretrainConfig,
    source: SceneSource,
    out_dir: Path,
    progress: Callable[[Progress], None] = lambda line: log.info("%s", line.model_dump_json()),
    threads: int = 1,
) -> dict[str, Any]:
    """Train a backbone, write it to `out_dir` (see `save_weights`) and return the gate's figures.

    Resumes from `out_dir`/training_state when a run with the same settings was cut; an epoch's
    questions depend on (seed, epoch) alone, so a resumed run ends with the same weights at the
    same thread count. Raises ValueError when the state there belongs to other settings.
    """
    torch.set_num_threads(threads)
    scenes, gate_sets = source.train(), source.gate()
    run = _Run(config, source, scenes, out_dir / "training_state")
    started = time.monotonic()
    first = run.epoch
    while run.epoch < config.epochs:
        losses = run.train_epoch(scenes, source)
        run.save()
        elapsed = time.monotonic() - started
        line = Progress(
            epoch=run.epoch,
            epochs=config.epochs,
            seconds=elapsed,
            eta_seconds=elapsed / (run.epoch - first) * (config.epochs - run.epoch),
            losses=losses,
        )
        if run.epoch % 2 == 0 or run.epoch == config.epochs:
            small = {name: _head(scene_set, 500) for name, scene_set in gate_sets.items()}
            line.errors_mm = run.gate(small, source)
        progress(line)
    return run.finish(source, scenes, gate_sets, out_dir, threads)


class _Run:
    """State of a pre-training run: networks, optimiser, epoch."""

    def __init__(
        self, config: PretrainConfig, source: SceneSource, scenes: SceneSet, folder: Path
    ) -> None:
        self.config, self.folder, self.epoch = config, folder, 0
        words = build_vocabulary(source.vocabulary)
        small = config.small.model_copy(update={"vocabulary": len(words) + 2})
        height, width = scenes.images.shape[1:3]
        self.preprocessor = Preprocessor(
            PreprocessorConfig(
                cameras=(CameraSpec(width=width, height=height),),
                vocabulary=words,
                max_tokens=small.max_tokens,
                mean=_triple(scenes.images[:2000], np.mean),
                std=_triple(scenes.images[:2000], np.std),
            )
        )
        self.small = small
        torch.manual_seed(config.seed)
        self.trunk, self.average = self._trunk(), self._trunk()
        self.readout = ContextReadout(self.trunk.context2.out_features)
        uv, board = source.calibration()
        self.trunk.calibrate(
            torch.as_tensor(uv, dtype=torch.float32),
            torch.as_tensor(board / DECIMETRE, dtype=torch.float32),
        )
        self.average.load_state_dict(self.trunk.state_dict())
        parameters = [*self.trunk.parameters(), *self.readout.parameters()]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.updates = max(len(scenes.images) // config.batch, 1)
        self._resume()

    def _trunk(self) -> SmallTrunk:
        p = self.preprocessor.config
        trunk = SmallTrunk(self.small, 1, p.mean, p.std)
        trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return trunk

    def train_epoch(self, scenes: SceneSet, source: SceneSource) -> dict[str, float]:
        """One pass over all scenes; mean of each loss term over the pass."""
        self.trunk.train()
        rng = np.random.default_rng((self.config.seed, self.epoch))
        order = rng.permutation(len(scenes.images))
        total: dict[str, float] = {}
        for update in range(self.updates):
            rows = order[update * self.config.batch : (update + 1) * self.config.batch]
            for name, value in self._update(scenes, rows, rng, source, update).items():
                total[name] = total.get(name, 0.0) + value / self.updates
        self.epoch += 1
        return {name: round(value, 5) for name, value in total.items()}

    def _update(
        self,
        scenes: SceneSet,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        source: SceneSource,
        update: int,
    ) -> dict[str, float]:
        step, steps = self.epoch * self.updates + update, self.config.epochs * self.updates
        cosine = 0.5 * (1.0 + np.cos(np.pi * step / steps))
        warm = min(1.0, (step + 1) / max(self.config.warmup, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warm * max(cosine, 0.01)
        batch = ask(scenes, rows, rng, source, self.config.near)
        images = _vary(batch.images, self.config.gain, rng)
        tokens = np.stack([self.preprocessor.tokens(text) for text in batch.texts])
        found = self.trunk.ground(torch.from_numpy(images), torch.from_numpy(tokens))
        map_weight = self.config.map_weight * max(1.0 - step / (0.5 * steps), 0.1)
        terms = grounding_loss(
            found,
            torch.from_numpy(batch.targets),
            torch.from_numpy(batch.others),
            self.readout,
            map_weight,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trunk.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.config.average, (step + 1) / (step + 10))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.trunk.parameters(), strict=True)
            for mean, value in pairs:
                mean.lerp_(value, 1.0 - decay)
        return {name: float(value.detach()) for name, value in terms.items()}

    def gate(
        self, sets: dict[str, SceneSet], source: SceneSource
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Errors in mm of the averaged weights on each held-out set."""
        return {
            name: summary(errors(self.average, self.preprocessor, scene_set, source))
            for name, scene_set in sets.items()
        }

    def finish(
        self,
        source: SceneSource,
        scenes: SceneSet,
        gate_sets: dict[str, SceneSet],
        out_dir: Path,
        threads: int,
    ) -> dict[str, Any]:
        """Standardise the features, measure the gate, write the weights."""
        self._standardise(scenes, source)
        figures = self.gate(gate_sets, source)
        default = figures["default"]
        passed = all(
            default[kind]["median_mm"] <= GATE_MEDIAN_MM and default[kind]["p90_mm"] <= GATE_P90_MM
            for kind in ("pusher_to_a", "a_to_b")
        )
        facts = {
            "gate": {"passed": passed, "errors": figures},
            "scenes": len(scenes.images),
            "recipe": source.recipe,
            "settings": self.config.model_dump(mode="json"),
            "torch": torch.__version__,
            "threads": threads,
        }
        save_weights(out_dir, self.average, self.small, self.preprocessor, facts)
        return facts["gate"]  # type: ignore[return-value]

    def _standardise(self, scenes: SceneSet, source: SceneSource) -> None:
        rng = np.random.default_rng((self.config.seed, 1 << 20))
        rows = rng.permutation(len(scenes.images))[:8192]
        parts: list[Tensor] = []
        self.average.eval()
        for start in range(0, len(rows), 256):
            batch = ask(scenes, rows[start : start + 256], rng, source)
            tokens = np.stack([self.preprocessor.tokens(text) for text in batch.texts])
            with torch.no_grad():
                ground = self.average.ground(
                    torch.from_numpy(batch.images), torch.from_numpy(tokens)
                )
            parts.append(ground.features)
        features = torch.cat(parts)
        self.average.standardise(features.mean(0), features.std(0))

    def save(self) -> None:
        """Write the state of training: tensors, then the file that makes them valid."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"trunk.{k}": v.contiguous() for k, v in self.trunk.state_dict().items()}
        tensors |= {f"average.{k}": v.contiguous() for k, v in self.average.state_dict().items()}
        tensors |= {f"readout.{k}": v for k, v in self.readout.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v.contiguous() for k, v in state.items()}
        name = f"epoch_{self.epoch}.safetensors"
        save_file(tensors, self.folder / name)
        text = json.dumps({"settings": self._settings(), "epoch": self.epoch, "tensors": name})
        temporary = self.folder / "state.json.partial"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.folder / "state.json")
        for old in self.folder.glob("epoch_*.safetensors"):
            if old.name != name:
                old.unlink()

    def _settings(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(mode="json"), "updates": self.updates}

    def _resume(self) -> None:
        path = self.folder / "state.json"
        if not path.exists():
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["settings"] != self._settings():
            raise ValueError(
                f"{path}: the state there belongs to other pre-training settings; choose another "
                "folder or remove training_state"
            )
        tensors = load_file(self.folder / state["tensors"])
        for prefix, module in (
            ("trunk", self.trunk), ("average", self.average), ("readout", self.readout),
        ):  # fmt: skip
            module.load_state_dict(_below(tensors, prefix))
        adam = self.optimizer.state_dict()
        for name, value in _below(tensors, "adam").items():
            index, key = name.split(".", 1)
            adam["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(adam)
        self.epoch = int(state["epoch"])
        log.info("resuming pre-training at epoch %d of %d", self.epoch, self.config.epochs)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below `prefix`., with the prefix taken off."""
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(prefix + ".")}


def _head(scenes: SceneSet, count: int) -> SceneSet:
    """The first `count` scenes of a set."""
    return SceneSet(
        scenes.images[:count], scenes.pusher[:count], scenes.names, scenes.positions[:count]
    )


def _triple(
    images: NDArray[np.uint8], statistic: Callable[..., Any]
) -> tuple[float, float, float]:
    """A statistic per RGB channel of images, in units of uint8 / 255, rounded for the JSON file."""
    r, g, b = (round(float(v) / 255.0, 4) for v in statistic(images, axis=(0, 1, 2)))
    return r, g, b


def _vary(
    images: NDArray[np.uint8], gain: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Scale the brightness of each image by 1 +- gain, uniformly drawn."""
    if gain == 0.0:
        return images
    factor = rng.uniform(1.0 - gain, 1.0 + gain, (len(images), 1, 1, 1)).astype(np.float32)
    result: NDArray[np.uint8] = np.clip(images * factor, 0.0, 255.0).astype(np.uint8)
    return result
