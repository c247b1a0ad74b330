"""The messages for robots' drivers: what a `GroupCommand` holds, as a driver reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efm_core import messages
from efm_core.commands import GroupCommand

_T = messages.typestore.types
_Time = _T["builtin_interfaces/msg/Time"]
_Duration = _T["builtin_interfaces/msg/Duration"]
_Header = _T["std_msgs/msg/Header"]
_JointTrajectory = _T["trajectory_msgs/msg/JointTrajectory"]
_JointTrajectoryPoint = _T["trajectory_msgs/msg/JointTrajectoryPoint"]
_Float64MultiArray = _T["std_msgs/msg/Float64MultiArray"]
_MultiArrayLayout = _T["std_msgs/msg/MultiArrayLayout"]


def command_message(command: GroupCommand, stamp_ns: int) -> Any:
    """The message of `efm_core.topics.command(group)`; stamp_ns: time of sending (twists alone)."""
    output, values = command.group.output, command.values
    if output == "twist":
        linear, angular = values[:3].tolist(), values[3:].tolist()
        return messages.twist(stamp_ns, command.frame, linear, angular)
    if output == "joint_trajectory":
        return _trajectory(command)
    return numbers(values)


def numbers(values: ArrayLike) -> Any:
    """A std_msgs/Float64MultiArray without a layout, as forward_command_controller takes it."""
    data = np.array(values, dtype=np.float64).reshape(-1)
    return _Float64MultiArray(layout=_MultiArrayLayout(dim=[], data_offset=0), data=data)


def read_numbers(msg: Any) -> NDArray[np.float64]:
    """The data of a Float64MultiArray, float64 (N,)."""
    return np.asarray(msg.data, dtype=np.float64)


def _trajectory(command: GroupCommand) -> Any:
    """Stamp 0 = begin on receipt; the last point is at rest."""
    empty = np.empty(0, dtype=np.float64)
    points = []
    for point in command.points:
        sec, nanosec = divmod(round(point.time * 1e9), 1_000_000_000)
        points.append(
            _JointTrajectoryPoint(
                positions=np.ascontiguousarray(point.positions),
                velocities=np.ascontiguousarray(point.velocities),
                accelerations=empty,
                effort=empty,
                time_from_start=_Duration(sec=sec, nanosec=nanosec),
            )
        )
    header = _Header(stamp=_Time(sec=0, nanosec=0), frame_id="")
    names = list(command.group.joint_names)
    return _JointTrajectory(header=header, joint_names=names, points=points)
