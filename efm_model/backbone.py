"""The seam for vision-language backbones: images and words in, a feature vector out.

A backbone is chosen by `ModelConfig.backbone`: the small one of this project, or any model for
images and text of `transformers` (docs/backbones.md). Another one is one class with this protocol
and one entry in `BACKBONES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from efm_model.config import ModelConfig
from efm_model.preprocess import Preprocessor, PreprocessorConfig
from efm_model.trunk import SmallTrunk


@runtime_checkable
class Backbone(Protocol):
    """What every backbone offers; implementations are also `torch.nn.Module`s.

    name: the value of `ModelConfig.backbone` that selects it.
    feature_size: features per observation.
    """

    name: str
    feature_size: int

    def __call__(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Images uint8 (B, cameras, H, W, 3), tokens int64 (B, L) -> float32 (B, feature_size)."""
        ...


Builder = Callable[[ModelConfig, PreprocessorConfig, "Preprocessor | None"], nn.Module]


def _small(
    config: ModelConfig, preprocessor: PreprocessorConfig, _: Preprocessor | None
) -> nn.Module:
    expected = (len(preprocessor.vocabulary) + 2, preprocessor.max_tokens)
    found = (config.small.vocabulary, config.small.max_tokens)
    if expected != found:
        raise ValueError(
            f"config.json: small.vocabulary, small.max_tokens = {found} differ from "
            f"preprocessor.json's {expected}; the two files are of different checkpoints"
        )
    return SmallTrunk(
        config.small, len(config.cameras), mean=preprocessor.mean, std=preprocessor.std
    )


def _transformers(
    config: ModelConfig, _: PreprocessorConfig, owner: Preprocessor | None
) -> nn.Module:
    from efm_model.vlm_weights import build_trunk  # loads transformers: seconds, for those who ask

    if owner is None:
        raise ValueError("backbone 'transformers' needs the preprocessor with its files")
    return build_trunk(config, owner)


BACKBONES: dict[str, Builder] = {"small": _small, "transformers": _transformers}


def build_backbone(
    config: ModelConfig, preprocessor: PreprocessorConfig, owner: Preprocessor | None = None
) -> nn.Module:
    """The backbone that `config.backbone` names: random weights, or those that belong to `owner`.

    owner: the preprocessor itself; a backbone of files of its own finds them through it.
    Raises ValueError for an unknown name, listing the known ones.
    """
    if config.backbone not in BACKBONES:
        raise ValueError(
            f"config.json: backbone '{config.backbone}' is unknown, this version has "
            f"{sorted(BACKBONES)}; install the version that wrote the checkpoint"
        )
    return BACKBONES[config.backbone](config, preprocessor, owner)


def feature_size(backbone: nn.Module) -> int:
    """Features per observation of a module that follows `Backbone`."""
    return cast(Backbone, backbone).feature_size
