"""Observation -> arrays for the network: the same object in training and on the robot."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from efm_core.observation import Observation
from efm_model.config import CameraSpec

PADDING, UNKNOWN = 0, 1
_WORD = re.compile(r"[a-z0-9]+")


def split_words(instruction: str) -> list[str]:
    """Lower-case words and numbers of an instruction; punctuation separates and is dropped."""
    return _WORD.findall(instruction.lower())


def build_vocabulary(texts: Iterable[str]) -> tuple[str, ...]:
    """All words of `texts`, sorted: the ids 2, 3, ... of a `Preprocessor`."""
    return tuple(sorted({word for text in texts for word in split_words(text)}))


class PreprocessorConfig(BaseModel):
    """`preprocessor.json`: everything between a camera message and the network's input.

    vocabulary: words with ids 2, 3, ... (0 pads, 1 stands for every unknown word).
    max_tokens: instructions are cut to and padded to this many words.
    mean, std: per RGB channel, in units of uint8 / 255; applied inside the network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cameras: Annotated[tuple[CameraSpec, ...], Field(min_length=1)] = (CameraSpec(),)
    vocabulary: tuple[Annotated[str, Field(pattern=r"^[a-z0-9]+$")], ...]
    max_tokens: Annotated[int, Field(ge=2, le=64)] = 16
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)

    @model_validator(mode="after")
    def _is_usable(self) -> PreprocessorConfig:
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("preprocessor vocabulary repeats a word; each must stand once")
        if not all(np.isfinite(self.mean)) or not all(s > 0 and np.isfinite(s) for s in self.std):
            raise ValueError(
                f"preprocessor normalisation mean={self.mean} std={self.std} is not finite and "
                "positive; restore preprocessor.json from the checkpoint's origin"
            )
        return self


class Preprocessor:
    """Checks images against the checkpoint's cameras and turns instructions into word ids."""

    def __init__(self, config: PreprocessorConfig) -> None:
        self.config = config
        self._ids = {word: index + 2 for index, word in enumerate(config.vocabulary)}
        self._known: dict[str, NDArray[np.int64]] = {}

    @property
    def vocabulary_size(self) -> int:
        """Number of word ids, padding and unknown included."""
        return len(self._ids) + 2

    def images(self, images: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Camera name -> uint8 (H, W, 3) RGB, to one uint8 (cameras, H, W, 3) in config order.

        Further cameras are ignored. Raises ValueError naming the camera and the field when one is
        missing or has another dtype or size than the checkpoint expects.
        """
        return np.stack([self._image(camera, images) for camera in self.config.cameras])

    def _image(
        self, camera: CameraSpec, images: Mapping[str, NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        if camera.name not in images:
            raise ValueError(
                f"camera '{camera.name}' is missing, the observation has {sorted(images)}; name "
                "the robot's cameras as the checkpoint's config.json does"
            )
        image = images[camera.name]
        expected = (camera.height, camera.width, 3)
        if image.dtype != np.uint8 or image.shape != expected:
            raise ValueError(
                f"camera '{camera.name}': image is {image.dtype} {image.shape}, the checkpoint "
                f"expects uint8 {expected} RGB; set the camera to that size or train for yours"
            )
        return image

    def tokens(self, instruction: str) -> NDArray[np.int64]:
        """Instruction -> word ids, int64 (max_tokens,), padded with 0; unknown words become 1.

        Raises ValueError for an instruction without any word: the goal is unknown.
        """
        known = self._known.get(instruction)
        if known is not None:
            return known
        words = split_words(instruction)[: self.config.max_tokens]
        if not words:
            raise ValueError(f"instruction {instruction!r} holds no word; publish a goal first")
        result = np.full(self.config.max_tokens, PADDING, dtype=np.int64)
        result[: len(words)] = [self._ids.get(word, UNKNOWN) for word in words]
        result.flags.writeable = False
        if len(self._known) < 4096:  # bounds memory when instructions come from people
            self._known[instruction] = result
        return result

    def unknown_words(self, instruction: str) -> list[str]:
        """Words of an instruction that the vocabulary lacks, for warnings."""
        return [word for word in split_words(instruction) if word not in self._ids]

    def batch(
        self, observations: Sequence[Observation]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """N observations -> images uint8 (N, cameras, H, W, 3) and tokens int64 (N, max_tokens)."""
        images = np.stack([self.images(o.images) for o in observations])
        return images, np.stack([self.tokens(o.instruction) for o in observations])

    def to_json(self) -> str:
        """The text of `preprocessor.json`; `from_json` restores an equal object."""
        return json.dumps(self.config.model_dump(mode="json"), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Preprocessor:
        """Inverse of `to_json`; raises pydantic.ValidationError naming the field."""
        return cls(PreprocessorConfig.model_validate_json(text))

    @classmethod
    def load(cls, path: Path) -> Preprocessor:
        """Read `preprocessor.json` at `path`; its field `kind` chooses the class.

        Raises pydantic.ValidationError naming the field.
        """
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text)
        if isinstance(fields, dict) and fields.get("kind") == "transformers":
            from efm_model.vlm_prompt import VlmPreprocessor, VlmPreprocessorConfig

            config = VlmPreprocessorConfig.model_validate(fields)
            return VlmPreprocessor(config, path.parent / "backbone")
        return cls.from_json(text)
