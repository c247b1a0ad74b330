"""The trunk for answers as tokens: it hands the observation on, and knows how to read prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from efm_model.vlm_config import AnswerTokens, TransformersConfig
from efm_model.vlm_prompt import VlmPreprocessor
from efm_model.vlm_spoken import Past, Spoken
from efm_model.vlm_trunk import FrozenVlm, VlmTrunk

_MASK = "attention_mask"
Fields = dict[str, Tensor]


@dataclass(frozen=True)
class Rule:
    """How a model attends, found by asking it.

    shared: whether the prompt is read the same whatever follows it, so that one cache of it serves
    both questions. answer: value of the text fields beside input_ids and mask that marks tokens
    which what stands before them does not see.
    """

    shared: bool
    answer: int


@dataclass
class Group:
    """Observations of one pass, padded on the left: behind each prompt stands its answer.

    rows: int64 (b,), their places in the batch. text: field -> int64 (b, P). pictures: the image
    fields, empty where `past` holds the prompt already.
    """

    rows: Tensor
    text: Fields
    pictures: Fields
    past: Past | None = None


class Prefilled(list[Group]):
    """A batch whose prompts are in the cache: for heads, in place of features."""


class TokenTrunk(VlmTrunk):
    """Hands observations on to heads that read them: features are their bytes, uint8 (B, F)."""

    def __init__(
        self, config: TransformersConfig, preprocessor: VlmPreprocessor, vlm: FrozenVlm,
        identity: str,
    ) -> None:  # fmt: skip
        """See `VlmTrunk`. Raises ValueError for a model whose answers cannot be told from prompts.
        """
        super().__init__(config, preprocessor, vlm, identity)
        words = preprocessor.config
        camera = words.cameras[0]
        self._picture = (len(words.cameras), camera.height, camera.width, 3)
        self._pixels = len(words.cameras) * camera.height * camera.width * 3
        self.feature_size = self._pixels + 4 * len(words.text_fields) * words.length
        self.rows_per_pass = config.rows_per_pass
        self.fitted = True  # nothing to standardise
        assert vlm.spoken is not None  # whoever builds a trunk of tokens has seen to both
        assert config.tokens is not None
        self.spoken: Spoken = vlm.spoken
        self.tokens: AnswerTokens = config.tokens
        self.spoken.rule = self.spoken.rule or self._find_rule()
        self.rule: Rule = self.spoken.rule

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Images uint8 (B, cameras, H, W, 3), tokens int64 (B, L) -> bytes (B, feature_size)."""
        words = tokens.to(torch.int32).contiguous().view(torch.uint8).flatten(1)
        return torch.cat([images.flatten(1), words], dim=1)

    def groups(self, features: Tensor | Prefilled) -> Iterator[Group]:
        """The batch in passes of at most `rows_per_pass` rows, in order."""
        if isinstance(features, Prefilled):
            yield from features
            return
        images = features[:, : self._pixels].reshape(-1, *self._picture)
        words = features[:, self._pixels :].contiguous().view(torch.int32).long()
        text, room = self._preprocessor.split(words), self._preprocessor.config.length
        for start in range(0, len(words), self._rows):
            rows = torch.arange(start, min(start + self._rows, len(words)))
            lengths = text[_MASK][rows].sum(dim=1)
            most = int(lengths.max())
            # Each row begins with the last of its padding on the right, which comes to the left.
            turned = (torch.arange(most) + (lengths - most)[:, None]) % room
            moved = {name: field[rows].gather(1, turned) for name, field in text.items()}
            yield Group(rows, moved, self._preprocessor.pixels(images[rows]))

    def prefill(self, features: Tensor) -> Tensor | Prefilled:
        """The batch with its prompts read, for both heads; as it was where they cannot share."""
        if not self.rule.shared:
            return features
        found = Prefilled()
        with torch.no_grad(), self.vlm.using(self.matrices()):
            for group in self.groups(features):
                self.spoken.read(None, None, 0)
                out = self.vlm.run({**group.text, **group.pictures}, keep=True)
                past = self.spoken.past(out.past_key_values, group.text[_MASK])
                found.append(Group(group.rows, group.text, {}, past))
        return found

    def matrices(self) -> dict[str, Tensor]:
        """The adapter's, empty without one."""
        return {} if self.adapter is None else self.adapter.matrices()

    def behind(self, group: Group, ids: Tensor) -> Fields:
        """The model's inputs for a group with ids (b, n) behind: a question, then answers."""
        count = ids.shape[1]
        inputs: Fields = {}
        for name, field in group.text.items():
            added = ids if name == "input_ids" else torch.zeros_like(ids)
            if name == _MASK:
                added = torch.ones_like(ids)
            elif name != "input_ids" and count > 1:
                added[:, 1:] = self.rule.answer
            inputs[name] = torch.cat([field, added], dim=1)
        return {**inputs, **group.pictures}

    def probe(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Hidden states (B, P, width) of the prompts: see `VlmTrunk.probe`."""
        (group,) = self.groups(self(images, tokens))
        return self._states(group.text, group.pictures)

    def _states(self, text: Fields, pictures: Fields) -> Tensor:
        with torch.no_grad(), self.vlm.using(self.matrices()):
            self.spoken.read(None, None, 0)
            states: Tensor = self.vlm.run({**text, **pictures}).last_hidden_state
            return states.float().cpu()

    def _find_rule(self) -> Rule:
        """Ask the model whether tokens see what follows them; same shapes, so equality is exact."""
        words = self._preprocessor.config
        tokens = torch.from_numpy(self._preprocessor.tokens("push").copy())[None]
        blank = torch.zeros((1, *self._picture), dtype=torch.uint8)
        (group,) = self.groups(self(blank, tokens))
        ids = group.text["input_ids"]
        found = torch.unique(ids[ids != words.image_token_id])
        pair = torch.stack([found[:1], found[-1:]])  # two words that the model surely tells apart
        for value in (0, 1):
            self.rule = Rule(value == 0, value)
            # value 0: does a question reach back? value 1: does an answer behind a question?
            behind = pair if value == 0 else torch.stack([pair[:1].expand(2, 1), pair], dim=1)
            one, two = (
                self._states(self.behind(group, row.reshape(1, -1)), {}) for row in behind
            )
            seen = one.shape[1] - 1
            if torch.equal(one[:, :seen], two[:, :seen]):
                return self.rule
        raise ValueError(
            "its prompt changes with the answer behind it, so that answers cannot be tokens; use "
            "heads of their own (no --tokens)"
        )
