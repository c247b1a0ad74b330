"""The models of an inference process: which robot wants which, loaded beside the callbacks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from efm_core.detector import DetectorSettings
from efm_core.observation import Decision, Observation, StepsToGo


class Engine(Protocol):
    """What is needed of `efm_model.inference.Engine`; N observations at a time."""

    @property
    def detector(self) -> DetectorSettings:
        """Settings that the reward checkpoint was calibrated to."""
        ...

    def act(
        self, observations: Sequence[Observation], draws: NDArray[np.float64], temperature: float
    ) -> list[Decision]:
        """Sample one decision per observation; draws float64 (N, tokens)."""
        ...

    def steps_to_go(self, observations: Sequence[Observation]) -> list[StepsToGo]:
        """Steps-to-go of every observation."""
        ...

    def infer(
        self, observations: Sequence[Observation], draws: NDArray[np.float64], temperature: float
    ) -> tuple[list[Decision], list[StepsToGo]]:
        """Both, with one pass of a common trunk."""
        ...


@dataclass(frozen=True, slots=True)
class Versions:
    """The pair of checkpoints that one engine holds; "" for none."""

    policy: str = ""
    reward: str = ""


class BadCheckpointError(ValueError):
    """A checkpoint was refused. role: policy or reward."""

    def __init__(self, role: str, version: str, reason: str) -> None:
        super().__init__(f"{role} checkpoint '{version}' is refused: {reason}")
        self.role = role


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that has answered a first, blank question in `seconds` s."""

    engine: Engine
    seconds: float


@dataclass(slots=True)
class ModelState:
    """A robot's models: what is in force, what is wanted, what was refused (role -> reason)."""

    kind: Hashable
    versions: Versions = field(default_factory=Versions)
    wanted: Versions = field(default_factory=Versions)
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def loading(self) -> bool:
        """Whether what is wanted is still on its way."""
        return self.versions != self.wanted and not self.errors


_Key = tuple[Versions, Hashable]


class ModelShelf:
    """Engines by pair of versions; each is loaded once for robots of a kind, and in a thread.

    Call everything from one thread. `load` runs in the loading thread, is told which robot asked,
    and raises BadCheckpointError for a checkpoint that must not be used: the robot keeps what it
    has. `kind` of two robots is equal when what one can use the other can too. `wake` is called
    from the loading thread when `settle` has something to do.
    """

    def __init__(
        self,
        load: Callable[[Versions, str], Loaded],
        kind: Callable[[str], Hashable],
        wake: Callable[[], None],
    ) -> None:
        self._load = load
        self._kind = kind
        self._wake = wake
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._loading: dict[_Key, Future[Loaded]] = {}
        self._engines: dict[_Key, Loaded] = {}
        self._robots: dict[str, ModelState] = {}

    def state(self, robot: str) -> ModelState:
        """The robot's models now."""
        if robot not in self._robots:
            self._robots[robot] = ModelState(self._kind(robot))
        return self._robots[robot]

    def engine(self, robot: str) -> Loaded | None:
        """The engine in force for the robot; None before the first one is loaded."""
        state = self.state(robot)
        return self._engines.get((state.versions, state.kind))

    def want(self, robot: str, policy: str, reward: str) -> None:
        """The robot's episode wants these versions, "" for whatever it has.

        A pair that was refused before is tried again: it may have been mended.
        """
        state = self.state(robot)
        state.wanted = Versions(policy or state.versions.policy, reward or state.versions.reward)
        state.errors = {}
        key = (state.wanted, state.kind)
        if state.wanted == Versions() or key in self._engines:
            self._enforce(state)
        elif key not in self._loading:
            self._loading[key] = self._thread.submit(self._load, state.wanted, robot)
            self._loading[key].add_done_callback(lambda _: self._wake())

    def forget(self, robot: str) -> None:
        """The robot needs no model any more; what nobody else uses is freed."""
        state = self.state(robot)
        state.wanted, state.errors = Versions(), {}
        self._enforce(state)

    def settle(self) -> list[str]:
        """Take what was loaded or refused; returns the robots for which something changed."""
        changed: list[str] = []
        for key in [key for key, future in self._loading.items() if future.done()]:
            future = self._loading.pop(key)
            refusal = future.exception()
            if refusal is None:
                self._engines[key] = future.result()
            elif not isinstance(refusal, BadCheckpointError):
                raise refusal
            for robot, state in self._robots.items():
                if (state.wanted, state.kind) == key and state.loading:
                    changed.append(robot)
                    if isinstance(refusal, BadCheckpointError):
                        state.errors = {refusal.role: str(refusal)}
                    else:
                        self._enforce(state)
        return changed

    def _enforce(self, state: ModelState) -> None:
        state.versions = state.wanted
        used = {(s.versions, s.kind) for s in self._robots.values()}
        used |= {(s.wanted, s.kind) for s in self._robots.values()}
        self._engines = {key: loaded for key, loaded in self._engines.items() if key in used}

    @property
    def engines(self) -> int:
        """How many engines are in memory."""
        return len(self._engines)

    def close(self) -> None:
        """Wait for the loading thread and end it."""
        self._thread.shutdown(wait=True, cancel_futures=True)
