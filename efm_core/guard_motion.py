"""From a choice to a command: the one place of the guard where a command is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_core.guard_report import Fault, GuardReport, Source
from efm_core.limits import GuardSettings, MotionLimiter, dimension_limits, position_box


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be executed and why.

    values: (D,) in action-space units, None = hold. remaining: s left for an absolute target,
    None = one control period. The rest goes into the report.
    """

    source: Source = Source.HOLD
    values: NDArray[np.float64] | None = None
    fault: Fault = Fault.NONE
    reason: str = ""
    chunk_age: float = -1.0
    point_index: int = -1
    remaining: float | None = None


class GuardMotion:
    """Where the robot is, what it was last told, and the next command within its limits.

    `position` is float64 (D,), NaN where unknown: measured, and between two measurements (real
    time) carried on with the command. For absolute targets it is the last target commanded.
    """

    def __init__(self, settings: GuardSettings) -> None:
        space = settings.space
        self._settings, self._space = settings, space
        self._lockstep = settings.clock == "lockstep"
        self._absolute = space.kind == "absolute"
        self._bounded = self._absolute or bool(settings.workspace)
        self._low, self._high = space.low, space.high
        self._period = 1.0 / space.rate
        self._zero = np.zeros(space.size)
        # In real time a command may stand for a late timer step as well: plan for two.
        step = self._period if self._lockstep else 2.0 * settings.step_period
        limits = dimension_limits(
            space, settings.max_speed, settings.max_acceleration, settings.limits
        )
        self._limiter = MotionLimiter(
            space, *limits, *position_box(space, settings.workspace), step
        )
        box = np.array(position_box(space, settings.workspace))
        # What must be known before anything moves: every dimension that has a place to keep to.
        self._kept = np.isfinite(box).any(axis=0)
        if self._absolute:  # what may be asked for: targets inside the box
            self._low, self._high = box
        self._planned = step
        self._max_lag = np.array([settings.max_lag.get(n, np.inf) for n in space.names])
        self._before = self._limiter.save()
        self._stepped_at = self._placed_at = self._measured_at = -np.inf
        self.position = np.full(space.size, np.nan)

    @property
    def previous(self) -> NDArray[np.float64]:
        """The last action as it was commanded, (D,), action-space units."""
        return self.position if self._absolute else self._limiter.velocity * self._period

    def begin_episode(self) -> None:
        """In lockstep the robot stood still between two episodes; in real time it goes on."""
        if self._lockstep:
            self._limiter.reset()
        elif self._absolute and not self._limiter.velocity.any():
            # begin from where the robot is, not from where it was sent
            self.position = np.full(self._space.size, np.nan)

    def measure(self, position: NDArray[np.float64], now: float) -> bool:
        """A measured position (D,); whether the robot is where it was sent.

        If it is not (`max_lag`), the setpoint goes to where it is and the motion ends.
        """
        self._measured_at = now
        follows = self._lockstep or not self._absolute or not self.located
        strays = not follows and bool((np.abs(position - self.position) > self._max_lag).any())
        if strays:
            self._limiter.reset()
        if follows or strays:
            self.position, self._placed_at = position, now
        return not strays

    @property
    def located(self) -> bool:
        """Whether the position is known in every dimension that has limits of its own."""
        return not bool(np.isnan(self.position[self._kept]).any())

    def may_move(self, now: float) -> bool:
        """Whether the position is known well enough to keep the limits (real: and fresh)."""
        if not self._bounded:
            return True
        fresh = self._lockstep or now - self._measured_at <= self._settings.stale_after
        return fresh and self.located

    def follow(self, choice: Choice, now: float) -> GuardReport | None:
        """Real time: the command for now; None when an absolute robot was never located."""
        if self._absolute and not self.located:
            return None
        burst = self._limiter.burst
        elapsed = min(max(now - self._stepped_at, 0.0), burst)
        # A driver of positions stays where it was sent last; braking was planned for that long.
        since = min(max(now - self._placed_at, 0.0), self._planned if self._absolute else burst)
        self.position = self.position + self._limiter.velocity * since
        self._stepped_at = self._placed_at = now
        return self._execute(choice, elapsed, None)

    def answer(self, choice: Choice, stamp_ns: int) -> GuardReport | None:
        """Lockstep: the command for one control period; None as in `follow`."""
        if self._absolute and not self.located:
            return None
        self._before = self._limiter.save()
        return self._execute(choice, self._period, stamp_ns)

    def answer_instead(self, choice: Choice, stamp_ns: int) -> GuardReport:
        """Lockstep: another command in place of the last one, which leaves no trace."""
        self._limiter.restore(self._before)
        return self._execute(choice, self._period, stamp_ns)

    def still(self, choice: Choice) -> GuardReport | None:
        """A report of standing still that changes nothing; None as in `follow`."""
        if self._absolute and not self.located:
            return None
        resting = self.position if self._absolute else self._zero
        return _report(choice, resting.copy(), self._zero.copy(), self.position, False, None)

    def _execute(self, choice: Choice, elapsed: float, stamp: int | None) -> GuardReport:
        asked = choice.values
        wanted = self._zero if asked is None else self._velocity_for(asked, choice.remaining)
        safe = wanted
        if asked is not None and self._absolute:
            reach = self._limiter.approach(asked - self.position)
            safe = np.where(np.abs(wanted) > np.abs(reach), reach, wanted)
        velocity = self._limiter.move(safe, self.position, elapsed)
        clipped = asked is not None and bool((self._clipped(asked) != asked).any())
        slowed = asked is not None and bool((velocity != wanted).any())
        # A target says where to be, not how fast: the way there is the robot's dynamics.
        modified = clipped or (slowed and not self._absolute)
        if asked is not None and not clipped and not slowed:
            executed = asked.copy()
        elif self._absolute:
            executed = self.position + velocity * self._period
        else:
            executed = velocity / self._space.rate
        if self._absolute and self._lockstep:
            self.position = executed
        return _report(choice, executed, velocity, self.position, modified, stamp)

    def _clipped(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.minimum(np.maximum(values, self._low), self._high)
        return result

    def _velocity_for(
        self, values: NDArray[np.float64], remaining: float | None
    ) -> NDArray[np.float64]:
        """The velocity (D,), unit/s, that does what is asked within the time that remains (s)."""
        target = self._clipped(values)
        velocity: NDArray[np.float64] = target * self._space.rate
        if self._absolute:
            left = self._period if remaining is None else remaining
            velocity = (target - self.position) / max(left, self._settings.step_period)
        return velocity


def _report(
    choice: Choice,
    executed: NDArray[np.float64],
    velocity: NDArray[np.float64],
    position: NDArray[np.float64],
    modified: bool,
    stamp: int | None,
) -> GuardReport:
    reasons = (choice.reason, "limits changed the command" if modified else "")
    return GuardReport(
        stamp_ns=stamp,
        executed=executed,
        velocity=velocity,
        source=choice.source,
        modified=modified,
        fault=choice.fault,
        chunk_age=choice.chunk_age,
        point_index=choice.point_index,
        reasons=tuple(reason for reason in reasons if reason),
        position=position.copy(),
    )
