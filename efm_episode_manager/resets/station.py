"""The robot as a reset sees it: where it is, the way it came, a person beside it, a way to move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efm_core import messages, topics
from efm_core.actions import ActionSpace
from efm_core.command_groups import CommandGroup, complete
from efm_core.reset_settings import AnyReset, ReverseReset, moves
from efm_core.whereabouts import Whereabouts
from efm_episode_manager.core import Core
from efm_episode_manager.state_machine import Phase

_LONGEST_WAY = 60_000
"""Commands remembered of one episode: 20 minutes at 50 Hz."""
_LONGEST_STEP = 0.1
"""s that a motion goes on at most from one poll to the next."""
_ON_THE_WAY = frozenset({Phase.RUNNING, Phase.PAUSED, Phase.ENDING})


@dataclass(frozen=True, slots=True)
class Stride:
    """What was commanded from a time on (steady s), and where the robot was then.

    command: (D,), unit/s (delta) or targets (absolute). position: (D,), NaN = unknown.
    """

    at_s: float
    command: NDArray[np.float64]
    position: NDArray[np.float64]


@dataclass(slots=True)
class Way:
    """The commands of one episode, oldest first."""

    episode_id: str = ""
    strides: list[Stride] = field(default_factory=list)


class Station:
    """Shared by the methods of one robot.

    position: float64 (D,), NaN = unknown. way: of the newest episode. confirmed: whether the
    person has answered. request: what the person is asked for, "" when nobody is.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        described, self.space = core.settings.reset, core.settings.space
        groups = described.groups or complete((CommandGroup(name="arm"),), self.space)
        self._whereabouts = Whereabouts(groups, self.space)
        speed = described.speed or (math.inf,) * self.space.size
        self.speed: NDArray[np.float64] = np.array(speed)
        self.position = np.full(self.space.size, np.nan)
        self.way = Way()
        self.request = ""
        self.confirmed = False
        self._polled_s = -math.inf

    @property
    def _point(self) -> ActionSpace:
        return self.space.model_copy(update={"chunk": 1})

    # ---- hearing -----------------------------------------------------------------------------

    def listeners(self, method: AnyReset) -> dict[str, Callable[[bytes], None]]:
        """What of the robot's topics such a reset must hear: name -> who takes it."""
        heard: dict[str, Callable[[bytes], None]] = {}
        if moves(method):
            heard[topics.EE_POSE.name] = self.hear_pose
            heard[topics.JOINT_STATES.name] = self.hear_joints
        if isinstance(method, ReverseReset):
            heard[topics.GUARD_STATE.name] = self.hear_guard
        return heard

    def hear_pose(self, data: bytes) -> None:
        """ee_pose."""
        message = messages.deserialize(data, topics.EE_POSE.type)
        self._place(self._whereabouts.on_position(messages.read_position(message)))

    def hear_joints(self, data: bytes) -> None:
        """joint_states."""
        if self._whereabouts.needs_joints:
            message = messages.deserialize(data, topics.JOINT_STATES.type)
            self._place(self._whereabouts.on_joints(messages.read_named_scalars(message)))

    def _place(self, position: NDArray[np.float64] | None) -> None:
        if position is not None:
            self.position = position

    def hear_guard(self, data: bytes) -> None:
        """guard/state: a step of the way while an episode runs."""
        session = self._core.session
        if session is None or self._core.phase not in _ON_THE_WAY:
            return
        if self.way.episode_id != session.record.episode_id:
            self.way = Way(session.record.episode_id)
        if len(self.way.strides) == _LONGEST_WAY:
            del self.way.strides[0]
        scalars = messages.read_named_scalars(messages.deserialize(data, topics.GUARD_STATE.type))
        command = messages.read_executed(scalars, self.space)
        if self.space.kind == "delta":
            command = command * self.space.rate
        self.way.strides.append(Stride(self._core.now_s(), command, self.position))

    def forget_way(self) -> None:
        """There is nothing to be undone."""
        self.way = Way()

    # ---- time and motion ---------------------------------------------------------------------

    def elapsed(self) -> float:
        """s since the last call, as far as a motion may go on for them."""
        now = self._core.now_s()
        elapsed, self._polled_s = now - self._polled_s, now
        return min(elapsed, _LONGEST_STEP)

    def command(self, values: ArrayLike) -> None:
        """Ask the guard to move: (D,), unit/s (delta) or targets (absolute).

        Good for the guard's dead-man time of 0.3 s or less.
        """
        array = np.asarray(values, dtype=np.float64)
        if not np.isfinite(array).all():
            return
        action = array / self.space.rate if self.space.kind == "delta" else array
        stamp_ns = self._core.outside.wall_ns()
        message = messages.action_chunk(stamp_ns, "", self._point, action[np.newaxis])
        self._core.outside.send(topics.RESET_TRAJECTORY, message)

    def stand(self) -> None:
        """Move no more; targets reached stay in force until the guard's dead-man time is over."""
        if self.space.kind == "delta":
            self.command(np.zeros(self.space.size))
