"""Commands as other people send them -> an action for every control period."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efm_core.actions import ActionSpace
from efm_core.cutting.frames import Transform, conjugate, product, rotation_vector
from efm_core.cutting.mapping import (
    TWIST_DIMS,
    ArrayAction,
    MappingError,
    NextAction,
    TrajectoryAction,
    TwistAction,
    action_dims,
)
from efm_core.cutting.tracks import Entry, Track

TYPES = {
    "twist": "geometry_msgs/msg/TwistStamped",
    "array": "std_msgs/msg/Float64MultiArray",
    "trajectory": "trajectory_msgs/msg/JointTrajectory",
}
CommandReader = Callable[[Any, str], NDArray[np.float64]]
"""(message, field of the mapping) -> values of the source's dimensions, float64 (d,)."""
CommandSource = TwistAction | ArrayAction | TrajectoryAction
State = tuple[Entry[Transform] | None, Entry[dict[str, float]] | None]
"""Pose and joints as paired with one observation."""


def check_frame(message: Any, said: str | None, space: ActionSpace, where: str, topic: str) -> None:
    """Raises MappingError when a message's frame is neither the space's nor said to be it."""
    found, wanted = message.header.frame_id.lstrip("/"), (said or space.frame).lstrip("/")
    if found and found != wanted:
        field = where.rsplit(".", 1)[0]
        raise MappingError(
            f"{topic} is in frame '{found}', the action space is in '{space.frame}'; if these are "
            f"the same axes, say {field}.frame: {found}, else take another topic (or source next)"
        )


def reader(source: CommandSource, space: ActionSpace) -> CommandReader:
    """How to read the messages of a source; a reader raises ValueError for one of no use."""
    dims = action_dims(source, space)
    if isinstance(source, TwistAction):
        return _twist_reader(source, space, dims)
    if isinstance(source, ArrayAction):

        def array(message: Any, where: str) -> NDArray[np.float64]:
            if len(message.data) != len(dims):
                field = where.rsplit(".", 1)[0]
                raise MappingError(
                    f"{source.topic} holds {len(message.data)} numbers, {field}.dims names "
                    f"{len(dims)}; name one dimension for each number"
                )
            return _finite(message.data)

        return array
    return _trajectory_reader(source, dims)


def _twist_reader(source: TwistAction, space: ActionSpace, dims: Sequence[str]) -> CommandReader:
    fields = [TWIST_DIMS.index(dim) for dim in dims if dim in TWIST_DIMS]
    if len(fields) != len(dims):
        raise MappingError(f"action: a twist has {', '.join(TWIST_DIMS)}, not {', '.join(dims)}")

    def twist(message: Any, where: str) -> NDArray[np.float64]:
        check_frame(message, source.frame, space, where, source.topic)
        linear, angular = message.twist.linear, message.twist.angular
        values = _finite([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        return values[fields]

    return twist


def _trajectory_reader(source: TrajectoryAction, dims: Sequence[str]) -> CommandReader:
    joints = [source.dims.get(dim, dim) for dim in dims]

    def trajectory(message: Any, where: str) -> NDArray[np.float64]:
        missing = [joint for joint in joints if joint not in message.joint_names]
        if missing:
            raise MappingError(
                f"{source.topic} commands {', '.join(message.joint_names)} and not "
                f"'{missing[0]}'; say {where.rsplit('.', 1)[0]}.dims: {{dimension: joint}}"
            )
        rates = source.values == "rate"
        point = message.points[0 if rates else -1]
        values = _finite(point.velocities if rates else point.positions)
        return values[[message.joint_names.index(joint) for joint in joints]]

    return trajectory


def _finite(values: Any) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError("a command holds NaN or infinity")
    return found


def commanded(
    source: CommandSource, track: Track[NDArray[np.float64]], space: ActionSpace,
    start_ns: int, end_ns: int,
) -> NDArray[np.float64] | None:  # fmt: skip
    """What a source told the robot in [start, end): (d,) in action-space units, None for nothing.

    A rate or step: the mean of its messages, else the last one before for as long as it holds.
    A target: the last one; as a delta, from the one in force at the start.
    """
    heard = track.between(start_ns, end_ns)
    before = track.before(start_ns)
    if source.values == "target" if not isinstance(source, TwistAction) else False:
        newest = heard[-1] if heard else before
        if newest is None:
            return None
        if space.kind == "absolute":
            return newest.value
        return newest.value - before.value if heard and before is not None else None
    if not heard and before is not None and start_ns - before.stamp_ns <= source.hold * 1e9:
        heard = [before]
    if not heard:
        return None
    mean = np.mean([entry.value for entry in heard], axis=0)
    steps = isinstance(source, ArrayAction) and source.values == "step"
    return np.asarray(mean if steps else mean / space.rate, dtype=np.float64)


def moved(
    source: NextAction, space: ActionSpace, here: State, there: State
) -> NDArray[np.float64] | None:
    """What the robot did from one observation to the next: (d,) in units, None if unknown.

    A delta is scaled from the time between the two states to one control period.
    """
    values = []
    for dim in action_dims(source, space):
        part = source.dims.get(dim, dim)
        now, then = here[part not in TWIST_DIMS], there[part not in TWIST_DIMS]
        if now is None or then is None or then.stamp_ns <= now.stamp_ns:
            return None
        if space.kind == "absolute":
            value = _part(then.value, part)
        else:
            periods = (then.stamp_ns - now.stamp_ns) * space.rate / 1e9
            value = _way(now.value, then.value, part) / periods
        if not np.isfinite(value):
            return None
        values.append(value)
    return np.array(values)


def _part(value: Any, part: str) -> float:
    if part in TWIST_DIMS:
        return float(value[0][TWIST_DIMS.index(part)])
    return float(value.get(part, np.nan))


def _way(now: Any, then: Any, part: str) -> float:
    """From one value to another; rotations in the base frame: then = turn x now."""
    if part in TWIST_DIMS[3:]:
        turn = rotation_vector(product(then[1], conjugate(now[1])))
        return float(turn[TWIST_DIMS.index(part) - 3])
    return _part(then, part) - _part(now, part)
