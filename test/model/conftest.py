from __future__ import annotations

import numpy as np
import pytest
import torch

from efm_core.actions import ActionDim, ActionSpace
from efm_core.observation import Observation
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import CameraSpec, HeadConfig, ModelConfig, SmallBackboneConfig
from efm_model.model import EmbodiedModel
from efm_model.preprocess import Preprocessor, PreprocessorConfig

SIDE = 16


def make_model(seed: int = 0, chunk: int = 1, cameras: int = 1) -> EmbodiedModel:
    specs = tuple(CameraSpec(name=f"cam{i}", width=SIDE, height=SIDE) for i in range(cameras))
    preprocessor = Preprocessor(
        PreprocessorConfig(cameras=specs, vocabulary=("push", "red", "blue"), max_tokens=6)
    )
    config = ModelConfig(
        small=SmallBackboneConfig(resolution=SIDE, vocabulary=5, max_tokens=6),
        cameras=specs,
        action_space=ActionSpace(
            dims=(
                ActionDim(name="x", unit="m", low=-0.02, high=0.02, bins=5),
                ActionDim(name="y", unit="m", low=-0.02, high=0.02, bins=3),
            ),
            chunk=chunk,
        ),
        steps_to_go=StepsToGoBins(count=8),
        heads=HeadConfig(hidden=32, token_width=16),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EmbodiedModel(config, preprocessor)
    return model.eval()


def pictures(count: int, cameras: int = 1, seed: int = 0) -> list[Observation]:
    rng = np.random.default_rng(seed)
    words = ("push red", "push blue", "red blue push")
    return [
        Observation(
            {
                f"cam{c}": rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                for c in range(cameras)
            },
            words[i % 3],
        )
        for i in range(count)
    ]


@pytest.fixture
def model() -> EmbodiedModel:
    return make_model()
