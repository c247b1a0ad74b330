"""`efm bags`: info, check and recover recorded episodes; cut episodes; the cache of training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efm_core.cutting import CutEpisode

SKIPPED = 3


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
    cut = actions.add_parser("cut", help="cut episodes out of ordinary rosbag2 recordings")
    cut.add_argument("mapping", type=Path, help="what in them is what: docs/cutting.md")
    cut.add_argument("path", type=Path, nargs="+", metavar="bag", help="recordings")
    cut.add_argument("--data-set", required=True, help="folder below the fleet's data_dir")
    cut.add_argument("--fleet", type=Path, help="fleet description (default: shipped)")
    cache = actions.add_parser("cache", help="what training keeps of the bags it has read")
    cache.add_argument("--clear", action="store_true", help="delete it; training makes it anew")


def run(args: argparse.Namespace) -> int:
    """Carry out one action on every path."""
    if args.action == "cut":
        return _cut(args)
    if args.action == "cache":
        return _cache(args.clear)
    for path in args.path:
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder; give an episode or a folder of them")
    if args.action == "recover":
        return _recover(args.path)
    episodes = [episode for path in args.path for episode in _episodes(path)]
    if not episodes:
        raise FileNotFoundError(
            f"{args.path[0]}: holds no episode (a folder with episode.json); `efm bags cut` makes "
            "episodes from other recordings, see docs/cutting.md"
        )
    if args.action == "check":
        return _check(episodes)
    if len(episodes) == 1 and not _is_foreign(episodes[0]):
        return _tell_all(episodes[0])
    for episode in episodes:
        if _is_foreign(episode):
            _tell_foreign(episode)
        else:
            print(_summary(episode))
    return 0


def _episodes(path: Path) -> list[Path]:
    """The episode at `path`, or all below it (data root or data set)."""
    if (path / "episode.json").is_file() or (path / "metadata.yaml").is_file():
        return [path]
    files = sorted(path.rglob("episode.json"))
    return [file.parent for file in files if file.parent.suffix != ".partial"]


def _is_foreign(path: Path) -> bool:
    """A bag without an episode's record; an unfinished episode of ours is not one."""
    return path.suffix != ".partial" and not (path / "episode.json").exists()


def _tell_foreign(path: Path) -> None:
    from efm_core.cutting.foreign import ForeignBag

    with ForeignBag(path) as bag:
        print(f"{path}: a recording, not an episode; it holds")
        for topic, (kind, count) in sorted(bag.topics.items()):
            print(f"{count:6}  {topic}  ({kind})")
    print(
        f"To learn from it: `efm bags cut MAPPING.yaml {path} --data-set NAME --fleet FILE`, "
        "with a mapping as in docs/cutting.md"
    )


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


def _cache(clear: bool) -> int:
    from efm_model.onnx_trunk import cache_dir
    from efm_trainer.episode_cache import EpisodeCache

    cache = EpisodeCache(cache_dir() / "episodes")
    count, taken = cache.size()
    print(f"{cache.directory}: {count} episodes, {taken / 1e6:.1f} MB")
    if clear:
        cache.clear()
        print("cleared")
    return 0


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


def _cut(args: argparse.Namespace) -> int:
    """Cut what is not cut yet; 3 when anything was skipped."""
    from efm_bringup.installed import share
    from efm_bringup.progress_line import ProgressLine
    from efm_core.cutting import CutJob, MappingError, cut_bags, load_mapping
    from efm_core.fleet import load_fleet

    fleet = load_fleet(args.fleet or share("config/fleet.yaml"))
    mapping = load_mapping(args.mapping)
    job = CutJob(
        mapping, fleet.robot(mapping.robot), fleet.data_dir / args.data_set, fleet.name,
        round(fleet.reserve_mb * 1e6),
    )  # fmt: skip
    line = ProgressLine("  cutting: message")
    found: list[CutEpisode] = []
    try:
        for episode in cut_bags(job, args.path, line.show):
            found.append(episode)
            if sys.stdout.isatty():  # over the line that says how far it is
                print("\r\x1b[K", end="")
            print(f"  {_cut_line(episode)}")
    except MappingError as error:
        raise MappingError(f"{args.mapping}: {error}") from error
    skipped = sum(bool(episode.reason) for episode in found)
    known = sum(episode.known for episode in found)
    print(
        f"{len(found) - skipped - known} episodes cut to {job.data_set}, {known} were there, "
        f"{skipped} skipped"
    )
    unknown = sum(e.plan is not None and e.plan.record.outcome.value == "unknown" for e in found)
    if unknown:
        print(
            f"{unknown} of them nobody judged: they teach nothing in `efm train sft`; say success "
            "in the mapping (docs/cutting.md)"
        )
    return SKIPPED if skipped else 0


def _cut_line(episode: CutEpisode) -> str:
    where = f"{episode.bag.name} {max(episode.start_s, 0.0):.2f} s to {episode.end_s:.2f} s"
    plan = episode.plan
    if plan is None:
        return f"{where}: skipped, {episode.reason}"
    record = plan.record
    text = f"{where}: {record.episode_id}, {record.ticks} ticks, {record.outcome.value}"
    for number, what in (
        (plan.missing, f"control periods missing in {plan.gaps} gaps"),
        (plan.unpaired, "pictures without those of other cameras"),
        (plan.stateless, "observations without joints or pose left out"),
        (len(plan.rows) - 1 - int(plan.commanded.sum()), "ticks without a command"),
        (plan.beyond, "commands beyond the action space's limits"),
    ):
        text += f", {number} {what}" if number else ""
    return text + (" (was there)" if episode.known else "")
