"""The embodied foundation model: one frozen-able backbone, two heads, two questions.

"Self-Improving Embodied Foundation Models" (arXiv 2509.15155), section 3: which action, and how
many steps to go, given an observation and an instruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from efm_model.backbone import build_backbone, feature_size
from efm_model.config import ModelConfig
from efm_model.decoding import Drawn
from efm_model.heads import ActionHead, StepsToGoHead
from efm_model.preprocess import Preprocessor

if TYPE_CHECKING:
    from efm_model.vlm_token_heads import TokenActionHead, TokenStepsToGoHead


class EmbodiedModel(nn.Module):
    """Backbone (`trunk`) and heads (`action_head`, `steps_to_go_head`) of one checkpoint.

    Attributes: `config` (ModelConfig), `preprocessor` (Preprocessor). Heads work on features, so a
    trainer with a frozen trunk computes `features` once per image and never again.
    """

    def __init__(self, config: ModelConfig, preprocessor: Preprocessor) -> None:
        super().__init__()
        if config.cameras != preprocessor.config.cameras:
            raise ValueError(
                f"config.json cameras {config.cameras} differ from preprocessor.json's "
                f"{preprocessor.config.cameras}; the two files are of different checkpoints"
            )
        self.config = config
        self.preprocessor = preprocessor
        self.trunk = build_backbone(config, preprocessor.config, preprocessor)
        self._build_heads(config)

    def _build_heads(self, config: ModelConfig) -> None:
        self.action_head: ActionHead | TokenActionHead
        self.steps_to_go_head: StepsToGoHead | TokenStepsToGoHead
        if config.transformers is not None and config.transformers.tokens is not None:
            from efm_model.vlm_token_heads import TokenActionHead, TokenStepsToGoHead

            trunk: Any = self.trunk
            self.action_head = TokenActionHead(trunk, config.action_space)
            self.steps_to_go_head = TokenStepsToGoHead(trunk)
            return
        size = feature_size(self.trunk)
        self.action_head = ActionHead(size, config.action_space, config.heads)
        self.steps_to_go_head = StepsToGoHead(size, config.steps_to_go, config.heads)

    def freeze_trunk(self) -> None:
        """No gradient reaches the backbone any more, and `train()` leaves it in eval mode."""
        self.trunk.requires_grad_(False)
        self.trunk.eval()

    @property
    def trunk_frozen(self) -> bool:
        """Whether no parameter of the backbone takes a gradient."""
        return not any(p.requires_grad for p in self.trunk.parameters())

    def train(self, mode: bool = True) -> EmbodiedModel:
        """As `nn.Module.train`, except that a frozen trunk stays in eval mode."""
        frozen = self.trunk_frozen
        super().train(mode)
        if frozen:
            self.trunk.eval()
        return self

    @property
    def rows_per_pass(self) -> int | None:
        """Observations that heads pass through a large model at a time; None: heads are small."""
        rows: int | None = getattr(self.trunk, "rows_per_pass", None)
        return rows

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of both heads."""
        yield from self.action_head.parameters()
        yield from self.steps_to_go_head.parameters()

    def features(
        self, images: Tensor | NDArray[np.uint8], tokens: Tensor | NDArray[np.int64]
    ) -> Tensor:
        """Images uint8 (B, cameras, H, W, 3), word ids int64 (B, L) -> features float32 (B, F).

        Raises ValueError when the image array does not fit the checkpoint's cameras.
        """
        pixels, words = torch.as_tensor(images), torch.as_tensor(tokens)
        camera = self.config.cameras[0]
        expected = (len(self.config.cameras), camera.height, camera.width, 3)
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != expected:
            raise ValueError(
                f"images are {pixels.dtype} {tuple(pixels.shape)}, expected uint8 (B, *{expected})"
            )
        if self.trunk_frozen:
            with torch.no_grad():
                result: Tensor = self.trunk(pixels, words)
        else:
            result = self.trunk(pixels, words)
        return result

    def action_logits(self, features: Tensor, bins: Tensor) -> Tensor:
        """Features (B, F), true tokens int64 (B, T) -> teacher-forced logits (B, T, M)."""
        return self.action_head.logits(features, bins)

    def steps_to_go_logits(self, features: Tensor) -> Tensor:
        """Features (B, F) -> logits over steps-to-go bins (B, count)."""
        result: Tensor = self.steps_to_go_head(features)
        return result

    def sample(
        self, features: Tensor, draws: NDArray[np.float64], temperature: float
    ) -> Drawn:
        """Draw tokens from given uniform numbers; see `draw_tokens` for the contract.

        features (B, F), draws float64 (B, T) -> bins int64 (B, T), log-probability in nats
        float64 (B,), entropy in nats, averaged over tokens, float64 (B,). Use in eval mode:
        dropout would sample from another distribution than the one deployed.
        """
        return self.action_head.sampler()(features, draws, temperature)

    def log_prob(
        self, features: Tensor, bins: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """The same distribution with gradients: features (B, F), bins int64 (B, T).

        Returns the log-probability in nats of the tokens, summed over them (B,), and the entropy
        in nats of the conditional distributions, averaged over tokens (B,); float32.
        Raises ValueError for temperature 0: the greedy distribution has no gradient.
        """
        token_log_prob, entropy = self.token_log_prob(features, bins, temperature)
        return token_log_prob.sum(dim=1), entropy

    def token_log_prob(
        self, features: Tensor, bins: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """As `log_prob`, but per token (B, T): for ratios that are clipped token by token."""
        if not temperature > 0.0:
            raise ValueError(f"temperature={temperature} must be above zero for log_prob")
        log_p = torch.log_softmax(self.action_logits(features, bins) / temperature, dim=-1)
        chosen = log_p.gather(-1, bins.unsqueeze(-1)).squeeze(-1)
        finite = log_p.masked_fill(~self.action_head.legal, 0.0)
        entropy = -(finite.exp() * finite * self.action_head.legal).sum(-1).mean(-1)
        return chosen, entropy
