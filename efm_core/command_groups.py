"""Which driver moves which action dimensions of a robot, and with what kind of message.

A group is a set of dimensions with one driver and one kind of message; a robot may have several:
an arm, a gripper, a second arm. `check_groups` refuses what could not move the robot safely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from efm_core.actions import ActionSpace
from efm_core.limits import GuardSettings, dimension_limits, position_box

Output = Literal["twist", "joint_trajectory", "positions", "velocities", "gripper"]

JOINT_OUTPUTS = frozenset({"joint_trajectory", "positions", "velocities"})
TWIST_FIELDS = ("x", "y", "z", "rx", "ry", "rz")
MAX_SPAN = 0.5
"""Longest time for which a driver may go on without a new command, s (promise P3)."""
SERVO_RATE = 20.0
"""Fewest twists per second that keep MoveIt Servo going, Hz: below it its time-outs cut in."""
FloatArray = NDArray[np.float64]


class CommandGroup(BaseModel):
    """A driver, what it moves and how it is told.

    dims: action dimensions that it moves, in order; none = all. output: kind of message.
    rate: commands per second in real time, Hz; None = with every step of the guard.
    frame: of a twist; None = the action space's. joints: the driver's joint names, one for each
    dimension (None given: named like the dimensions). span: length of a trajectory, s.
    watchdog_s: the driver's own time-out, s; bare velocity forwarding is refused without it.
    topic: the driver's absolute topic name; "" = `command/<name>/<output>` of the robot.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
    output: Output = "twist"
    dims: tuple[str, ...] = ()
    rate: Annotated[float, Field(gt=0.0, le=500.0)] | None = None
    frame: str | None = None
    joints: tuple[str, ...] = ()
    span: Annotated[float, Field(gt=0.0)] = 0.4
    watchdog_s: Annotated[float, Field(gt=0.0)] | None = None
    topic: Annotated[str, Field(pattern=r"^(/[A-Za-z_][A-Za-z0-9_]*)*$")] = ""

    @field_validator("span")
    @classmethod
    def _short(cls, span: float) -> float:
        if span > MAX_SPAN:
            raise ValueError(
                f"{span} s is longer than {MAX_SPAN} s; an arm whose guard died would go on for so "
                f"long, so set span to {MAX_SPAN} or less"
            )
        return span

    @model_validator(mode="after")
    def _makes_sense(self) -> CommandGroup:
        if self.output == "velocities" and not 0.0 < (self.watchdog_s or 0.0) <= MAX_SPAN:
            raise ValueError(
                "bare velocity forwarding is refused: without a time-out in the driver the arm "
                f"goes on when the guard dies; declare watchdog_s (<= {MAX_SPAN} s) once the "
                "driver has one, or use output: positions or joint_trajectory"
            )
        if self.output == "twist" and self.rate is not None and self.rate < SERVO_RATE:
            raise ValueError(
                f"rate {self.rate} Hz is too low for twists; set it to {SERVO_RATE} Hz or more"
            )
        if self.joints and len(self.joints) != len(self.dims):
            raise ValueError(
                f"joints lists {len(self.joints)} names for {len(self.dims)} dims; give one joint "
                "for each dimension, in the same order"
            )
        return self

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The driver's name of each dimension."""
        return self.joints or self.dims

    @property
    def entry(self) -> str:
        """The group in one word for the recorder's parameter: name, or name:output."""
        return self.name if self.output == "twist" else f"{self.name}:{self.output}"


def twist_field(dim: str) -> str | None:
    """The component of a twist that a dimension is, "left_rz" -> "rz"; None if it is none."""
    last = dim.rpartition("_")[2]
    return last if last in TWIST_FIELDS else None


def complete(groups: Sequence[CommandGroup], space: ActionSpace) -> tuple[CommandGroup, ...]:
    """The groups with their dimensions written out (none given = all of the space)."""
    return tuple(g if g.dims else g.model_copy(update={"dims": space.names}) for g in groups)


def check_groups(groups: Sequence[CommandGroup], settings: GuardSettings) -> None:
    """Raise ValueError naming group, field and remedy when these groups can't move the robot."""
    space = settings.space
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise ValueError(f"groups: names repeat: {names}; each must be unique")
    _check_dims(groups, space)
    for i, group in enumerate(groups):
        place = f"groups[{i}] ('{group.name}')"
        if group.output == "twist":
            _check_twist(place, group, space)
        else:
            _check_joints(place, group, settings)
        if group.rate is not None and group.rate * settings.step_period > 1.0 + 1e-9:
            raise ValueError(
                f"{place}.rate: {group.rate} Hz is faster than the guard, which steps every "
                f"{settings.step_period} s; lower it or remove guard.step_period"
            )


def _check_dims(groups: Sequence[CommandGroup], space: ActionSpace) -> None:
    owner: dict[str, str] = {}
    joints: dict[str, str] = {}
    for i, group in enumerate(groups):
        for dim, joint in zip(group.dims, group.joint_names, strict=True):
            if dim not in space.names:
                raise ValueError(
                    f"groups[{i}] ('{group.name}').dims: '{dim}' is no action dimension; "
                    f"the space has {', '.join(space.names)}"
                )
            if dim in owner:
                raise ValueError(
                    f"groups[{i}] ('{group.name}').dims: '{dim}' is moved by group "
                    f"'{owner[dim]}' already; leave it in one of them"
                )
            if group.output != "twist" and joint in joints:
                raise ValueError(
                    f"groups[{i}] ('{group.name}').joints: '{joint}' belongs to group "
                    f"'{joints[joint]}' already; each joint has one group"
                )
            owner[dim] = joints[joint] = group.name
    left = [name for name in space.names if name not in owner]
    if left:
        raise ValueError(
            f"groups: nothing moves the action dimension '{left[0]}'; put it into a group's dims"
        )


def _check_twist(place: str, group: CommandGroup, space: ActionSpace) -> None:
    if space.kind != "delta":
        raise ValueError(
            f"{place}.output: a twist needs displacements, space.kind is '{space.kind}'; use "
            "output: joint_trajectory or positions, or space.kind: delta"
        )
    fields = [twist_field(dim) for dim in group.dims]
    for dim, field in zip(group.dims, fields, strict=True):
        if field is None or fields.count(field) > 1:
            raise ValueError(
                f"{place}.dims: '{dim}' has no place of its own in a twist; name the dimensions "
                f"{', '.join(TWIST_FIELDS)} (left_x and the like for a second arm)"
            )


def _check_joints(place: str, group: CommandGroup, settings: GuardSettings) -> None:
    space = settings.space
    wanted = {"joint_trajectory": "absolute", "positions": "absolute", "velocities": "delta"}
    kind = wanted.get(group.output, space.kind)
    if space.kind != kind:
        other = "velocities" if space.kind == "delta" else "positions"
        raise ValueError(
            f"{place}.output: {group.output} needs {kind} actions, space.kind is '{space.kind}'; "
            f"set space.kind: {kind}, or use output: {other}"
        )
    low, high = position_box(space, settings.workspace)
    for dim in group.dims:
        i = space.names.index(dim)
        if not np.isfinite([low[i], high[i]]).all():
            raise ValueError(
                f"{place}.dims: joint '{dim}' has no position limits; give them under "
                f"guard.workspace.{dim}: [low, high]"
            )
    if group.output == "joint_trajectory":
        _check_span(place, group, settings)


def _check_span(place: str, group: CommandGroup, settings: GuardSettings) -> None:
    speed, acceleration = group_limits(settings)
    first = longest_period(group, settings)
    for dim in group.dims:
        i = settings.space.names.index(dim)
        needed = first + float(speed[i] / acceleration[i])
        if needed > group.span + 1e-9:
            raise ValueError(
                f"{place}.span: '{dim}' takes {needed:.3f} s to come to rest, more than "
                f"{group.span} s; lengthen span (up to {MAX_SPAN}), lower "
                f"guard.limits.{dim}.max_speed or raise its max_acceleration"
            )


def group_limits(settings: GuardSettings) -> tuple[FloatArray, FloatArray]:
    """Speed and acceleration of every dimension, float64 (D,) each, unit/s and unit/s^2."""
    return dimension_limits(
        settings.space, settings.max_speed, settings.max_acceleration, settings.limits
    )


def longest_period(group: CommandGroup, settings: GuardSettings) -> float:
    """Longest time between two commands of a group, s."""
    if settings.clock == "lockstep":
        return 1.0 / settings.space.rate
    return settings.step_period if group.rate is None else 1.0 / group.rate
