"""How far a training run is: figures to files, progress to whoever asked, a way to stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ProgressCallback = Callable[["Progress"], None]
Cancelled = Callable[[], bool]


class TrainingCancelledError(RuntimeError):
    """Somebody asked a run to stop; what was saved before can be resumed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """done: 0..1. eta_s: seconds left by the pace so far, None before there is a pace."""

    phase: str
    done: float
    eta_s: float | None
    metrics: Mapping[str, float]


def never() -> bool:
    """The default answer to "cancelled?"."""
    return False


class Pace:
    """Seconds left, from the fraction done since construction (monotonic clock)."""

    def __init__(self, done: float = 0.0) -> None:
        self._start, self._done = time.monotonic(), done

    def eta(self, done: float) -> float | None:
        """Fraction done now, 0..1 -> seconds left."""
        gained = done - self._done
        if gained <= 0.0:
            return None
        return (time.monotonic() - self._start) * (1.0 - done) / gained


class MetricsLog:
    """`metrics.jsonl` (one object a line) and, where installed, TensorBoard event files.

    A resumed run appends; lines carry their step, so a reader takes the last of a step.
    """

    def __init__(self, directory: Path, tensorboard: bool = True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / "metrics.jsonl").open("a", encoding="utf-8")
        self._events: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return  # an optional extra; metrics.jsonl holds the same figures
            self._events = SummaryWriter(str(directory))

    def write(self, step: int, scalars: Mapping[str, float], **texts: str) -> None:
        """One step's figures and words; names with "/" are grouped by TensorBoard."""
        self._file.write(json.dumps({"step": step, **texts, **scalars}) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in scalars.items():
                self._events.add_scalar(name, value, step)
            for name, text in texts.items():
                self._events.add_text(name, text, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> MetricsLog:
        """Enter a with block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()
