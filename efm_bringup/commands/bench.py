"""`efm bench`: measure one part of the suite, keep the figures, make the page of them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efm_bringup.bench.result import BenchResult, Finding
    from efm_bringup.bench.timing import Shown

PAGE = Path("docs") / "performance.md"
RESULTS = Path("docs") / "performance"


@dataclass(frozen=True, slots=True)
class _Bench:
    """summary: for --help. options: flag -> (default, help). measure: options -> figures."""

    summary: str
    options: dict[str, tuple[Any, str]]
    measure: Callable[[argparse.Namespace, Shown], Finding]


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parts = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, bench in _BENCHES.items():
        part = parts.add_parser(
            name, help=bench.summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        for option, (default, words) in bench.options.items():
            many = isinstance(default, tuple)
            kind = type(default[0] if many else default)
            extra: dict[str, Any] = {"nargs": "*"} if many else {}
            part.add_argument(f"--{option}", default=default, type=kind, help=words, **extra)
        part.add_argument("--json", action="store_true", help="print one JSON object")
        part.add_argument("--write", action="store_true", help="keep the figures as WHAT.json")
        _add_out(part)
    _add_out(parts.add_parser("page", help=f"make {PAGE} from the figures that were kept"))
    learning = parts.add_parser("learning", help="does practice help? runs of a protocol")
    presets = ("fast", "standard", "stress", "reset-free")
    learning.add_argument("--preset", choices=presets, default="fast")
    learning.add_argument("--part", choices=("dev", "test", "reserve"), default="dev")
    learning.add_argument("--arms", nargs="*", default=(), help="only these of the preset")
    learning.add_argument("--sizes", nargs="*", type=int, default=(), help="only these of it")
    learning.add_argument("--minutes", type=float, default=15.0, help="stop after about that")
    learning.add_argument("--out", type=Path, default=Path("docs") / "learning", metavar="DIR")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"folder of the figures; None: {RESULTS} here"
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print, or make the page."""
    if args.what == "page":
        return _page(args.out)
    if args.what == "learning":
        return _learning(args)
    folder = _folder(args.out) if args.write else None  # a bad folder is found out at once
    result = _measured(args)
    print(result.model_dump_json() if args.json else _text(result))
    if folder is not None:
        import sys

        from efm_bringup.bench.result import write_result

        path = write_result(folder, result)
        print(f"written to {path}; `efm bench page` makes the page", file=sys.stderr)
    return 0


def _measured(args: argparse.Namespace) -> BenchResult:
    import sys

    from efm_bringup.bench.machine import this_machine
    from efm_bringup.bench.result import BenchResult
    from efm_bringup.progress_line import ProgressLine

    machine = this_machine()
    line = ProgressLine(f"  bench {args.what}:", sys.stderr)
    finding = _BENCHES[args.what].measure(args, line.show)
    return BenchResult(
        what=args.what, command=command_line(args), machine=machine,
        measured=finding.measured, settings=finding.settings, figures=finding.figures,
    )  # fmt: skip


def command_line(args: argparse.Namespace) -> str:
    """What to type for the same measurement, defaults spelt out."""
    words = ["efm", "bench", args.what]
    for option in _BENCHES[args.what].options:
        value = getattr(args, option.replace("-", "_"))
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if values != [""]:
            words += [f"--{option}", *map(str, values)]
    return shlex.join([*words, "--write"])


def _text(result: BenchResult) -> str:
    from efm_bringup.bench.page import number

    lines = []
    for figure in result.figures:
        line = f"{figure.name:44} {number(figure.value):>10} {figure.unit}"
        if figure.p99 is not None:
            line += f", p99 {number(figure.p99)}"
        if figure.baseline:
            line += f" ({figure.baseline}: {number(figure.baseline_value)})"
        lines.append(line)
    return "\n".join(lines)


def _folder(out: Path | None) -> Path:
    """Where figures are kept. Raises ValueError outside a checkout when nothing is named."""
    if out is not None:
        return out
    root = Path(__file__).resolve().parents[2]
    if not (root / "setup.py").is_file():
        raise ValueError(f"this is no checkout with a {RESULTS}; name a folder with --out DIR")
    return root / RESULTS


def _page(out: Path | None) -> int:
    from efm_bringup.bench.page import page
    from efm_bringup.bench.result import read_results, write_atomically

    folder = _folder(out)
    path = folder.parent / f"{folder.name}.md"
    write_atomically(path, page(read_results(folder)))
    print(f"{path} made from {folder}")
    return 0


def _learning(args: argparse.Namespace) -> int:
    import sys

    from efm_bringup.learning.benchmark import run_benchmark

    def told(text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    done = run_benchmark(
        args.preset, args.part, args.out, args.minutes, told, args.arms, args.sizes
    )
    print(f"{args.out}: {'these runs are done' if done else 'the same command goes on'}")
    return 0


def _simulator(args: argparse.Namespace, shown: Shown) -> Finding:
    from efm_bringup.bench.simulator import measure_simulator

    return measure_simulator(shown)


def _bags(args: argparse.Namespace, shown: Shown) -> Finding:
    from efm_bringup.bench.bags import measure_bags

    disk = Path(args.disk) if args.disk else None
    return measure_bags(args.rounds, args.ticks, args.seed, disk, shown)


def _guard(args: argparse.Namespace, shown: Shown) -> Finding:
    from efm_bringup.bench.guard import measure_guard

    return measure_guard(args.rounds, args.actions, args.seed, shown)


def _inference(args: argparse.Namespace, shown: Shown) -> Finding:
    from efm_bringup.bench.inference import measure_inference

    return measure_inference(args.batches, args.rounds, args.seed, shown)


def _reward(args: argparse.Namespace, shown: Shown) -> Finding:
    from efm_bringup.bench.reward import measure_reward

    return measure_reward(args.rounds, seed=args.seed, shown=shown)


def _trainer(args: argparse.Namespace, shown: Shown) -> Finding:
    from efm_bringup.bench.trainer import measure_trainer

    return measure_trainer(args.rounds, args.episodes, args.episodes, args.seed, shown)


def _data(args: argparse.Namespace, shown: Shown) -> Finding:
    from efm_bringup.bench.data import measure_data

    return measure_data(args.rounds, args.episodes, args.seed, args.lerobot, shown)


def _command_path(args: argparse.Namespace, shown: Shown) -> Finding:
    from efm_bringup.bench.command_path import measure_command_path

    return measure_command_path(
        args.robots, args.seconds, args.lockstep, args.shared, args.seed, shown
    )


def _pointmass(args: argparse.Namespace, shown: Shown) -> Finding:
    from efm_bringup.bench.pointmass import measure_pointmass

    return measure_pointmass(args.seeds, args.rounds, args.demonstrations, shown)


_SEED: dict[str, tuple[Any, str]] = {"seed": (0, "of scenes, draws and weights")}


def _rounds(count: int) -> dict[str, tuple[Any, str]]:
    return {"rounds": (count, "timed rounds in which all works take turns")}


_BENCHES = {
    "simulator": _Bench("steps, scenes and demonstrations of the simulated world", {}, _simulator),
    "bags": _Bench(
        "writing and reading an episode",
        {**_rounds(60), "ticks": (40, "control ticks of the episode"),
         "disk": ("", "folder on the disk to measure (default: the temporary one)"), **_SEED},
        _bags,
    ),
    "guard": _Bench(
        "guard decisions, and the fuzz that looks for invalid commands",
        {**_rounds(100), "actions": (1_000_000, "fuzzed actions, 0 for none"), **_SEED},
        _guard,
    ),
    "inference": _Bench(
        "policy and reward model together",
        {"batches": ((1, 4, 8, 16), "robots answered at once"), **_rounds(200), **_SEED},
        _inference,
    ),
    "reward": _Bench("one tick of the reward model", {**_rounds(500), **_SEED}, _reward),
    "trainer": _Bench(
        "reading bags, features, fine-tuning and self-improvement",
        {**_rounds(20), "episodes": (10, "demonstrations, and as many practised episodes"),
         **_SEED},
        _trainer,
    ),
    "data": _Bench(
        "pictures for training: cache, bags, decoding alone",
        {**_rounds(20), "episodes": (20, "demonstrations of a 64-pixel camera; a quarter of them "
                                         "by a larger one"),
         "lerobot": ("", "Python of an environment with LeRobot (default: this one, if it has it)"),
         **_SEED},
        _data,
    ),
    "command-path": _Bench(
        "from a picture to its command: the whole stack in real time",
        {"robots": ((1, 4, 8), "fleet sizes"), "seconds": (20.0, "per fleet size"),
         "lockstep": ((1, 2, 4), "fleet sizes whose throughput in lockstep is measured too"),
         "shared": ((8,), "fleet sizes that run with one process per role too"),
         **_SEED},
        _command_path,
    ),
    "pointmass": _Bench(
        "the recipe on point masses, the smallest proof that practice works",
        {"seeds": (3, "from 0 on"), "rounds": (64, "of practice"),
         "demonstrations": (10_000, "to clone")},
        _pointmass,
    ),
}  # fmt: skip
"""Which benchmarks there are: the part's name -> what `efm bench` needs to know of it."""
