"""The contents of every ROS message of efm, built and read in one place.

Messages are the plain dataclasses of the `rosbags` typestore (ROS 2 Jazzy): the in-process
writer serialises them as they are, a node converts them to rclpy's classes at the edge.
Every reader here is duck-typed and takes either kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from efm_core import camera_pixels
from efm_core.actions import ActionSpace
from efm_core.observation import Decision

typestore = get_typestore(Stores.ROS2_JAZZY)

_T = typestore.types
_Time = _T["builtin_interfaces/msg/Time"]
_Duration = _T["builtin_interfaces/msg/Duration"]
_Header = _T["std_msgs/msg/Header"]
_String = _T["std_msgs/msg/String"]
_Bool = _T["std_msgs/msg/Bool"]
_Empty = _T["std_msgs/msg/Empty"]
_Float32 = _T["std_msgs/msg/Float32"]
_Image = _T["sensor_msgs/msg/Image"]
_CompressedImage = _T["sensor_msgs/msg/CompressedImage"]
_JointState = _T["sensor_msgs/msg/JointState"]
_JointTrajectory = _T["trajectory_msgs/msg/JointTrajectory"]
_JointTrajectoryPoint = _T["trajectory_msgs/msg/JointTrajectoryPoint"]
_Vector3 = _T["geometry_msgs/msg/Vector3"]
_Point = _T["geometry_msgs/msg/Point"]
_Quaternion = _T["geometry_msgs/msg/Quaternion"]
_Pose = _T["geometry_msgs/msg/Pose"]
_PoseStamped = _T["geometry_msgs/msg/PoseStamped"]
_Twist = _T["geometry_msgs/msg/Twist"]
_TwistStamped = _T["geometry_msgs/msg/TwistStamped"]
_DiagnosticArray = _T["diagnostic_msgs/msg/DiagnosticArray"]
_DiagnosticStatus = _T["diagnostic_msgs/msg/DiagnosticStatus"]
_KeyValue = _T["diagnostic_msgs/msg/KeyValue"]

_SECOND = 1_000_000_000
_TWIST_FIELDS = {"x": 0, "y": 1, "z": 2, "rx": 3, "ry": 4, "rz": 5}


def serialize(msg: Any, type_name: str) -> bytes:
    """A typestore message -> its CDR bytes (little endian, 4-byte header included)."""
    return bytes(typestore.serialize_cdr(msg, type_name))


def deserialize(data: bytes, type_name: str) -> Any:
    """CDR bytes -> typestore message.

    Raises KeyError for a type the typestore lacks, ValueError for bytes that are no such message.
    """
    try:
        return typestore.deserialize_cdr(data, type_name)
    except SerdeError as error:
        raise ValueError(f"{len(data)} bytes are no {type_name}: {error}") from error


def _header(stamp_ns: int, frame_id: str) -> Any:
    sec, nanosec = divmod(int(stamp_ns), _SECOND)
    return _Header(stamp=_Time(sec=sec, nanosec=nanosec), frame_id=frame_id)


def stamp_of(msg: Any) -> int:
    """The header stamp of a message, int ns."""
    stamp = msg.header.stamp
    return int(stamp.sec) * _SECOND + int(stamp.nanosec)


def text(value: str) -> Any:
    """A std_msgs/String."""
    return _String(data=value)


def boolean(value: bool) -> Any:
    """A std_msgs/Bool."""
    return _Bool(data=bool(value))


def empty() -> Any:
    """A std_msgs/Empty."""
    return _Empty()


def float32(value: float) -> Any:
    """A std_msgs/Float32."""
    return _Float32(data=float(value))


def named_scalars(stamp_ns: int, frame_id: str, scalars: Mapping[str, float]) -> Any:
    """Named scalars as a JointState: `name` and `position` (float64) in the mapping's order."""
    empty = np.empty(0, dtype=np.float64)
    return _JointState(
        header=_header(stamp_ns, frame_id),
        name=list(scalars),
        position=np.fromiter((float(v) for v in scalars.values()), np.float64, len(scalars)),
        velocity=empty,
        effort=empty,
    )


def read_named_scalars(msg: Any) -> dict[str, float]:
    """A JointState -> {name: position}. Raises ValueError when the two lengths differ."""
    if len(msg.name) != len(msg.position):
        raise ValueError(
            f"named scalars hold {len(msg.name)} names and {len(msg.position)} positions; "
            "the sender must give one position per name"
        )
    return dict(zip(msg.name, np.asarray(msg.position, dtype=np.float64).tolist(), strict=True))


def image(stamp_ns: int, frame_id: str, rgb: NDArray[np.uint8]) -> Any:
    """An RGB picture, uint8 (H, W, 3) -> sensor_msgs/Image with encoding rgb8.

    Raises ValueError for another shape or dtype.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"image is {rgb.dtype} {rgb.shape}, expected uint8 (H, W, 3) RGB")
    height, width = rgb.shape[:2]
    return _Image(
        header=_header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=width * 3,
        data=np.ascontiguousarray(rgb).reshape(-1),
    )


def compressed_image(stamp_ns: int, frame_id: str, image_format: str, data: bytes) -> Any:
    """Bytes of a JPEG or PNG file -> sensor_msgs/CompressedImage; image_format: "jpeg" or "png"."""
    return _CompressedImage(
        header=_header(stamp_ns, frame_id),
        format=image_format,
        data=np.frombuffer(data, dtype=np.uint8),
    )


def read_image(msg: Any) -> NDArray[np.uint8]:
    """A sensor_msgs/Image or CompressedImage -> uint8 (H, W, 3), RGB.

    See `efm_core.camera_pixels.decode`, which robot and trainer share. Raises ValueError naming
    the field that is wrong.
    """
    return camera_pixels.decode(msg)


def action_chunk(stamp_ns: int, episode_id: str, space: ActionSpace, values: ArrayLike) -> Any:
    """A chunk of actions, (chunk, D) in action-space units -> JointTrajectory.

    Point i is valid for [i, i + 1) / rate s after the stamp (the observation's); frame_id is the
    episode id. Deltas travel as rates, value x rate, in `velocities`; absolute targets in
    `positions`. Raises ValueError for another shape (NaN passes: refusing it is the guard's part).
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (space.chunk, space.size):
        raise ValueError(f"chunk has shape {array.shape}, expected {(space.chunk, space.size)}")
    empty = np.empty(0, dtype=np.float64)
    delta = space.kind == "delta"
    points = []
    for i, row in enumerate(array):
        sec, nanosec = divmod(round(i / space.rate * _SECOND), _SECOND)
        points.append(
            _JointTrajectoryPoint(
                positions=empty if delta else row,
                velocities=row * space.rate if delta else empty,
                accelerations=empty,
                effort=empty,
                time_from_start=_Duration(sec=sec, nanosec=nanosec),
            )
        )
    return _JointTrajectory(
        header=_header(stamp_ns, episode_id), joint_names=list(space.names), points=points
    )


def read_action_chunk(msg: Any, space: ActionSpace) -> NDArray[np.float64]:
    """A JointTrajectory -> float64 (chunk, D) in action-space units (delta: rate / rate).

    Raises ValueError naming the field when names, number of points, their length or their times
    differ from the action space. Values are not judged here.
    """
    if tuple(msg.joint_names) != space.names:
        raise ValueError(f"joint_names are {tuple(msg.joint_names)}, expected {space.names}")
    if len(msg.points) != space.chunk:
        raise ValueError(f"points holds {len(msg.points)} actions, expected {space.chunk}")
    field = "velocities" if space.kind == "delta" else "positions"
    result = np.empty((space.chunk, space.size))
    for i, point in enumerate(msg.points):
        row = getattr(point, field)
        if len(row) != space.size:
            raise ValueError(f"points[{i}].{field} has {len(row)} values, expected {space.size}")
        since = point.time_from_start.sec + point.time_from_start.nanosec / _SECOND
        if abs(since - i / space.rate) > 1e-3:
            raise ValueError(
                f"points[{i}].time_from_start is {since:.6f} s, expected {i / space.rate:.6f} s"
            )
        result[i] = row
    return result / space.rate if space.kind == "delta" else result


def bin_names(space: ActionSpace) -> list[str]:
    """Names of the token scalars in order: bin/<dim>, for chunks of several bin/<i>/<dim>."""
    if space.chunk == 1:
        return [f"bin/{name}" for name in space.names]
    return [f"bin/{i}/{name}" for i in range(space.chunk) for name in space.names]


def decision(
    stamp_ns: int,
    policy_version: str,
    decision: Decision,
    space: ActionSpace,
    latency: float,
    deadline_missed: bool,
    offsets: Mapping[str, float],
    digests: Mapping[str, int] | None = None,
) -> Any:
    """What the policy sampled: named scalars with frame_id = policy version.

    latency: s from the image's receipt to the answer; the scalar `inference` is the model's share
    of it. offsets: stamp of each further input minus the decision's, in s. digests (real time):
    camera -> checksum of the picture used.
    """
    bins = np.asarray(decision.bins).reshape(-1)
    scalars = dict(zip(bin_names(space), bins.astype(np.float64).tolist(), strict=True))
    scalars["log_prob"] = decision.log_prob
    scalars["entropy"] = decision.entropy
    scalars["temperature"] = decision.temperature
    scalars["latency"] = latency
    scalars["inference"] = decision.seconds
    scalars["deadline_missed"] = float(deadline_missed)
    scalars.update(_inputs(offsets, digests or {}))
    return named_scalars(stamp_ns, policy_version, scalars)


def _inputs(offsets: Mapping[str, float], digests: Mapping[str, int]) -> dict[str, float]:
    """What an answer was made from, as scalars; a checksum of 32 bits fits a float64."""
    named = {f"offset/{name}": value for name, value in offsets.items()}
    return {**named, **{f"digest/{name}": float(value) for name, value in digests.items()}}


def read_inputs(scalars: Mapping[str, float]) -> tuple[dict[str, float], dict[str, int]]:
    """The scalars of policy/decision or reward/state -> (offsets in s, digests), by input."""
    offsets = {n[7:]: v for n, v in scalars.items() if n.startswith("offset/")}
    digests = {n[7:]: int(v) for n, v in scalars.items() if n.startswith("digest/")}
    return offsets, digests


def read_decision(msg: Any, space: ActionSpace) -> tuple[str, Decision]:
    """policy/decision -> (policy version, Decision). Raises ValueError naming a missing scalar."""
    return msg.header.frame_id, decision_from_scalars(read_named_scalars(msg), space)


def decision_from_scalars(scalars: Mapping[str, float], space: ActionSpace) -> Decision:
    """The scalars of policy/decision -> Decision; see `read_decision`."""
    try:
        bins = np.array([scalars[name] for name in bin_names(space)])
        return Decision(
            bins=np.rint(bins).astype(np.int64).reshape(space.chunk, space.size),
            log_prob=scalars["log_prob"],
            entropy=scalars.get("entropy", float("nan")),
            temperature=scalars["temperature"],
        )
    except KeyError as error:
        raise ValueError(f"policy/decision lacks the scalar '{error.args[0]}'") from error


def guard_state(
    stamp_ns: int,
    executed: ArrayLike,
    space: ActionSpace,
    source: int,
    modified: bool,
    fault: int,
    chunk_age: float,
    point_index: int,
    frame_id: str = "",
) -> Any:
    """What the guard let through in one tick.

    executed: (D,) in action-space units (per tick for deltas). source: 0 hold, 1 policy,
    2 teleop, 3 reset. fault: `efm_core.guard.Fault`. chunk_age: s since receipt, -1 without one.
    """
    values = np.asarray(executed, dtype=np.float64).tolist()
    scalars = {f"executed/{n}": v for n, v in zip(space.names, values, strict=True)}
    scalars["source"] = float(source)
    scalars["modified"] = float(modified)
    scalars["fault"] = float(fault)
    scalars["chunk_age"] = chunk_age
    scalars["point_index"] = float(point_index)
    return named_scalars(stamp_ns, frame_id, scalars)


def read_executed(scalars: Mapping[str, float], space: ActionSpace) -> NDArray[np.float64]:
    """The scalars of guard/state -> executed action, float64 (D,), action-space units."""
    try:
        return np.array([scalars[f"executed/{name}"] for name in space.names])
    except KeyError as error:
        raise ValueError(f"guard/state lacks the scalar '{error.args[0]}'") from error


def reward_state(
    stamp_ns: int,
    version: str,
    mean: float,
    std: float,
    reward: float,
    success: bool,
    offsets: Mapping[str, float] | None = None,
    digests: Mapping[str, int] | None = None,
) -> Any:
    """reward/state: steps-to-go and its deviation, reward (steps), success; frame_id = version.

    offsets, digests (real time): as in `decision`.
    """
    scalars = {
        "steps_to_go": mean,
        "steps_to_go_std": std,
        "reward": reward,
        "success": float(success),
        **_inputs(offsets or {}, digests or {}),
    }
    return named_scalars(stamp_ns, version, scalars)


def tick(stamp_ns: int, k: int, episode_id: str = "", still: bool = False) -> Any:
    """episode/tick: the manager's go-ahead for tick k; frame_id = episode id.

    still: the episode has ended and the arm shall rest in this tick.
    """
    return named_scalars(stamp_ns, episode_id, {"tick": float(k), "still": float(still)})


def twist(
    stamp_ns: int,
    frame: str,
    linear: Sequence[float],
    angular: Sequence[float] = (0.0, 0.0, 0.0),
) -> Any:
    """A TwistStamped: linear (x, y, z) in m/s and angular (x, y, z) in rad/s, in `frame`."""
    lx, ly, lz = (float(v) for v in linear)
    ax, ay, az = (float(v) for v in angular)
    return _TwistStamped(
        header=_header(stamp_ns, frame),
        twist=_Twist(linear=_Vector3(x=lx, y=ly, z=lz), angular=_Vector3(x=ax, y=ay, z=az)),
    )


def twist_from_action(stamp_ns: int, space: ActionSpace, velocity: ArrayLike) -> Any:
    """Velocities (D,) in unit/s -> TwistStamped in the space's frame.

    Dimensions named x, y, z are linear and rx, ry, rz angular; others raise ValueError.
    """
    values = [0.0] * 6
    for name, value in zip(space.names, np.asarray(velocity, np.float64).tolist(), strict=True):
        values[_twist_field(name)] = value
    return twist(stamp_ns, space.frame, values[:3], values[3:])


def action_from_twist(msg: Any, space: ActionSpace) -> NDArray[np.float64]:
    """A TwistStamped -> velocities, float64 (D,), unit/s, of the space's dimensions.

    0 for a dimension that is not named like a part of a twist: of a gripper it says nothing.
    """
    linear, angular = msg.twist.linear, msg.twist.angular
    values = (linear.x, linear.y, linear.z, angular.x, angular.y, angular.z)
    fields = [_TWIST_FIELDS.get(name) for name in space.names]
    return np.array([0.0 if i is None else values[i] for i in fields], dtype=np.float64)


def _twist_field(name: str) -> int:
    if name not in _TWIST_FIELDS:
        raise ValueError(
            f"action dimension '{name}' has no place in a twist; "
            f"name it one of {', '.join(_TWIST_FIELDS)} or command joints instead"
        )
    return _TWIST_FIELDS[name]


def pose(
    stamp_ns: int,
    frame: str,
    xyz: Sequence[float],
    quat: Sequence[float] = (0.0, 0.0, 0.0, 1.0),
) -> Any:
    """A PoseStamped: position (x, y, z) in m, orientation quaternion (x, y, z, w), in `frame`."""
    x, y, z = (float(v) for v in xyz)
    qx, qy, qz, qw = (float(v) for v in quat)
    return _PoseStamped(
        header=_header(stamp_ns, frame),
        pose=_Pose(position=_Point(x=x, y=y, z=z), orientation=_Quaternion(x=qx, y=qy, z=qz, w=qw)),
    )


def read_position(msg: Any) -> NDArray[np.float64]:
    """The position of a PoseStamped, float64 (3,), m, in its frame."""
    p = msg.pose.position
    return np.array([p.x, p.y, p.z], dtype=np.float64)


def read_pose_scalars(msg: Any) -> dict[str, float]:
    """A PoseStamped -> ee_x, ee_y, ee_z in m, as an observation's state calls them."""
    return dict(zip(("ee_x", "ee_y", "ee_z"), read_position(msg).tolist(), strict=True))


def status(
    stamp_ns: int, name: str, values: Mapping[str, str], level: int = 0, message: str = ""
) -> Any:
    """A DiagnosticArray with one status. level: 0 ok, 1 warning, 2 error, 3 stale."""
    entry = _DiagnosticStatus(
        level=int(level),
        name=name,
        message=message,
        hardware_id="",
        values=[_KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    return _DiagnosticArray(header=_header(stamp_ns, ""), status=[entry])


def read_status(msg: Any) -> dict[str, str]:
    """The key-value pairs of a DiagnosticArray's first status; {} when it has none."""
    return {pair.key: pair.value for pair in msg.status[0].values} if msg.status else {}


def position_of(msg: Any, space: ActionSpace) -> NDArray[np.float64]:
    """A PoseStamped -> position of each dimension, float64 (D,), m; NaN for all but x, y and z."""
    xyz = dict(zip(("x", "y", "z"), read_position(msg).tolist(), strict=True))
    return np.array([xyz.get(name, np.nan) for name in space.names])
