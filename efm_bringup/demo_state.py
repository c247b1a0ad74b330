"""What a demo has done so far, on disk, so that it can be interrupted and taken up again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

STATE_FILE = "state.json"


class DemoSettings(BaseModel):
    """What is asked of a demo; a run that is taken up again must ask the same.

    demonstrations, validation: episodes for training and for choosing the best step.
    sft_steps: optimiser steps of the fine-tuning.
    calibration: episodes of the fine-tuned policy that an oracle labels for the detector.
    rounds, episodes_per_round: of practice. evaluation: start states per policy. repeated: how
    many of them are run again over DDS. limit: control ticks per episode. weights: folder of
    backbone weights, "" for the shipped ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0)] = 0
    demonstrations: Annotated[int, Field(ge=2)] = 80
    validation: Annotated[int, Field(ge=1)] = 16
    sft_steps: Annotated[int, Field(ge=1)] = 2000
    calibration: Annotated[int, Field(ge=0)] = 48
    rounds: Annotated[int, Field(ge=1)] = 12
    episodes_per_round: Annotated[int, Field(ge=1)] = 48
    evaluation: Annotated[int, Field(ge=10)] = 200
    repeated: Annotated[int, Field(ge=0)] = 20
    limit: Annotated[int, Field(ge=5)] = 60
    weights: str = ""


class DemoState(BaseModel):
    """Progress of a demo. seconds: per phase, all attempts together; figures: per phase.

    wall_seconds: time that the demo ran, all attempts together.
    """

    model_config = ConfigDict(extra="forbid")

    settings: DemoSettings
    done: list[str] = Field(default_factory=list)
    seconds: dict[str, float] = Field(default_factory=dict)
    wall_seconds: float = 0.0
    figures: dict[str, Any] = Field(default_factory=dict)


class DemoLog:
    """The state of the demo in `run_dir`; every change is on disk before it counts."""

    def __init__(self, run_dir: Path, settings: DemoSettings) -> None:
        """Raises ValueError when the folder holds a demo with other settings."""
        self.run_dir = run_dir
        self._path = run_dir / STATE_FILE
        self.state = self._load(settings)

    def done(self, phase: str) -> bool:
        """Whether a phase is complete."""
        return phase in self.state.done

    def finish(self, phase: str, figures: dict[str, Any]) -> None:
        """A phase is complete and found `figures`."""
        self.state.figures[phase] = figures
        if phase not in self.state.done:
            self.state.done.append(phase)
        self._save()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the time spent inside, s, to the whole demo's, however it ends."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.state.wall_seconds += round(time.monotonic() - begin, 3)
            self._save()

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent inside, s, to the phase's, however it ends."""
        begin = time.monotonic()
        try:
            yield
        finally:
            spent = self.state.seconds.get(phase, 0.0) + time.monotonic() - begin
            self.state.seconds[phase] = round(spent, 3)
            self._save()

    def _load(self, settings: DemoSettings) -> DemoState:
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return DemoState(settings=settings)
        try:
            state = DemoState.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(
                f"{self._path} can't be read ({error.errors()[0]['msg']}); "
                "begin anew with --fresh or choose another --run-dir"
            ) from error
        if state.settings != settings:
            changed = [
                f"{name} {getattr(state.settings, name)} -> {value}"
                for name, value in settings
                if getattr(state.settings, name) != value
            ]
            raise ValueError(
                f"{self.run_dir} holds a demo with other settings ({', '.join(changed)}); "
                "begin anew with --fresh or choose another --run-dir"
            )
        return state

    def _save(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w") as file:
            file.write(self.state.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
