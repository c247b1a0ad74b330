"""`efm bags`: info, check and recover recorded episodes."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in (
        ("info", "one line for each episode, or everything about one"),
        ("check", "verify episodes; exit 1 when one has a problem"),
        ("recover", "rewrite episodes cut by a crash (*.partial) as readable bags"),
    ):
        action = actions.add_parser(name, help=summary)
        action.add_argument("path", type=Path, nargs="+", help="episodes, or folders of them")


def run(args: argparse.Namespace) -> int:
    """Carry out one action on every path."""
    for path in args.path:
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder; give an episode or a folder of them")
    if args.action == "recover":
        return _recover(args.path)
    episodes = [episode for path in args.path for episode in _episodes(path)]
    if not episodes:
        raise FileNotFoundError(f"{args.path[0]}: holds no episode (a folder with episode.json)")
    if args.action == "check":
        return _check(episodes)
    if len(episodes) == 1:
        return _tell_all(episodes[0])
    for episode in episodes:
        print(_summary(episode))
    return 0


def _episodes(path: Path) -> list[Path]:
    """The episode at `path`, or all below it (data root or data set)."""
    if (path / "episode.json").is_file() or (path / "metadata.yaml").is_file():
        return [path]
    files = sorted(path.rglob("episode.json"))
    return [file.parent for file in files if file.parent.suffix != ".partial"]


def _summary(path: Path) -> str:
    from efm_core.bags import EpisodeReader

    record = EpisodeReader(path).record
    return (
        f"{record.episode_id}  {record.robot:8}  {record.mode.value:11} {record.ticks:4} ticks  "
        f"{record.outcome.value:11} {record.termination_reason:10} {record.instruction}"
    )


def _tell_all(path: Path) -> int:
    from collections import Counter

    from efm_core.bags import EpisodeReader, read_episode

    print(EpisodeReader(path).record.model_dump_json(indent=1, exclude={"topics"}))
    counts = Counter((topic, kind) for topic, kind, _, _ in read_episode(path))
    for (topic, kind), count in sorted(counts.items()):
        print(f"{count:6}  {topic}  ({kind})")
    return 0


def _check(episodes: list[Path]) -> int:
    from efm_core.bags import check_episode

    bad = 0
    for episode in episodes:
        problems = check_episode(episode)
        bad += bool(problems)
        for problem in problems:
            print(f"{episode}: {problem}")
    print(f"{len(episodes)} episodes, {bad} with problems")
    return 1 if bad else 0


def _recover(paths: list[Path]) -> int:
    from efm_core.bags import recover

    kept = lost = 0
    for path in paths:
        partial = [path] if path.suffix == ".partial" else sorted(path.rglob("*.partial"))
        for folder in partial:
            recovered = recover(folder)
            kept, lost = kept + (recovered is not None), lost + (recovered is None)
            print(f"{folder}: {recovered or 'holds no readable message; left as it is'}")
    print(f"{kept} recovered, {lost} could not be")
    return 3 if lost else 0
