"""From messages to observations: what belongs to one instant of one episode. Pure, without ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from efm_core.observation import Observation
from efm_ros.qos import Clock

LIVE_PHASES = frozenset({"ready", "running", "paused", "ending"})
"""Phases of `episode/status` in which observations belong to the episode."""

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class EpisodeView:
    """What `episode/status` says that the policy and the reward model need.

    start_ns: stamp of the first observation, ns. temperature: of the sampling. seed: of the draws.
    """

    phase: str = "idle"
    episode_id: str = ""
    mode: str = ""
    start_ns: int = 0
    policy_version: str = ""
    reward_version: str = ""
    temperature: float = 0.0
    seed: int = 0

    @property
    def live(self) -> bool:
        """Whether there is an episode whose observations are to be answered."""
        return bool(self.episode_id) and self.phase in LIVE_PHASES

    @classmethod
    def from_status(cls, values: Mapping[str, str]) -> EpisodeView:
        """The pairs of `episode/status` -> view. Raises ValueError naming an unreadable key."""
        numbers: dict[str, int | float] = {}
        for key, kind in (("start_ns", int), ("seed", int), ("temperature", float)):
            text = values.get(key) or "0"
            try:
                numbers[key] = kind(text)
            except ValueError as error:
                raise ValueError(
                    f"episode/status: {key} is '{text}', expected {kind.__name__}; "
                    "the episode manager must send a number"
                ) from error
        names = ("phase", "episode_id", "mode", "policy_version", "reward_version")
        return cls(
            **{name: values.get(name, "") for name in names},
            start_ns=int(numbers["start_ns"]),
            seed=int(numbers["seed"]),
            temperature=float(numbers["temperature"]),
        )


@dataclass(frozen=True, slots=True)
class Observed:
    """An observation of a live episode.

    offsets: stamp of each input used minus the observation's, in s. received_s: steady time of
    the receipt of its last image. repeated: the world showed this stamp before.
    """

    observation: Observation
    episode: EpisodeView
    offsets: Mapping[str, float]
    received_s: float
    repeated: bool


@dataclass(slots=True)
class _Picture:
    stamp_ns: int
    image: NDArray[np.uint8]
    received_s: float


@dataclass(slots=True)
class ObservationBuilder:
    """Puts pictures, instruction, joint states and the episode together.

    cameras: names; the first one sets the pace and the stamp. rate: control rate in Hz.
    Lockstep: an observation is complete when every camera has shown the same stamp. Real time:
    each new picture of the first camera, at most one per control period, with the newest picture
    of the others.
    """

    cameras: Sequence[str]
    rate: float
    clock: Clock
    episode: EpisodeView = field(default_factory=EpisodeView)
    _pictures: dict[str, _Picture] = field(default_factory=dict)
    _instruction: str = ""
    _used_by: str = ""  # the episode whose first observation took this instruction
    _joints: tuple[int, Mapping[str, float]] | None = None
    _last_ns: int | None = None
    _due_ns: float = 0.0

    def on_episode(self, episode: EpisodeView, now_s: float) -> Observed | None:
        """`episode/status`: a newly announced episode takes the newest pictures shown so far."""
        if episode.episode_id != self.episode.episode_id:
            self._last_ns = None
        self.episode = episode
        return self._complete(now_s) if self._last_ns is None else None

    def on_instruction(self, instruction: str, now_s: float) -> Observed | None:
        """`instruction`: the goal of the episode that is announced next, or of this one."""
        self._instruction, self._used_by = instruction, ""
        return self._complete(now_s) if self._last_ns is None else None

    def on_joint_states(self, stamp_ns: int, scalars: Mapping[str, float]) -> None:
        """`joint_states`: named scalars that go into the state of the next observation."""
        self._joints = (stamp_ns, scalars)

    def on_image(
        self, camera: str, stamp_ns: int, image: NDArray[np.uint8], now_s: float
    ) -> Observed | None:
        """A picture, uint8 (H, W, 3) RGB, stamped in ns; None while nothing is complete."""
        before = self._pictures.get(camera)
        if before is not None and stamp_ns < before.stamp_ns and self.clock == "real":
            return None  # reordered on the way; in lockstep a restarted world may begin anew
        self._pictures[camera] = _Picture(stamp_ns, image, now_s)
        if self.clock == "real" and camera != self.cameras[0]:
            return None
        return self._complete(now_s)

    def _complete(self, now_s: float) -> Observed | None:
        episode, pace = self.episode, self._pictures.get(self.cameras[0])
        if not episode.live or pace is None or pace.stamp_ns < episode.start_ns:
            return None
        if not self._instruction.strip() or not self._is_current(episode):
            return None
        stamp_ns = pace.stamp_ns
        used = [self._pictures.get(camera) for camera in self.cameras]
        if any(p is None or self._is_other(p.stamp_ns, stamp_ns) for p in used):
            return None
        if self._last_ns is None and not self._used_by:
            self._used_by = episode.episode_id
        repeated = self._last_ns == stamp_ns
        if not repeated and not self._is_due(stamp_ns):
            return None
        if not repeated:
            self._plan_next(stamp_ns)
        self._last_ns = stamp_ns
        return self._observed(stamp_ns, now_s, repeated)

    def _is_current(self, episode: EpisodeView) -> bool:
        """Whether the instruction is this episode's.

        It is published before its episode is announced, and may be heard while the last one still
        seems to run: one that no other episode began with is the next one's.
        """
        return self._used_by in ("", episode.episode_id)

    def _is_other(self, camera_ns: int, stamp_ns: int) -> bool:
        return self.clock == "lockstep" and camera_ns != stamp_ns

    def _is_due(self, stamp_ns: int) -> bool:
        """Real time: one per control period on average, up to half a period early.

        So a camera at the control rate may jitter, and one that is faster is thinned out.
        """
        if self._last_ns is None or self.clock == "lockstep":
            return self._last_ns is None or stamp_ns > self._last_ns
        return stamp_ns >= self._due_ns - self._period_ns / 2

    def _plan_next(self, stamp_ns: int) -> None:
        due = self._due_ns + self._period_ns
        lagging = self._last_ns is None or due < stamp_ns + self._period_ns / 2
        self._due_ns = stamp_ns + self._period_ns if lagging else due

    @property
    def _period_ns(self) -> float:
        return _NS / self.rate

    def _observed(self, stamp_ns: int, now_s: float, repeated: bool) -> Observed:
        images = {camera: self._pictures[camera].image for camera in self.cameras}
        stamps = {camera: self._pictures[camera].stamp_ns for camera in self.cameras}
        state: Mapping[str, float] = {}
        if self._joints is not None:
            stamps["joint_states"], state = self._joints
        tick = round((stamp_ns - self.episode.start_ns) * self.rate / _NS)
        return Observed(
            observation=Observation(images, self._instruction, stamp_ns, tick, state),
            episode=self.episode,
            offsets={name: (ns - stamp_ns) / _NS for name, ns in stamps.items()},
            received_s=now_s,
            repeated=repeated,
        )
