"""Runs in LeRobot's own environment: pictures to a video data set, then rows of it on request.

Arguments: a folder with one NNN.npy per episode, uint8 (N, H, W, 3), and rows.json, the row numbers
to read. Says one line of JSON when ready; each line on standard input is answered when all rows
were read. Imports nothing of efm.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FPS = 10
KEY = "observation.images.front"


def _write(folder: Path, root: Path) -> None:
    files = sorted(folder.glob("*.npy"))
    shape = np.load(files[0], mmap_mode="r").shape[1:]
    made = LeRobotDataset.create(
        "efm/bench", fps=FPS, root=root,
        features={
            KEY: {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"]}
        },
    )  # fmt: skip
    for file in files:
        for picture in np.load(file):
            made.add_frame({KEY: picture, "task": "push"})
        made.save_episode()
    made.finalize()


def _backend() -> str | None:
    """LeRobot's own choice; its other decoder where that cannot be loaded (no FFmpeg)."""
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return "pyav"
    return None


def _say(facts: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    _write(folder, folder / "dataset")
    rows = json.loads((folder / "rows.json").read_text())
    opened = LeRobotDataset("efm/bench", root=folder / "dataset", video_backend=_backend())
    facts = {"version": metadata.version("lerobot"), "backend": opened.video_backend}
    _say(facts)
    for _ in sys.stdin:
        for row in rows:
            assert opened[row][KEY].shape[0] == 3
        _say({})


if __name__ == "__main__":
    main()
