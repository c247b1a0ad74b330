"""What a checkpoint says about its network: cameras, backbone, action space, bins and heads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from efm_core.actions import ActionSpace
from efm_core.steps_to_go import StepsToGoBins
from efm_model.vlm_config import TransformersConfig

_NAME = r"^[a-z][a-z0-9_]*$"


class CameraSpec(BaseModel):
    """One camera as the network expects it: topic name and image size in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=_NAME)] = "front"
    width: Annotated[int, Field(ge=16, le=4096)] = 64
    height: Annotated[int, Field(ge=16, le=4096)] = 64


class SmallBackboneConfig(BaseModel):
    """Sizes of the small vision-language backbone (`efm_model.trunk.SmallTrunk`).

    resolution: images are resampled to this many pixels squared inside the network (multiple of 4).
    vocabulary: number of word ids, padding (0) and unknown (1) included.
    max_tokens: words of an instruction that are read.
    stem, fine, width: channels at 1/2 resolution (twice) and at 1/4 resolution.
    blocks: residual convolutions at 1/4 resolution, each conditioned on language (FiLM).
    words, language: width of a word embedding and of a role vector.
    free_maps: language-queried attention maps without a target of their own.
    features: size of the feature vector per camera that the heads see.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resolution: Annotated[int, Field(ge=16, le=512, multiple_of=4)] = 64
    vocabulary: Annotated[int, Field(ge=3)] = 64
    max_tokens: Annotated[int, Field(ge=2, le=64)] = 16
    stem: Annotated[int, Field(ge=4, multiple_of=4)] = 24
    fine: Annotated[int, Field(ge=4, multiple_of=4)] = 32
    width: Annotated[int, Field(ge=8, multiple_of=4)] = 48
    blocks: Annotated[int, Field(ge=0, le=8)] = 2
    words: Annotated[int, Field(ge=4)] = 32
    language: Annotated[int, Field(ge=4)] = 48
    free_maps: Annotated[int, Field(ge=0)] = 4
    features: Annotated[int, Field(ge=64)] = 128


class HeadConfig(BaseModel):
    """Sizes of the two trainable heads: one perceptron each on the backbone's features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: Annotated[int, Field(ge=8)] = 256
    token_width: Annotated[int, Field(ge=8)] = 128
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1


class ModelConfig(BaseModel):
    """`config.json` of a checkpoint. The control rate and the chunk stand in `action_space`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    backbone: Annotated[str, Field(pattern=_NAME)] = "small"
    small: SmallBackboneConfig = SmallBackboneConfig()
    transformers: TransformersConfig | None = None
    cameras: Annotated[tuple[CameraSpec, ...], Field(min_length=1)] = (CameraSpec(),)
    action_space: ActionSpace
    steps_to_go: StepsToGoBins = StepsToGoBins()
    heads: HeadConfig = HeadConfig()

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Checkpoints of the small backbone are written as before there was another one."""
        fields: dict[str, Any] = handler(self)
        if self.transformers is None:
            fields.pop("transformers", None)
        return fields

    @model_validator(mode="after")
    def _cameras_fit_together(self) -> ModelConfig:
        names = [camera.name for camera in self.cameras]
        if len(set(names)) != len(names):
            raise ValueError(f"camera names repeat: {names}; each must be unique")
        sizes = {(camera.width, camera.height) for camera in self.cameras}
        if len(sizes) > 1:
            raise ValueError(f"cameras differ in size: {sorted(sizes)}; give all the same size")
        return self
