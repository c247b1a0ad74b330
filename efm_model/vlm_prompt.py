"""Observation -> arrays for a `transformers` backbone, by the model's own processor.

The text goes through the tokenizer here, the pixels through the image processor inside the trunk
(`efm_model.vlm_trunk`); both are the files of one processor, stored in the checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from efm_model.config import CameraSpec
from efm_model.preprocess import Preprocessor, PreprocessorConfig
from efm_model.vlm_config import GOAL, BackboneRequest, one_goal
from efm_model.vlm_source import asking

log = logging.getLogger(__name__)

_LABELS = "labels"  # some processors make training targets; nothing here reads them


class VlmPreprocessorConfig(PreprocessorConfig):
    """`preprocessor.json` of a checkpoint with a `transformers` backbone.

    files: the processor's files below backbone/. prompt: the whole text with the model's image
    placeholders and {instruction}. image_size: see `BackboneRequest`. text_fields, image_fields:
    what the processor gives for text, input_ids first, and for pictures. length: tokens per
    observation, padding on the right included. image_tokens: how many of them stand for pictures,
    always. max_tokens: room for the instruction. mean, std, vocabulary are not used: the
    processor's files hold theirs.
    """

    kind: Literal["transformers"] = "transformers"
    vocabulary: tuple[str, ...] = ()
    files: tuple[str, ...]
    prompt: str
    image_size: int | None = None
    text_fields: Annotated[tuple[str, ...], Field(min_length=2)]
    image_fields: Annotated[tuple[str, ...], Field(min_length=1)]
    length: Annotated[int, Field(ge=2)]
    pad_id: Annotated[int, Field(ge=0)] = 0
    image_token_id: Annotated[int, Field(ge=0)]
    image_tokens: Annotated[int, Field(ge=1)]

    _prompt = field_validator("prompt")(one_goal)

    @field_validator("text_fields")
    @classmethod
    def _ids_and_mask(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        if fields[0] != "input_ids" or "attention_mask" not in fields:
            raise ValueError(f"text_fields {fields} must begin with input_ids, hold attention_mask")
        return fields


class VlmPreprocessor(Preprocessor):
    """As `Preprocessor`, with the tokenizer of the backbone's processor in place of words."""

    config: VlmPreprocessorConfig

    def __init__(self, config: VlmPreprocessorConfig, folder: Path, processor: Any = None) -> None:
        """folder: holds the processor's files. processor: them loaded, if they are already."""
        super().__init__(config)
        self.folder = folder
        if processor is not None:
            self.__dict__["processor"] = processor

    @cached_property
    def processor(self) -> Any:
        """The model's own processor, read from `folder` on first use. Raises ValueError."""
        from efm_model.vlm_take_over import load_processor

        return load_processor(self.folder)

    @property
    def vocabulary_size(self) -> int:
        """Number of the tokenizer's ids."""
        return len(self.processor.tokenizer)

    def unknown_words(self, instruction: str) -> list[str]:
        """Empty: these tokenizers spell every word."""
        return []

    def tokens(self, instruction: str) -> NDArray[np.int64]:
        """Instruction -> the text fields one behind the other, int64 (fields * length,).

        Words that find no room are cut from the end, with a warning. Raises ValueError for an
        empty instruction and for one that holds the model's control tokens.
        """
        known = self._known.get(instruction)
        if known is not None:
            return known
        words = instruction.split()
        if not words:
            raise ValueError(f"instruction {instruction!r} holds no word; publish a goal first")
        self._refuse_control_tokens(instruction)
        fields = self._encode(instruction)
        while len(fields["input_ids"]) > self.config.length:
            words.pop()
            if not words:
                raise ValueError(
                    f"instruction {instruction!r}: its first word alone needs more than "
                    f"{self.config.max_tokens} tokens; train with more instruction_tokens"
                )
            fields = self._encode(" ".join(words))
        if len(words) < len(instruction.split()):
            log.warning("instruction %r is cut to %r", instruction, " ".join(words))
        result = self._padded(fields)
        result.flags.writeable = False
        if len(self._known) < 4096:  # bounds memory when instructions come from people
            self._known[instruction] = result
        return result

    def _refuse_control_tokens(self, instruction: str) -> None:
        tokenizer = self.processor.tokenizer
        image_token = tokenizer.convert_ids_to_tokens(self.config.image_token_id)
        for token in {*tokenizer.all_special_tokens, image_token}:
            if token in instruction:
                raise ValueError(
                    f"instruction {instruction!r} holds the model's control token {token!r}; "
                    "leave it out"
                )

    def _encode(self, instruction: str) -> dict[str, NDArray[np.int64]]:
        camera, count = self.config.cameras[0], len(self.config.cameras)
        blank = torch.zeros((1, count, camera.height, camera.width, 3), dtype=torch.uint8)
        text = self.config.prompt.replace(GOAL, instruction)
        encoded = encode(self.processor, text, as_pictures(blank, self.config.image_size))
        fields = {name: encoded[name][0].numpy() for name in self.config.text_fields}
        found = int((fields["input_ids"] == self.config.image_token_id).sum())
        if found != self.config.image_tokens:
            raise ValueError(
                f"the prompt has {found} image tokens, preprocessor.json pins "
                f"{self.config.image_tokens}; the processor's files are of another checkpoint"
            )
        return fields

    def _padded(self, fields: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
        rows = np.zeros((len(self.config.text_fields), self.config.length), dtype=np.int64)
        rows[0] = self.config.pad_id
        for row, name in zip(rows, self.config.text_fields, strict=True):
            row[: len(fields[name])] = fields[name]
        return rows.reshape(-1)

    def split(self, tokens: Tensor) -> dict[str, Tensor]:
        """Rows of `tokens` (B, fields * length) -> text field -> int64 (B, length)."""
        rows = tokens.view(len(tokens), len(self.config.text_fields), self.config.length)
        return {name: rows[:, i] for i, name in enumerate(self.config.text_fields)}

    def pixels(self, images: Tensor) -> dict[str, Tensor]:
        """Images uint8 (B, cameras, H, W, 3) -> the image fields that the model takes."""
        pictures = as_pictures(images, self.config.image_size)
        found = self.processor.image_processor(pictures, return_tensors="pt")
        return {name: found[name] for name in self.config.image_fields}


def as_pictures(images: Tensor, size: int | None) -> list[list[Image.Image]]:
    """Images uint8 (B, cameras, H, W, 3) -> B lists of RGB pictures, `size` pixels squared."""
    batch, cameras = images.shape[:2]
    flat = images.flatten(0, 1)
    if size is not None and tuple(flat.shape[1:3]) != (size, size):
        channels_first = flat.permute(0, 3, 1, 2).float()
        scaled = functional.interpolate(
            channels_first, (size, size), mode="bilinear", antialias=True, align_corners=False
        )
        flat = scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    pictures = [Image.fromarray(picture.contiguous().cpu().numpy()) for picture in flat]
    return [pictures[i * cameras : (i + 1) * cameras] for i in range(batch)]


def encode(processor: Any, text: str, pictures: list[list[Image.Image]]) -> dict[str, Tensor]:
    """One prompt and its pictures through a processor: name -> tensor, without labels."""
    found = processor(text=[text], images=pictures, return_tensors="pt")
    return {name: value for name, value in found.items() if name != _LABELS}


def pin_preprocessor(
    request: BackboneRequest, processor: Any, cameras: tuple[CameraSpec, ...],
    files: tuple[str, ...],
) -> VlmPreprocessorConfig:  # fmt: skip
    """What `preprocessor.json` says of a processor and its files' names. Raises BackboneError."""
    base = PreprocessorConfig(cameras=cameras, vocabulary=(), max_tokens=request.instruction_tokens)
    pad_id = int(processor.tokenizer.pad_token_id or 0)
    return asking(
        request.source,
        lambda: pinned_config(processor, base, request.question, request.image_size, files, pad_id),
    )


def pinned_config(
    processor: Any, base: PreprocessorConfig, question: str, image_size: int | None,
    files: tuple[str, ...], pad_id: int,
) -> VlmPreprocessorConfig:  # fmt: skip
    """What `preprocessor.json` pins, found by running the processor once on blank pictures.

    base: cameras and max_tokens. Raises ValueError when the processor does not fit the cameras.
    """
    camera, count = base.cameras[0], len(base.cameras)
    blank = torch.zeros((1, count, camera.height, camera.width, 3), dtype=torch.uint8)
    prompt = build_prompt(processor, count, question)
    encoded = encode(processor, prompt.replace(GOAL, ""), as_pictures(blank, image_size))
    shape = encoded["input_ids"].shape
    text = [k for k, v in encoded.items() if v.shape == shape and k != "input_ids"]
    seen = processor.image_processor(as_pictures(blank, image_size), return_tensors="pt")
    mixed = sorted(k for k, v in encoded.items() if v.shape != shape and k not in seen)
    if mixed:
        raise ValueError(
            f"its input {mixed} depends on text and pictures together, which is not supported; "
            "choose a model that puts image tokens into the text"
        )
    image_token_id = int(processor.image_token_id)
    return VlmPreprocessorConfig(
        cameras=base.cameras, max_tokens=base.max_tokens, files=files, prompt=prompt,
        image_size=image_size, text_fields=("input_ids", *sorted(text)),
        image_fields=tuple(sorted(k for k, v in encoded.items() if v.shape != shape)),
        length=shape[1] + base.max_tokens, pad_id=pad_id, image_token_id=image_token_id,
        image_tokens=int((encoded["input_ids"] == image_token_id).sum()),
    )  # fmt: skip


def build_prompt(processor: Any, cameras: int, question: str) -> str:
    """The prompt with placeholders: by the model's chat template, else pictures before text."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}] * cameras + [{"type": "text", "text": question}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return str(prompt)
    return str(processor.image_token) * cameras + question
