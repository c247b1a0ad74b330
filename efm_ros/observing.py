"""What belongs to one instant of one episode: from messages to observations. Without ROS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from efm_core.camera_intake import Frame
from efm_core.camera_pairing import Recent
from efm_core.camera_pixels import PictureError
from efm_core.observation import Observation
from efm_ros.qos import Clock

LIVE_PHASES = frozenset({"ready", "running", "paused", "ending"})
"""Phases of `episode/status` in which observations belong to the episode."""

STATE_INPUTS = ("joint_states", "ee_pose")
"""Sources of the state, as `offset/<name>` of a decision calls them."""

_NS = 1_000_000_000
_PICTURES, _STATES = 4, 64
"""How many of each camera and of each source of the state are kept for pairing in real time."""


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
    the receipt of its last image. repeated: the world showed this stamp before. digests: camera
    -> checksum of the picture used; real time alone, where stamps may not tell pictures apart.
    """

    observation: Observation
    episode: EpisodeView
    offsets: Mapping[str, float]
    received_s: float
    repeated: bool
    digests: Mapping[str, int] = field(default_factory=dict)


class ObservationBuilder:
    """Puts pictures, instruction, joint states, pose and the episode together.

    cameras: names; the first one sets the pace and the stamp. rate: control rate in Hz.
    Lockstep: an observation is complete when every camera has shown the same stamp. Real time:
    each new picture of the first camera, at most one per control period, with the picture of each
    other camera that is nearest in stamp and within its tolerance; where there is none yet it
    waits for one, until the first camera's next picture that is due. State is paired likewise
    and left out where nothing is near enough.

    tolerances: s, by camera or by name in `STATE_INPUTS`; 1.5 control periods where not given.
    refused: called with a camera's name and the error when a picture turns out to be damaged.
    camera_rate: pictures per second of the first camera, where it is faster than the control rate.
    unpaired: camera -> pictures of the first camera given up for want of one of this camera.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        rate: float,
        clock: Clock,
        tolerances: Mapping[str, float] | None = None,
        refused: Callable[[str, PictureError], None] = lambda camera, error: None,
        camera_rate: float = 0.0,
    ) -> None:
        self.cameras, self.clock = tuple(cameras), clock
        self.episode = EpisodeView()
        self.unpaired = dict.fromkeys(self.cameras, 0)
        self._real = clock == "real"
        self._period_ns = round(_NS / rate)
        self._early_ns = round(_NS / max(rate, camera_rate) / 2)
        self._rate = rate
        named = tolerances or {}
        self._tolerance_ns = {
            name: named.get(name, 1.5 / rate) * _NS if self._real else 0.0
            for name in (*self.cameras, *STATE_INPUTS)
        }
        self._refused = refused
        depth = _PICTURES if self._real else 1
        self._frames = {camera: Recent[Frame](depth) for camera in self.cameras}
        self._state: dict[str, Recent[Mapping[str, float]]] = {
            name: Recent(_STATES if self._real else 1) for name in STATE_INPUTS
        }
        self._instruction = ""
        self._used_by = ""  # the episode whose first observation took this instruction
        self._last_ns: int | None = None
        self._due_ns = 0
        self._waiting: tuple[str, ...] = ()  # cameras that the newest due picture waits for

    def on_episode(self, episode: EpisodeView, now_s: float) -> Observed | None:
        """`episode/status`: a newly announced episode takes the newest pictures shown so far."""
        if episode.episode_id != self.episode.episode_id:
            self._last_ns, self._waiting = None, ()
        self.episode = episode
        return self._complete(now_s) if self._last_ns is None else None

    def on_instruction(self, instruction: str, now_s: float) -> Observed | None:
        """`instruction`: the goal of the episode that is announced next, or of this one."""
        self._instruction, self._used_by = instruction, ""
        return self._complete(now_s) if self._last_ns is None else None

    def on_state(self, source: str, stamp_ns: int, scalars: Mapping[str, float]) -> None:
        """Named scalars of a source in `STATE_INPUTS` for the state of an observation to come."""
        self._state[source].add(stamp_ns, scalars)

    def on_frame(self, frame: Frame, now_s: float) -> Observed | None:
        """A picture of use, in the order of its stamps; None while nothing is complete."""
        self._frames[frame.camera].add(frame.stamp_ns, frame)
        if not self._real:
            return self._complete(now_s)
        if frame.camera != self.cameras[0]:
            return self._complete(now_s) if self._waiting else None
        if self._waiting and self._is_due(frame.stamp_ns):
            for camera in self._waiting:
                self.unpaired[camera] += 1
            self._waiting = ()
        return self._complete(now_s)

    def _complete(self, now_s: float) -> Observed | None:
        episode, pace = self.episode, self._frames[self.cameras[0]].newest
        if not episode.live or pace is None or pace[0] < episode.start_ns:
            return None
        if not self._instruction.strip() or not self._is_current(episode):
            return None
        stamp_ns = pace[0]
        used = self._partners(stamp_ns)
        if self._real and not self._is_due(stamp_ns):
            return None
        if len(used) < len(self.cameras):
            self._waiting = tuple(c for c in self.cameras if c not in used) if self._real else ()
            return None
        images = self._pictures(used)
        if images is None:
            return None
        if self._last_ns is None and not self._used_by:
            self._used_by = episode.episode_id
        repeated = self._last_ns == stamp_ns
        if not repeated and not self._is_due(stamp_ns):
            return None
        if not repeated:
            self._plan_next(stamp_ns)
        self._last_ns, self._waiting = stamp_ns, ()
        return self._observed(used, images, now_s, repeated)

    def _partners(self, stamp_ns: int) -> dict[str, Frame]:
        """Camera -> the picture that belongs to a stamp of the first camera, where there is one."""
        found = {}
        for camera, recent in self._frames.items():
            entry = recent.nearest(stamp_ns, self._tolerance_ns[camera])
            if entry is not None:
                found[camera] = entry[1]
        return found

    def _pictures(self, used: Mapping[str, Frame]) -> dict[str, NDArray[np.uint8]] | None:
        """Decode what was not decoded before; a damaged picture is as good as none."""
        images = {}
        for camera, frame in used.items():
            try:
                images[camera] = frame.rgb
            except PictureError as error:
                self._frames[camera].drop(frame)
                self._refused(camera, error)
                return None
        return images

    def _is_current(self, episode: EpisodeView) -> bool:
        """Whether the instruction is this episode's.

        It is published before its episode is announced, and may be heard while the last one still
        seems to run: one that no other episode began with is the next one's.
        """
        return self._used_by in ("", episode.episode_id)

    def _is_due(self, stamp_ns: int) -> bool:
        """Real time: one per control period on average, up to half a period early.

        So a camera at the control rate may jitter, and one that is faster is thinned out: of its
        pictures the one nearest to the time that is due, hence half of its own period.
        """
        if self._last_ns is None or not self._real:
            return self._last_ns is None or stamp_ns > self._last_ns
        return stamp_ns >= self._due_ns - self._early_ns

    def _plan_next(self, stamp_ns: int) -> None:
        due = self._due_ns + self._period_ns
        lagging = self._last_ns is None or due < stamp_ns + self._period_ns / 2
        self._due_ns = stamp_ns + self._period_ns if lagging else due

    def _observed(
        self,
        used: Mapping[str, Frame],
        images: Mapping[str, NDArray[np.uint8]],
        now_s: float,
        repeated: bool,
    ) -> Observed:
        stamp_ns = used[self.cameras[0]].stamp_ns
        stamps = {camera: frame.stamp_ns for camera, frame in used.items()}
        state: dict[str, float] = {}
        for source, recent in self._state.items():
            near = recent.nearest(stamp_ns, self._tolerance_ns[source])
            near = near if self._real else recent.newest
            if near is not None:
                stamps[source] = near[0]
                state.update(near[1])
        tick = round((stamp_ns - self.episode.start_ns) * self._rate / _NS)
        return Observed(
            observation=Observation(images, self._instruction, stamp_ns, tick, state),
            episode=self.episode,
            offsets={name: (ns - stamp_ns) / _NS for name, ns in stamps.items()},
            received_s=now_s,
            repeated=repeated,
            digests={c: frame.digest for c, frame in used.items()} if self._real else {},
        )
