"""Questions of several robots, answered in as few passes through the model as possible."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efm_bringup.model_shelf import Engine, Loaded, ModelShelf
from efm_core.observation import Decision, Observation, StepsToGo

SLOW_SECONDS = 0.02
"""A model slower than this answers in a thread, so that heartbeats and services go on."""

Deliver = Callable[[Any], None]
"""Takes a Decision or a StepsToGo, or the ValueError with which the model refused."""


@dataclass(frozen=True, slots=True)
class _Act:
    observation: Observation
    draws: NDArray[np.float64]
    temperature: float
    deliver: Callable[[Decision | ValueError], None]


@dataclass(frozen=True, slots=True)
class _Judge:
    observation: Observation
    deliver: Callable[[StepsToGo | ValueError], None]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Questions for one engine at one temperature; `acts[i]` and `judges[i]` may be None."""

    loaded: Loaded
    temperature: float
    acts: list[_Act | None]
    judges: list[_Judge | None]


class Batcher:
    """Collects questions and answers them in `flush`; the newest of each robot counts.

    Call everything from one thread. `wake` asks for a `flush` soon: after the callbacks of this
    wake-up, and (from a thread) when a slow model has answered.
    """

    def __init__(self, shelf: ModelShelf, wake: Callable[[], None]) -> None:
        self._shelf = shelf
        self._wake = wake
        self._acts: dict[str, _Act] = {}
        self._judges: dict[str, _Judge] = {}
        self._answers: SimpleQueue[list[tuple[Deliver, Any]]] = SimpleQueue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="infer")
        self._busy = 0
        self.passes = 0
        self.superseded = 0

    def act(
        self,
        robot: str,
        observation: Observation,
        draws: NDArray[np.float64],
        temperature: float,
        deliver: Callable[[Decision | ValueError], None],
    ) -> None:
        """Ask the robot's policy; draws float64 (tokens,)."""
        self.superseded += robot in self._acts
        self._acts[robot] = _Act(observation, draws, temperature, deliver)
        self._wake()

    def judge(
        self,
        robot: str,
        observation: Observation,
        deliver: Callable[[StepsToGo | ValueError], None],
    ) -> None:
        """Ask the robot's reward model."""
        self.superseded += robot in self._judges
        self._judges[robot] = _Judge(observation, deliver)
        self._wake()

    def flush(self) -> None:
        """Deliver what a thread has answered and answer what was asked meanwhile."""
        while not self._answers.empty():
            self._busy -= 1
            _deliver(self._answers.get())
        if self._busy or not (self._acts or self._judges):
            return  # a slow model is at work: questions wait, and newer ones replace them
        for batch in self._batches():
            self.passes += 1
            if batch.loaded.seconds > SLOW_SECONDS:
                self._busy += 1
                self._thread.submit(self._work, batch)
            else:
                _deliver(_answers(batch))

    def _work(self, batch: _Batch) -> None:
        self._answers.put(_answers(batch))
        self._wake()

    def _batches(self) -> list[_Batch]:
        """Group by engine, temperature and what is asked, so that each group is one pass."""
        acts, self._acts = self._acts, {}
        judges, self._judges = self._judges, {}
        groups: dict[tuple[int, float, bool, bool], _Batch] = {}
        for robot in dict.fromkeys((*acts, *judges)):
            loaded = self._shelf.engine(robot)
            if loaded is None:
                continue  # cannot happen while nodes ask only what is in force
            act, judge = acts.get(robot), judges.get(robot)
            together = act is not None and judge is not None and (
                act.observation is judge.observation
            )  # fmt: skip
            pairs = [(act, judge)] if together else [(act, None), (None, judge)]
            for one_act, one_judge in pairs:
                if one_act is None and one_judge is None:
                    continue
                temperature = one_act.temperature if one_act else 0.0
                key = (id(loaded), temperature, one_act is not None, one_judge is not None)
                batch = groups.setdefault(key, _Batch(loaded, temperature, [], []))
                batch.acts.append(one_act)
                batch.judges.append(one_judge)
        return list(groups.values())

    def close(self) -> None:
        """Wait for the inference thread and end it."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _answers(batch: _Batch) -> list[tuple[Deliver, Any]]:
    """Answers of a batch; when the model refuses it, each question is asked on its own."""
    try:
        return _infer(batch.loaded.engine, batch)
    except ValueError as error:
        if len(batch.acts) == 1:
            asked = (*batch.acts, *batch.judges)
            return [(question.deliver, error) for question in asked if question is not None]
    answers = []
    for act, judge in zip(batch.acts, batch.judges, strict=True):
        answers += _answers(_Batch(batch.loaded, batch.temperature, [act], [judge]))
    return answers


def _infer(engine: Engine, batch: _Batch) -> list[tuple[Deliver, Any]]:
    acts = [act for act in batch.acts if act is not None]
    judges = [judge for judge in batch.judges if judge is not None]
    decisions: list[Decision] = []
    words: list[StepsToGo] = []
    began = time.perf_counter()
    if acts:
        observations = [act.observation for act in acts]
        draws = np.stack([act.draws for act in acts])
        if judges:
            decisions, words = engine.infer(observations, draws, batch.temperature)
        else:
            decisions = engine.act(observations, draws, batch.temperature)
    else:
        words = engine.steps_to_go([judge.observation for judge in judges])
    seconds = time.perf_counter() - began
    answers: list[tuple[Deliver, Any]] = []
    for act, decision in zip(acts, decisions, strict=True):
        answers.append((act.deliver, replace(decision, seconds=seconds)))
    answers += [(j.deliver, w) for j, w in zip(judges, words, strict=True)]
    return answers


def _deliver(answers: list[tuple[Deliver, Any]]) -> None:
    for deliver, answer in answers:
        deliver(answer)
