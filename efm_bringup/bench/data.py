"""How fast observations come out of the cache, against decoding alone and the bags themselves."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from efm_bringup.bench import material
from efm_bringup.bench.lerobot_reader import LeRobotReader, find_lerobot
from efm_bringup.bench.result import Figure, Finding, Settings, rated
from efm_bringup.bench.timing import Shown, Spread, Work, alternate, spread
from efm_core import camera_pixels, messages
from efm_core.bags import EpisodeReader, EpisodeWriter, list_episodes
from efm_core.camera_description import CameraDescription
from efm_core.fleet import FleetDescription
from efm_core.steps_to_go import StepsToGoBins
from efm_core.topics import camera
from efm_model.config import CameraSpec
from efm_model.weights import pretrained_model
from efm_trainer.data import load_episodes
from efm_trainer.episode_cache import EpisodeCache
from efm_trainer.episode_data import EpisodeData
from efm_trainer.features import FeatureCache
from efm_trainer.sft import collect_samples
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_steps import SftRun
from efm_trainer.stored_pictures import Compressed

LIMIT = 150
JPEG_QUALITY = 90
BATCH = 32
STEPS = 20
SIZES = ((64, 64), (640, 480))
FEWEST = 10
"""Every fifth demonstration is for validation, and one may fail."""
_JPEG_TYPE = "sensor_msgs/msg/CompressedImage"

MEASURED = (
    "Demonstrations of the simulated robot, recorded as bags by a camera of the size named; "
    f"`JPEG`: the same pictures recorded compressed (quality {JPEG_QUALITY}). `random`: batches of "
    f"{BATCH} observations drawn over all episodes, out of the cache (files in the page cache, one "
    "thread) into one array; baseline: the same batches from the same bytes in memory by the same "
    "decoder (raw: copied), the upper bound; and LeRobot's data set, the same rows one by one out "
    "of its video (its default encoding); all on one core. `epoch`: every observation in order; "
    "baseline: reading and decoding the bags as training without a cache does. `start`: until all "
    "episodes can be drawn from, entries made before; baseline: the bags. `first start`: reading "
    "bags and making entries, in one process. `waiting`: share of a fine-tuning run on these "
    f"episodes ({SftConfig().steps} steps, of which {STEPS} are measured) that goes into `start` "
    "and `epoch` instead of computing."
)


@dataclass(frozen=True, slots=True)
class _Set:
    """One kind of recording: its name in the figures and its bags."""

    name: str
    paths: Sequence[Path]


def measure_data(
    rounds: int = 20,
    episodes: int = 20,
    seed: int = 0,
    lerobot: str = "",
    shown: Shown | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Finding:
    """Record `episodes` demonstrations per kind of camera and read them, `rounds` times.

    lerobot: Python of an environment with LeRobot, to be compared with; "" for this one, if it has
    it. sizes: width, height of the cameras in px; from the second on fewer demonstrations.
    Raises ValueError for an environment without LeRobot, RuntimeError when LeRobot fails.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rival = find_lerobot(lerobot)
    figures: list[Figure] = []
    settings: Settings = {"episodes": episodes, "rounds": rounds, "batch": BATCH, "seed": seed}
    if not rival:
        settings["LeRobot"] = "not installed, not compared with"
    with tempfile.TemporaryDirectory(prefix="efm-bench-") as name:
        for number, kind in enumerate(_record(Path(name), sizes, episodes, seed)):
            bench = _Reading(kind, Path(name) / "cache", seed)
            progress = _part(shown, number * rounds, 2 * len(sizes) * rounds)
            settings[f"frames, {kind.name}"] = bench.frames
            with ExitStack() as stack:
                works = bench.works()
                if rival:
                    reader = bench.video(rival, Path(name) / f"video{number}")
                    works["lerobot"] = stack.enter_context(reader)
                    settings["LeRobot"] = "{version}, {backend}".format_map(reader.facts)
                    stack.enter_context(_one_core(reader.pid))
                else:
                    stack.enter_context(_one_core())
                found = alternate(works, rounds, shown=progress)
            taken = {work: spread(samples) for work, samples in found.items()}
            figures += bench.figures(taken)
            figures.append(_waiting(kind, bench.cache, taken, seed))
    return Finding(measured=MEASURED, settings=settings, figures=tuple(figures))


@contextmanager
def _one_core(*others: int) -> Iterator[None]:
    """This process and `others` on one core: some decoders start as many threads as there are."""
    before = os.sched_getaffinity(0)
    for process in (0, *others):
        os.sched_setaffinity(process, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Reading:
    """The ways to the pictures of one set; `straight` has them in memory."""

    def __init__(self, kind: _Set, folder: Path, seed: int) -> None:
        self._name, self._paths, self._folder = kind.name, kind.paths, folder
        self.cache = EpisodeCache(folder, workers=1)
        begin = time.perf_counter()
        self._stored = _all(self.cache.load_episodes(kind.paths))
        self._first = time.perf_counter() - begin
        self.straight = _all(load_episodes(kind.paths))
        self.frames = sum(len(episode) for episode in self.straight)
        # One pool of rows, drawn before the clock runs: (episode, row).
        pool = [(e, row) for e, episode in enumerate(self.straight) for row in range(len(episode))]
        drawn = np.random.default_rng(seed).permutation(len(pool))
        self.rows = [pool[i] for i in drawn[: max(len(drawn) // BATCH, 1) * BATCH]]
        pairs = zip(kind.paths, self.straight, strict=True)
        self._decode = [_in_memory(path, episode) for path, episode in pairs]

    def works(self) -> dict[str, Work]:
        """By name; `upper` decodes the same rows from memory."""
        return {
            "random": lambda: self._batches(lambda e, row: self._stored[e].images["front"][row]),
            "upper": lambda: self._batches(lambda e, row: self._decode[e](row)),
            "epoch": lambda: _look(self._stored),
            "anew": lambda: _look(_all(load_episodes(self._paths))),
            "start": lambda: EpisodeCache(self._folder, workers=1).load_episodes(self._paths),
            "start anew": lambda: load_episodes(self._paths),
        }

    def video(self, python: str, folder: Path) -> LeRobotReader:
        """The same rows of the same pictures by LeRobot."""
        starts = np.cumsum([0, *(len(episode) for episode in self.straight)])
        pictures = [np.asarray(episode.images["front"]) for episode in self.straight]
        return LeRobotReader(python, folder, pictures, [starts[e] + row for e, row in self.rows])

    def figures(self, taken: dict[str, Spread]) -> list[Figure]:
        """Every rate beside its baseline."""
        name, rows, count = self._name, len(self.rows), len(self._paths)
        first = Spread(self._first, None, self._first, 1)
        found = [
            rated(f"{name}: random", "frames/s", rows, taken["random"], "decoding alone",
                  taken["upper"]),
            rated(f"{name}: epoch", "frames/s", self.frames, taken["epoch"], "bags anew",
                  taken["anew"]),
            rated(f"{name}: start", "episodes/s", count, taken["start"], "bags anew",
                  taken["start anew"]),
            rated(f"{name}: first start", "episodes/s", count, first, "bags anew",
                  taken["start anew"]),
        ]  # fmt: skip
        if "lerobot" in taken:
            found.append(rated(f"{name}: random, against video", "frames/s", rows,
                               taken["random"], "LeRobot", taken["lerobot"]))  # fmt: skip
        return found

    def _batches(self, picture: Callable[[int, int], NDArray[np.uint8]]) -> None:
        for start in range(0, len(self.rows), BATCH):
            np.stack([picture(e, row) for e, row in self.rows[start : start + BATCH]])


def _in_memory(path: Path, episode: EpisodeData) -> Callable[[int], NDArray[np.uint8]]:
    """Row -> picture, decoded from the recorded bytes where they are compressed."""
    topic = f"/{episode.record.robot}/{camera('front', True).name}"
    recorded = {}
    for _, kind, _, raw in EpisodeReader(path).messages([topic]):
        message = messages.deserialize(raw, kind)
        recorded[messages.stamp_of(message)] = bytes(message.data)
    if not recorded:
        return lambda row: episode.images["front"][row]
    data = [Compressed(recorded[int(stamp)]) for stamp in episode.stamps]
    return lambda row: camera_pixels.decode(data[row])


def _look(episodes: Sequence[EpisodeData]) -> None:
    for episode in episodes:
        pictures = episode.images["front"]
        for start in range(0, len(episode), BATCH):
            stop = min(start + BATCH, len(episode))
            np.stack([pictures[row] for row in range(start, stop)])


def _all(read: tuple[list[EpisodeData], Sequence[object]]) -> list[EpisodeData]:
    episodes, skipped = read
    if skipped:
        raise RuntimeError(f"an episode just recorded cannot be read: {skipped[0]}")
    return episodes


def _waiting(kind: _Set, cache: EpisodeCache, taken: dict[str, Spread], seed: int) -> Figure:
    """Share of a whole fine-tuning run in which nothing is computed, in %."""
    episodes = _all(cache.load_episodes(kind.paths))
    pictures = episodes[0].images["front"].shape
    size = CameraSpec(width=pictures[2], height=pictures[1])
    model = pretrained_model(episodes[0].space, (size,), StepsToGoBins(), seed=seed)
    begin = time.perf_counter()
    samples = collect_samples(FeatureCache(model, backend="auto"), episodes, SftConfig())
    computed = time.perf_counter() - begin
    run = SftRun(model, *samples, SftConfig(seed=seed))
    begin = time.perf_counter()
    for _ in range(STEPS):
        run.advance()
    computed += (time.perf_counter() - begin) / STEPS * run.config.steps
    reading = taken["start"].median + taken["epoch"].median
    anew = taken["anew"].median
    whole = taken["start"].median + computed
    return Figure(
        name=f"{kind.name}: waiting", unit="%", value=100 * reading / whole, count=1,
        baseline="bags anew",
        baseline_value=100 * anew / (whole - reading + anew),
    )  # fmt: skip


def _record(
    folder: Path, sizes: Sequence[tuple[int, int]], episodes: int, seed: int
) -> Iterator[_Set]:
    """The same scenes by cameras of several sizes, raw and as JPEG."""
    for width, height in sizes:
        count = episodes if (width, height) == sizes[0] else max(episodes // 4, FEWEST)
        name = f"{width}x{height}"
        fleet = _with_camera(material.bench_fleet(folder / name), width, height)
        material.demonstrations(fleet, count, LIMIT, seed)
        paths = list_episodes(fleet.data_dir / "demo")
        yield _Set(f"{name} raw", paths)
        packed = [_compressed(path, folder / name / "jpeg") for path in paths]
        yield _Set(f"{name} JPEG", packed)


def _with_camera(fleet: FleetDescription, width: int, height: int) -> FleetDescription:
    camera_described = CameraDescription(width=width, height=height)
    robots = tuple(r.model_copy(update={"cameras": (camera_described,)}) for r in fleet.robots)
    return fleet.model_copy(update={"robots": robots})


def _compressed(path: Path, folder: Path) -> Path:
    """The episode once more below `folder`, its pictures as JPEG."""
    reader = EpisodeReader(path)
    cameras = reader.record.cameras
    described = tuple(c.model_copy(update={"compressed": True}) for c in cameras)
    record = reader.record.model_copy(update={"cameras": described})
    raw, packed = (f"/{record.robot}/{camera('front', small).name}" for small in (False, True))
    kept: list[tuple[str, str, int, bytes]] = []
    for topic, kind, log_ns, data in reader.messages():
        if topic != raw:
            kept.append((topic, kind, log_ns, data))
            continue
        message = messages.deserialize(data, kind)
        bgr = camera_pixels.decode(message)[:, :, ::-1]
        quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
        jpeg = cv2.imencode(".jpg", np.ascontiguousarray(bgr), quality)[1].tobytes()
        small = messages.compressed_image(messages.stamp_of(message), "front", "jpeg", jpeg)
        kept.append((packed, _JPEG_TYPE, log_ns, messages.serialize(small, _JPEG_TYPE)))
    kinds = {topic: (kind, "reliable") for topic, kind, _, _ in kept}
    writer = EpisodeWriter(folder, record, kinds)
    for topic, _, log_ns, data in kept:
        writer.write(topic, data, log_ns)
    return writer.finish(record)


def _part(shown: Shown | None, before: int, total: int) -> Shown | None:
    return None if shown is None else lambda done, _: shown(before + done, total)
