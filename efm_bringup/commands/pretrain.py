"""`efm pretrain`: make the small backbone's weights from rendered scenes."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain"), help="resumable")
    parser.add_argument("--scenes", type=int, default=65536, help="training scenes to render")
    parser.add_argument("--epochs", type=int, default=None, help="default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="rendering processes")
    parser.add_argument("--threads", type=int, default=1, help="of torch; part of the recipe")


def run(args: argparse.Namespace) -> int:
    """Render what is missing, train, measure the gate; 1 when the gate is missed."""
    from efm_bringup.progress_line import ProgressLine
    from efm_bringup.scene_source import RenderedScenes
    from efm_model.pretrain import PretrainConfig, Progress, pretrain

    source = RenderedScenes(args.out / "scenes", args.scenes, args.seed, args.workers)
    line = ProgressLine("rendering: scene")
    source.render(line.show)

    def report(progress: Progress) -> None:
        losses = ", ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
        print(
            f"epoch {progress.epoch}/{progress.epochs}, {progress.seconds:.0f} s, about "
            f"{progress.eta_seconds:.0f} s left: {losses}",
            flush=True,
        )
        for name, kinds in progress.errors_mm.items():
            print(f"  {name}: {_errors(kinds)}", flush=True)

    given = {} if args.epochs is None else {"epochs": args.epochs}
    config = PretrainConfig(seed=args.seed, **given)
    gate = pretrain(config, source, args.out / "weights", report, args.threads)
    for name, kinds in gate["errors"].items():
        print(f"{name}: {_errors(kinds)}")
    print(f"weights in {args.out / 'weights'}; the gate is {_verdict(gate['passed'])}")
    return 0 if gate["passed"] else 1


def _errors(kinds: dict[str, dict[str, float]]) -> str:
    return ", ".join(
        f"{kind} {figures['median_mm']:.1f} mm (90 %: {figures['p90_mm']:.1f})"
        for kind, figures in kinds.items()
    )


def _verdict(passed: bool) -> str:
    return "passed" if passed else "MISSED: practice is likely to bring little"
