"""Fine-tuning of heads and adapter together: every step is a pass through the language model.

The same run as `efm_trainer.sft_steps`, with observations in place of features: nothing can be
cached where the weights before the heads move. A batch goes through the model in passes of
`rows_per_pass` observations whose gradients add up to that of the whole batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from efm_model.backbone import feature_size
from efm_model.model import EmbodiedModel
from efm_model.preprocess import Preprocessor
from efm_model.vlm_config import AdapterConfig
from efm_model.weights import trunk_hash
from efm_trainer.ahead import ahead
from efm_trainer.distributed import ALONE, World, gather_in_turn
from efm_trainer.episode_data import EpisodeData
from efm_trainer.samples import SftSamples, join_samples
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_steps import Drawn, SftRun
from efm_trainer.stored_pictures import picture_digest


class LoraTraining(BaseModel):
    """How an adapter beside the frozen language model is learnt (LoRA, arXiv 2106.09685).

    rank, alpha: see `AdapterConfig`; alpha None is twice the rank. learning_rate: of the adapter,
    with the heads' warm-up and cosine; its weights do not decay. recompute: activation
    checkpointing, less memory for a third more time. validation_rows: held-out observations per
    objective that a validation looks at, evenly spread.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0.0, le=4096.0)] | None = None
    learning_rate: Annotated[float, Field(gt=0.0, le=0.1)] = 2e-4
    recompute: bool = False
    validation_rows: Annotated[int, Field(ge=1)] = 512

    @property
    def adapter(self) -> AdapterConfig:
        """What the checkpoint's config.json says of it."""
        return AdapterConfig(rank=self.rank, alpha=self.alpha or 2.0 * self.rank)


class Observations:
    """The observations of episodes one below the other: row number -> what the trunk takes."""

    def __init__(self, episodes: Sequence[EpisodeData], preprocessor: Preprocessor) -> None:
        self._episodes, self._preprocessor = list(episodes), preprocessor
        self._starts = np.cumsum([0, *(len(episode) for episode in episodes)])

    def rows(self) -> list[NDArray[np.int64]]:
        """The row numbers of each episode."""
        return [np.arange(a, b) for a, b in zip(self._starts[:-1], self._starts[1:], strict=True)]

    def inputs(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images uint8 (B, cameras, H, W, 3) and tokens int64 (B, L) of row numbers (B,)."""
        images, tokens = [], []
        for row, number in zip(rows, np.searchsorted(self._starts, rows, "right") - 1, strict=True):
            episode = self._episodes[number]
            i = int(row - self._starts[number])
            images.append(self._preprocessor.images({k: v[i] for k, v in episode.images.items()}))
            tokens.append(self._preprocessor.tokens(episode.instruction))
        return np.stack(images), np.stack(tokens)

    def digest(self) -> str:
        """SHA-256 (hex) of all pictures and instructions."""
        digest = hashlib.sha256()
        for episode in self._episodes:
            digest.update(episode.instruction.encode())
            for name in sorted(episode.images):
                digest.update(f"|{name}|{len(episode)}|".encode())
                digest.update(picture_digest(episode.images[name]).encode())
        return digest.hexdigest()


def observation_samples(
    model: EmbodiedModel, episodes: Sequence[EpisodeData], config: SftConfig
) -> SftSamples:
    """As `join_samples`, with row numbers of `SftSamples.observations` in place of features."""
    seen = Observations(episodes, model.preprocessor)
    return join_samples(
        episodes, seen.rows(), config.clone_failures, config.clone_pauses, observations=seen
    )


class LoraRun(SftRun):
    """A fine-tuning run whose adapter learns with the heads."""

    def __init__(
        self, model: EmbodiedModel, train: SftSamples, validation: SftSamples, config: SftConfig,
        lora: LoraTraining, world: World = ALONE,
    ) -> None:  # fmt: skip
        """Raises ValueError for a model without adapter and for samples without observations."""
        if getattr(model.trunk, "adapter", None) is None:
            raise ValueError("this model has no adapter to train; make it with one (rank)")
        if train.observations is None or validation.observations is None:
            raise ValueError("an adapter learns from observations; use observation_samples")
        self._lora, self._seen, self._held = lora, train.observations, validation.observations
        assert model.config.transformers is not None  # else there would be no adapter
        self._rows = model.config.transformers.rows_per_pass
        self._tokens = model.config.transformers.tokens is not None
        model.trunk.requires_grad_(True)
        model.trunk.vlm.recompute = lora.recompute  # type: ignore[union-attr]
        super().__init__(model, train, validation, config, world)
        whole = "|".join(
            (self.fingerprint, lora.model_dump_json(), model.config.model_dump_json(),
             trunk_hash(model.trunk), self._seen.digest(), self._held.digest())
        )  # fmt: skip
        self.fingerprint = hashlib.sha256(whole.encode()).hexdigest()

    def _groups(self) -> list[dict[str, object]]:
        scale = self._lora.learning_rate / self.config.learning_rate
        adapter = {"params": list(self._model.trunk.parameters()), "weight_decay": 0.0}
        heads = super()._groups()
        if self._tokens:  # rows beside those of a vocabulary, no perceptrons
            heads[0]["weight_decay"] = 0.0
        return [*heads, {**adapter, "scale": scale}]

    def _gradients(self, actions: Drawn, steps: Drawn) -> tuple[float, float]:
        losses = []
        half = len(actions[0])
        # Drawn for the batch, not for a pass, so that how it is split up changes nothing.
        # Tokens are read from observations, which are no features to be blurred.
        size = 0 if self._tokens else feature_size(self._model.trunk)
        noise = self.config.feature_noise * torch.randn(2, half, size)
        masks = torch.randint(2**62, (2,)).tolist()
        own = self._world.rows(half)
        objectives = ((actions, self._action_loss), (steps, self._steps_loss))
        rows_of = (drawn[0][part] for drawn, _ in objectives for part in self._passes(own))
        # The next pass's pictures are read and decoded while this one computes.
        inputs = ahead(lambda rows: self._seen.inputs(rows.numpy()), rows_of)
        for number, (drawn, loss) in enumerate(objectives):
            total = 0.0
            for part in self._passes(own):
                rows, bins, left = (column[part] for column in drawn)
                features = self._model.features(*next(inputs))
                torch.manual_seed(masks[number])
                with self._world.dropout(part.start, part.stop, half):
                    seen = features if self._tokens else features + noise[number, part]
                    mean = loss(seen, bins, left)
                share = len(rows) / (own.stop - own.start) * mean
                share.backward()
                total += share.item()
            losses.append(total)
        return losses[0], losses[1]

    def _passes(self, rows: slice) -> Iterator[slice]:
        for start in range(rows.start, rows.stop, self._rows):
            yield slice(start, min(start + self._rows, rows.stop))

    def _held_out(self) -> tuple[Drawn, Drawn]:
        sides = [self._thinned(side) for side in super()._held_out()]
        rows = torch.unique(torch.cat([side[0] for side in sides]))
        parts = gather_in_turn(
            self._world,
            [rows[i : i + self._rows] for i in range(0, len(rows), self._rows)],
            lambda part: self._model.features(*self._held.inputs(part.numpy())).numpy(),
        )
        features = torch.from_numpy(np.concatenate(parts))
        action, reward = (
            (features[torch.searchsorted(rows, side[0])], *side[1:]) for side in sides
        )
        return action, reward

    def _thinned(self, side: Drawn) -> Drawn:
        count = len(side[0])
        spread = np.linspace(0, count - 1, min(count, self._lora.validation_rows))
        chosen: Tensor = torch.from_numpy(np.unique(spread.astype(np.int64)))
        return side[0][chosen], side[1][chosen], side[2][chosen]
