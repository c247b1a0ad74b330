"""One process of a fine-tuning on made-up features; test_distributed.py starts several of it."""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from trainer.toy import toy_model

from efm_model.model import EmbodiedModel
from efm_trainer.distributed import ALONE, World, join_world
from efm_trainer.samples import SftSamples
from efm_trainer.sft import fine_tune
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_state import head_weights

CONFIG = SftConfig(
    steps=30, batch=16, feature_noise=0.1, validate_every=10, save_every=5, warmup=5
)


def made_up(seed: int = 0, rows: int = 64) -> SftSamples:
    rng = np.random.default_rng(seed)
    return SftSamples(
        features=rng.normal(size=(rows, 96)).astype(np.float32),
        bins=rng.integers(0, 5, (rows, 2)), steps=rng.integers(0, 20, rows), episodes=4,
    )  # fmt: skip


def forgetful_model() -> EmbodiedModel:
    """A toy model whose heads drop out."""
    model = toy_model()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    return model


def train(run_dir: Path, world: World = ALONE, seed: int = 0, pause: float = 0.0) -> EmbodiedModel:
    """pause: seconds per step from the 12th on, so that somebody can come in between."""
    model, steps = forgetful_model(), 0

    def cancelled() -> bool:
        nonlocal steps
        steps += 1
        time.sleep(pause if steps >= 12 else 0.0)
        return False

    fine_tune(model, made_up(seed), made_up(9), CONFIG, run_dir, cancelled=cancelled, world=world)
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--other-data", action="store_true", help="on every rank but 0")
    parser.add_argument("--late", action="store_true", help="rank 1 never comes to a meeting")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with join_world(patience_s=3.0 if args.late else 60.0) as world:
        if args.late and world.rank == 1:
            time.sleep(60.0)
        seed = world.rank if args.other_data else 0
        model = train(args.run_dir, world, seed, args.pause)
        name = f"rank{os.environ.get('RANK', 'none')}.safetensors"
        save_file(head_weights(model), args.run_dir / name)


if __name__ == "__main__":
    main()
