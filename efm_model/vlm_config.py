"""What is asked of, and what a checkpoint says about, a `transformers` vision-language backbone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

GOAL = "{instruction}"
"""Stands for the instruction in questions and prompts."""
QUESTION = f"The robot's task: {GOAL}"
"""What the model is told where nothing else is asked for."""

Dtype = Literal["float32", "bfloat16", "float16"]


def one_goal(text: str) -> str:
    """The text itself; raises ValueError unless it holds {instruction} exactly once."""
    if text.count(GOAL) != 1:
        raise ValueError(f"{text!r} must hold {GOAL} exactly once")
    return text


class BackboneRequest(BaseModel):
    """A vision-language model to start from, before anything of it was read.

    source: hub id, or a directory that `save_pretrained` wrote. revision: branch, tag or commit of
    a hub id, "" for its main branch. dtype: of the frozen weights; half precision halves memory,
    but then features depend on the batch in the third digit unless rows_per_pass is 1. image_size:
    pictures are resampled to this many pixels squared before the model's own image processor, None
    leaves that to it. question: what the model is told, with {instruction}; it is wrapped into the
    model's chat template. instruction_tokens: room for the instruction. rows_per_pass:
    observations in one forward pass. local_files_only: never ask the hub.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, Field(min_length=1)]
    revision: str = ""
    dtype: Dtype = "float32"
    image_size: Annotated[int, Field(ge=14, le=2048)] | None = None
    question: str = QUESTION
    instruction_tokens: Annotated[int, Field(ge=2, le=64)] = 32
    rows_per_pass: Annotated[int, Field(ge=1, le=512)] = 8
    local_files_only: bool = False

    _question = field_validator("question")(one_goal)


class AdapterConfig(BaseModel):
    """Low-rank matrices beside the language model's projections: W x + (alpha / rank) B A x.

    LoRA (arXiv 2106.09685). rank: of B A. alpha: how much they count, at any rank.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[float, Field(gt=0.0, le=4096.0)]


class AnswerTokens(BaseModel):
    """Ids of the model's own vocabulary that stand for answers (`efm_model.vlm_token_ids`).

    actions: bin b of any action dimension is actions[b]; a dimension of fewer bins uses the first
    of them. steps_to_go: one id per bin. ask_action, ask_steps_to_go: the question that ends the
    prompt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ask_action: Annotated[int, Field(ge=0)]
    ask_steps_to_go: Annotated[int, Field(ge=0)]
    actions: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2)]
    steps_to_go: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2)]

    @property
    def ids(self) -> tuple[int, ...]:
        """All of them."""
        return (self.ask_action, self.ask_steps_to_go, *self.actions, *self.steps_to_go)


class TransformersConfig(BaseModel):
    """`config.json` of a checkpoint, `transformers`: the frozen vision-language model.

    source: hub id, or the name of the directory it came from. revision: commit it was read at, ""
    where it was a directory. dtype, rows_per_pass: see `BackboneRequest`. features: size of the
    language model's hidden state, which is the feature vector. sha256: of the files below
    backbone/ (`vlm_files.folder_hash`). adapter: what was learnt beside the frozen weights, None
    where only the heads were; its matrices are `trunk.adapter.*` of model.safetensors. tokens: ids
    of the answers where they are tokens of the vocabulary, None where heads of their own give them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    revision: str = ""
    dtype: Dtype = "float32"
    features: Annotated[int, Field(ge=1)]
    rows_per_pass: Annotated[int, Field(ge=1, le=512)] = 8
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    adapter: AdapterConfig | None = None
    tokens: AnswerTokens | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Checkpoints without adapter or tokens are written as before there were any."""
        fields: dict[str, Any] = handler(self)
        for name in ("adapter", "tokens"):
            if getattr(self, name) is None:
                fields.pop(name, None)
        return fields
