"""When a person's velocity is sent, and with which stamp. No ROS and no clock in here.

Real time: at every call while the person moves, stamped with wall time. Lockstep: once for each
observation, with its stamp, and no faster than the robot's own rate, for the world waits. Letting
go sends one zero and then nothing: a real robot is held by its guard, a lockstep world waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Twist:
    """A command: stamp in ns, velocity float64 (6,) in m/s and rad/s, robot base frame."""

    stamp_ns: int
    velocity: NDArray[np.float64]


class Drive:
    """One robot as its driver sees it.

    rate: of the robot, Hz. pace: how much faster than that a lockstep world may be driven.
    `taken_over`: whether the guard listens to a person in an autonomous episode.
    """

    def __init__(self, rate: float, pace: float = 1.0) -> None:
        self._period = 1.0 / (rate * pace)
        self._status: Mapping[str, str] = {}
        self._observed = self._answered = -1
        self._next = 0.0
        self._moving = False
        self._last: Twist | None = None
        self.taken_over = False

    @property
    def status(self) -> Mapping[str, str]:
        """The pairs of the newest `episode/status`; {} before the first."""
        return self._status

    def on_status(self, values: Mapping[str, str]) -> bool:
        """`episode/status` was heard; whether it announces another episode."""
        fresh = values.get("episode_id", "") != self._status.get("episode_id", "")
        self._status = dict(values)
        if fresh:
            self._answered, self._last, self._moving = -1, None, False
        return fresh

    def on_observation(self, stamp_ns: int) -> Twist | None:
        """Lockstep: the robot's state of `stamp_ns`; a repeated one gets the same answer again."""
        self._observed = stamp_ns
        again = self._last is not None and self._last.stamp_ns == stamp_ns and self.listened_to
        return self._last if again else None

    @property
    def autonomous(self) -> bool:
        """Whether an episode runs in which the policy moves the robot unless taken over."""
        status = self._status
        return status.get("phase") == "running" and status.get("mode") not in ("", "demo", None)

    @property
    def listened_to(self) -> bool:
        """Whether the guard would execute a twist now."""
        phase = self._status.get("phase", "")
        if self._lockstep or not self.taken_over:
            return phase == "running" and (self.taken_over or self._status.get("mode") == "demo")
        return phase not in ("", "ending", "saving", "stopped")

    @property
    def _lockstep(self) -> bool:
        return self._status.get("clock") == "lockstep"

    def command(
        self, velocity: NDArray[np.float64] | None, now: float, wall_ns: int
    ) -> Twist | None:
        """What to publish now, None for nothing.

        velocity: what the person asks for, (6,), None for nothing. now: steady, s.
        """
        if not self.listened_to or (velocity is None and not self._moving):
            self._moving = self._moving and self.listened_to
            return None
        if self._lockstep and not self._waits(now):
            return None
        self._moving = velocity is not None
        stamp_ns = self._observed if self._lockstep else wall_ns
        self._answered, self._next = stamp_ns, now + self._period
        self._last = Twist(stamp_ns, np.zeros(6) if velocity is None else velocity)
        return self._last

    def _waits(self, now: float) -> bool:
        """Whether the world waits for the answer to an observation of this episode."""
        start_ns = int(self._status.get("start_ns") or 0)
        return self._observed >= start_ns and self._observed > self._answered and now >= self._next
