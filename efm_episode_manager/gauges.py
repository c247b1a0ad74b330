"""What an operator wants to see while recording: rates, what became of the pictures, disk space."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from efm_core.camera_ledger import summary
from efm_core.episode import TopicCounts

WINDOW_SECONDS = 1.0


class Gauges:
    """Messages per second of the `shown` topics and the space below `data_dir`, once per second.

    frames: asked for what became of the pictures of the episode, by topic.
    """

    def __init__(
        self,
        data_dir: Path,
        shown: Iterable[str],
        now_s: float,
        frames: Callable[[], Mapping[str, TopicCounts]] = dict,
    ) -> None:
        self._data_dir = data_dir
        self._shown = tuple(shown)
        self._counts: Counter[str] = Counter()
        self._since_s = now_s
        self._frames = frames
        self._values = {"rates": "{}", "frames": "{}", "free_mb": ""}

    def hear(self, name: str) -> None:
        """One message of topic `name`."""
        self._counts[name] += 1

    def values(self, now_s: float) -> dict[str, str]:
        """What is shown, as texts.

        rates: JSON of topic -> Hz of wall time. frames: JSON of camera topic -> counts
        (`efm_core.camera_ledger.summary`). free_mb: MB, "" in the first second.
        """
        elapsed = now_s - self._since_s
        if elapsed >= WINDOW_SECONDS:
            rates = {name: round(self._counts[name] / elapsed, 1) for name in self._shown}
            free = shutil.disk_usage(self._data_dir).free
            frames = {name: summary(counts) for name, counts in self._frames().items()}
            self._values = {
                "rates": json.dumps(rates), "frames": json.dumps(frames),
                "free_mb": f"{free / 1e6:.0f}",
            }  # fmt: skip
            self._counts.clear()
            self._since_s = now_s
        return self._values
