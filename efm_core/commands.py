"""From what the guard executed to what a robot's drivers take: command groups.

Pure: a `CommandMaker` turns each report of the guard into plain numbers, which
`efm_core.command_messages` puts into messages.

What reaches the driver is bounded by the guard: a twist and joint velocities are its velocity, a
position is its setpoint, which never leaves the limits and never moves faster than they allow. A
trajectory goes on with the velocity until the next one is due and then comes to rest within the
limits: should the guard die, the driver brings the arm to a stop by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_core.command_groups import (
    TWIST_FIELDS,
    CommandGroup,
    group_limits,
    longest_period,
    twist_field,
)
from efm_core.guard_report import Fault, GuardReport, Source
from efm_core.limits import GuardSettings, position_box

_POINTS = 6
"""Points of a trajectory after the first one: the braking, in equal parts."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Waypoint:
    """A point of a trajectory: time since its start (s), positions and velocities (J,)."""

    time: float
    positions: FloatArray
    velocities: FloatArray


@dataclass(frozen=True, slots=True)
class GroupCommand:
    """What one driver is told.

    values: float64; twist (6,) in m/s and rad/s, positions and gripper (J,) in the dimensions'
    units, velocities (J,) in unit/s, in the order of `group.joint_names`; for a trajectory the
    setpoint (J,) from which it starts. frame: of a twist. points: of a trajectory.
    """

    group: CommandGroup
    values: FloatArray
    frame: str = ""
    points: tuple[Waypoint, ...] = ()


class CommandMaker:
    """Turns the guard's reports into the commands that are due, group by group.

    groups: complete and checked (`complete`, `check_groups`). Not thread-safe.
    """

    def __init__(self, groups: Sequence[CommandGroup], settings: GuardSettings) -> None:
        space = settings.space
        self.groups = tuple(groups)
        self._settings, self._space = settings, space
        self._real = settings.clock == "real"
        self._index = {g.name: [space.names.index(d) for d in g.dims] for g in groups}
        _, self._acceleration = group_limits(settings)
        self._low, self._high = position_box(space, settings.workspace)
        self._sent: dict[str, float] = {}
        self._state: tuple[Source, Fault] | None = None
        # Grippers of a delta space: where they were sent, for they don't come back by themselves.
        self._grip = np.full(space.size, np.nan)
        self._velocity = np.zeros(space.size)
        self._at = -np.inf

    def commands(self, report: GuardReport, now: float) -> list[GroupCommand]:
        """The commands due after a report at steady time `now` (s); what is unknown is not sent.

        A change of source or fault goes out to everybody at once.
        """
        state = (report.source, report.fault)
        urgent, self._state = state != self._state, state
        self._follow_grippers(report, now)
        result = []
        for group in self.groups:
            if not (urgent or self._due(group, now)):
                continue
            command = self._command(group, report)
            if command is not None:
                self._sent[group.name] = now
                result.append(command)
        return result

    def _due(self, group: CommandGroup, now: float) -> bool:
        """Whether waiting for the guard's next step would be too long."""
        if not self._real or group.rate is None:
            return True
        since = now - self._sent.get(group.name, -np.inf)
        return since + self._settings.step_period > 1.0 / group.rate * (1.0 + 1e-6)

    def _command(self, group: CommandGroup, report: GuardReport) -> GroupCommand | None:
        index = self._index[group.name]
        velocity = report.velocity[index]
        if group.output == "twist":
            return self._twist(group, velocity)
        if group.output == "velocities":
            return GroupCommand(group, velocity.copy())
        delta = self._space.kind == "delta"
        where = self._grip if delta else report.position
        if where is None or not np.isfinite(where[index]).all():
            return None
        position = where[index].copy()
        if group.output != "joint_trajectory":
            return GroupCommand(group, position)
        # In lockstep the setpoint is where the robot shall be when the period is over.
        start = position if self._real else position - velocity / self._space.rate
        return GroupCommand(group, position, points=self._braking(group, start, velocity))

    def _twist(self, group: CommandGroup, velocity: FloatArray) -> GroupCommand:
        values = np.zeros(6)
        for dim, value in zip(group.dims, velocity, strict=True):
            values[TWIST_FIELDS.index(twist_field(dim) or "")] = value
        frame = self._space.frame if group.frame is None else group.frame
        return GroupCommand(group, values, frame)

    def _braking(
        self, group: CommandGroup, position: FloatArray, velocity: FloatArray
    ) -> tuple[Waypoint, ...]:
        """On with the velocity until the next command is due, then to rest, within the limits.

        A driver interpolates points with velocities by cubics: these meet the parabola of
        constant braking, and stay between two points while no velocity is over three times the
        mean one of either part (Fritsch and Carlson 1980), which the last line sees to.
        """
        index = self._index[group.name]
        first = min(longest_period(group, self._settings), group.span / 2.0)
        acceleration = self._acceleration[index]
        low = np.minimum(self._low[index], position)
        high = np.maximum(self._high[index], position)
        times = np.linspace(first, group.span, _POINTS + 1)
        braked = np.clip((times - first)[:, None], 0.0, np.abs(velocity) / acceleration)
        slope = np.sign(velocity) * acceleration
        places = position + velocity * first + velocity * braked - 0.5 * slope * braked**2
        speeds = velocity - slope * braked
        places, speeds[-1] = np.clip(places, low, high), 0.0
        mean = np.diff(np.vstack([position, places]), axis=0) / np.diff(times, prepend=0.0)[:, None]
        least = np.minimum(np.abs(mean), np.vstack([np.abs(mean[1:]), np.zeros_like(mean[:1])]))
        speeds = np.sign(speeds) * np.minimum(np.abs(speeds), 3.0 * least)
        return tuple(
            Waypoint(float(t), p, v) for t, p, v in zip(times, places, speeds, strict=True)
        )

    def _follow_grippers(self, report: GuardReport, now: float) -> None:
        """Delta spaces: carry the grippers' setpoints on with the velocity that was in force."""
        if self._space.kind != "delta":
            return
        if self._real:
            elapsed = min(max(now - self._at, 0.0), 2.0 * self._settings.step_period)
            moved = self._velocity * elapsed
        else:
            moved = report.velocity / self._space.rate
        self._at, self._velocity = now, report.velocity
        known = np.isfinite(self._grip)
        if report.position is not None:
            self._grip = np.where(known, self._grip, report.position)
        self._grip = np.clip(np.where(known, self._grip + moved, self._grip), self._low, self._high)
