"""A frozen vision-language model of `transformers` as backbone.

Feature = the language model's last hidden state at the final token of the prompt (pictures and
instruction), float32, standardised by statistics of the training data that the checkpoint holds.
The statement is made for every model alike: nothing here knows a model's class. What Stage 1 may
learn besides the heads is an adapter beside the frozen weights (`efm_model.vlm_adapter`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efm_model.vlm_adapter import (
    AdapterWeights,
    Shapes,
    insert_slots,
    language_part,
    lay_in,
    recompute_in_backward,
    shapes_of,
)
from efm_model.vlm_config import AdapterConfig, TransformersConfig
from efm_model.vlm_prompt import VlmPreprocessor
from efm_model.vlm_sight import Sight
from efm_model.vlm_spoken import Spoken


class FrozenVlm:
    """A model in memory, shared by all trunks with the same weights; never trained, never copied.

    No `nn.Module`, so that its gigabytes are in no state dict: checkpoints store them as files of
    their own, and its hash stands for them in the trunk.

    recompute: whether layers keep only their inputs for the backward pass and compute the rest
    once more there: less memory, a third more time. Only models with slots for an adapter learn.
    """

    def __init__(
        self, model: nn.Module, dtype: torch.dtype, attention: str,
        adapter: AdapterConfig | None = None, answers: bool = False,
    ) -> None:  # fmt: skip
        """adapter: shape of the adapters that passes bring; None for a model without slots.
        answers: whether passes read and give tokens of the vocabulary (`vlm_token_heads`).
        """
        self.dtype, self.attention, self.recompute = dtype, attention, False
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._base: Any = model.requires_grad_(False).eval().base_model
        self._slots: dict[str, Any] = {}
        self._alone = threading.Lock()  # from laying an adapter in to the end of its pass
        if adapter is not None:
            language = language_part(self._base)
            self._slots = insert_slots(language, adapter)
            recompute_in_backward(language, lambda: self.recompute)
        self._base.to(self.device)
        self._sight = Sight(self._base)
        self.spoken = Spoken(model, self._base, self.device) if answers else None

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenVlm:
        return self

    @property
    def parameters(self) -> int:
        """Number of weights, the output layer left out."""
        return sum(p.numel() for p in self._base.parameters())

    @property
    def size_bytes(self) -> int:
        """Memory of the weights in bytes."""
        return sum(p.numel() * p.element_size() for p in self._base.parameters())

    @property
    def adapter_shapes(self) -> Shapes:
        """What an adapter of this model consists of; empty for a model without slots."""
        return shapes_of(self._slots)

    def hidden(
        self, inputs: dict[str, Tensor], last: Tensor, adapter: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Model inputs, index of each row's final token (B,) -> hidden states float32 (B, F).

        adapter: its matrices, where the model has slots. Gradients are kept only when one of them
        takes any; on a GPU such a pass multiplies in bfloat16 (autocast). Use `last`-row features
        of a pass before another adapter is laid in, when `recompute` is on: backward runs it again.
        """
        with self.using(adapter or {}):
            states = self.run(inputs).last_hidden_state
            rows = torch.arange(len(last), device=states.device)
            found: Tensor = states[rows, last.to(states.device)]
            return found.float().cpu()

    @contextmanager
    def using(self, adapter: Mapping[str, Tensor], *others: Tensor) -> Iterator[None]:
        """Passes inside are this caller's alone, with its adapter laid in.

        Gradients are kept where one of its matrices or of `others` takes any.
        """
        learns = torch.is_grad_enabled() and any(
            weight.requires_grad for weight in (*adapter.values(), *others)
        )
        mixed = torch.autocast(
            self.device.type, torch.bfloat16, enabled=learns and self.device.type == "cuda"
        )
        with self._alone, torch.set_grad_enabled(learns), mixed:
            lay_in(self._slots, adapter)
            yield

    def run(self, inputs: Mapping[str, Tensor], cache: Any = None, keep: bool = False) -> Any:
        """One pass of the base model, inside `using`: its outputs, `last_hidden_state` among them.

        cache: keys and values of what came before, grown by this pass. keep: start such a cache.
        """
        moved = {
            k: v.to(self.device, self.dtype if v.is_floating_point() else None)
            for k, v in inputs.items()
        }
        before = {} if cache is None else {"past_key_values": cache}
        ready = moved if torch.is_grad_enabled() else self._sight.replace(moved)
        return self._base(**ready, **before, use_cache=keep or cache is not None, return_dict=True)


class VlmTrunk(nn.Module):
    """See the module's description. State: standardisation, the hash of the frozen weights, and the
    adapter where the configuration asks for one; only that has parameters.
    """

    name = "transformers"
    feature_mean: Tensor
    feature_std: Tensor
    identity: Tensor

    def __init__(
        self, config: TransformersConfig, preprocessor: VlmPreprocessor, vlm: FrozenVlm,
        identity: str,
    ) -> None:  # fmt: skip
        """identity: SHA-256 (hex) of everything that features depend on besides the statistics."""
        super().__init__()
        self.feature_size = config.features
        self.vlm = vlm
        self.fitted = False
        self._rows, self._preprocessor = config.rows_per_pass, preprocessor
        self.register_buffer("feature_mean", torch.zeros(config.features))
        self.register_buffer("feature_std", torch.ones(config.features))
        self.register_buffer("identity", _as_tensor(identity))
        self.adapter: AdapterWeights | None = None
        if config.adapter is not None:
            self.adapter = AdapterWeights(vlm.adapter_shapes, vlm.device)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Images uint8 (B, cameras, H, W, 3), tokens int64 (B, L) -> float32 (B, feature_size).

        With gradients for an adapter that takes them.
        """
        parts = [
            self._pass(images[start : start + self._rows], tokens[start : start + self._rows])
            for start in range(0, len(images), self._rows)
        ]
        return (torch.cat(parts) - self.feature_mean) / self.feature_std

    def _pass(self, images: Tensor, tokens: Tensor) -> Tensor:
        text = self._preprocessor.split(tokens)
        last = text["attention_mask"].sum(dim=1) - 1
        matrices = self.adapter.matrices() if self.adapter is not None else None
        return self.vlm.hidden({**text, **self._preprocessor.pixels(images)}, last, matrices)

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics (feature_size,) of the training data: called once, before training."""
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std.clamp_min(1e-3))
        self.fitted = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As `nn.Module`'s, but refuses statistics of other frozen weights with ValueError."""
        found = state_dict.get(prefix + "identity")
        if found is not None and not torch.equal(found, self.identity):
            raise ValueError(
                "model.safetensors: trunk.identity is not that of backbone/, preprocessor.json, "
                "dtype and adapter; the files are of different checkpoints"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.fitted = True

    def probe(self, images: Tensor, tokens: Tensor) -> Tensor:
        """What one pass of the model gives, to be timed and looked at; inputs as of `forward`."""
        result: Tensor = self(images, tokens)
        return result

    def describe(self, seconds: float | None = None) -> str:
        """One line: size in memory, tokens per observation, and the time of one, where measured."""
        vlm, words = self.vlm, self._preprocessor.config
        kind = str(vlm.dtype).removeprefix("torch.")
        beside = self.adapter_line
        took = "" if seconds is None else f", {1e3 * seconds:.0f} ms per observation"
        return (
            f"{vlm.parameters / 1e6:.1f} M parameters, {kind}, {vlm.size_bytes / 1e6:.1f} MB, "
            f"{words.length} tokens per observation ({words.image_tokens} of pictures), attention "
            f"{vlm.attention} on {vlm.device}{beside}{took}"
        )

    @property
    def adapter_line(self) -> str:
        """", adapter of <n> M parameters", "" without one."""
        if self.adapter is None:
            return ""
        return f", adapter of {sum(p.numel() for p in self.adapter.parameters()) / 1e6:.2f} M"


def _as_tensor(digest: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
