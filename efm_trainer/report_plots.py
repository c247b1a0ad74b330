"""The pictures of a report: curves as SVG, film strips as PNG, all inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from efm_core import topics
from efm_core.bags import EpisodeReader
from efm_core.bags.decode import named_scalars, picture
from efm_core.episode import EpisodeRecord

mpl.rcParams["svg.fonttype"] = "none"
_TRAINED, _HELD_OUT, _TRUTH, _DETECTED = "#8a8a8a", "#1f5fa8", "#1c7c3c", "#c2571a"


@dataclass(frozen=True, slots=True)
class Example:
    """An episode to look at: its record, images uint8 (N, H, W, 3), d (N,) and truth (N,).

    steps_to_go is in steps, NaN where nothing was published; truth is False where unknown.
    """

    record: EpisodeRecord
    images: NDArray[np.uint8]
    steps_to_go: NDArray[np.float64]
    truth: NDArray[np.bool_]


def read_example(path: Path, camera: str = "front") -> Example:
    """Read an episode for its picture, aligned by stamp; truth is for the reader's eyes alone."""
    reader = EpisodeReader(path)
    root = f"/{reader.record.robot}/"
    names = {
        **{root + topics.camera(camera, packed).name: "image" for packed in (False, True)},
        root + topics.REWARD_STATE.name: "reward",
        root + topics.TRUTH_STATE.name: "truth",
    }
    pictures: dict[int, NDArray[np.uint8]] = {}
    steps: dict[int, float] = {}
    truth: dict[int, bool] = {}
    for topic, kind, _, data in reader.messages(names):
        if names[topic] == "image":
            shown = picture(data, kind)
            pictures[shown.stamp_ns] = shown.rgb
            continue
        scalars = named_scalars(data)
        if names[topic] == "reward":
            steps[scalars.stamp_ns] = scalars.values["steps_to_go"]
        else:
            truth[scalars.stamp_ns] = bool(scalars.values["success"])
    stamps = sorted(pictures)
    return Example(
        reader.record,
        np.stack([pictures[s] for s in stamps]),
        np.array([steps.get(s, np.nan) for s in stamps]),
        np.array([truth.get(s, False) for s in stamps]),
    )


def film_strip(example: Example, frames: int = 10, height: int = 96) -> str:
    """Evenly spaced frames side by side, as a data URI (PNG)."""
    rows = np.unique(np.linspace(0, len(example.images) - 1, frames).astype(int))
    size = (round(height * example.images.shape[2] / example.images.shape[1]), height)
    cells = [
        cv2.resize(np.ascontiguousarray(example.images[i]), size, interpolation=cv2.INTER_NEAREST)
        for i in rows
    ]
    strip = np.concatenate([np.pad(c, ((0, 0), (0, 2), (0, 0)), "maximum") for c in cells], axis=1)
    _, png = cv2.imencode(".png", strip[:, :, ::-1])
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()


def steps_curve(example: Example, threshold: float | None) -> str:
    """d over the episode's ticks as SVG, the threshold and the ticks of true success marked."""
    figure, axes = _axes(6.4, 1.6)
    ticks = np.arange(len(example.steps_to_go))
    axes.plot(ticks, example.steps_to_go, color=_HELD_OUT)
    if threshold is not None:
        axes.axhline(threshold, color=_DETECTED, linewidth=0.8, linestyle="--")
    for tick in ticks[example.truth]:
        axes.axvspan(tick - 0.5, tick + 0.5, color=_TRUTH, alpha=0.2, linewidth=0)
    axes.set_xlabel("tick")
    axes.set_ylabel("steps to go")
    axes.set_ylim(bottom=0)
    return _svg(figure)


def learning_curve(rounds: Sequence[Mapping[str, float]]) -> str:
    """Success per practice round as SVG.

    Each entry holds practised (episodes before the round), detected and truth, rates in 0..1.
    """
    figure, axes = _axes()
    x = [entry["practised"] for entry in rounds]
    axes.plot(x, [100 * e["truth"] for e in rounds], color=_TRUTH, marker="o", label="truth")
    axes.plot(x, [100 * e["detected"] for e in rounds], color=_DETECTED, marker=".",
              label="robot's own detector")  # fmt: skip
    axes.set_xlabel("practice episodes before the round")
    axes.set_ylabel("successful episodes, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
    return _svg(figure)


def loss_curves(history: Sequence[Mapping[str, float]]) -> str:
    """Stage-1 losses over the steps as SVG: next action and steps-to-go, in nats."""
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    steps = [entry["step"] for entry in history]
    for axes, (name, title) in zip(
        figure.subplots(1, 2),
        (("action_loss", "next action"), ("steps_loss", "steps to go")),
        strict=True,
    ):
        for part, colour in (("train", _TRAINED), ("validation", _HELD_OUT)):
            values = [entry[f"{part}/{name}"] for entry in history]
            axes.plot(steps, values, color=colour, label=part)
        axes.set_title(f"{title}, nats", fontsize=9)
        axes.set_xlabel("step")
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _axes(width: float = 6.4, height: float = 2.6):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
