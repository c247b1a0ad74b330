"""Every topic of a robot: its name below `/<robot>/`, its type and its quality of service.

The recorder, the nodes, the in-process writer and the documentation read this one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RESERVED_ROBOT_NAMES = frozenset({"fleet", "trainer"})

Qos = Literal["image", "reliable", "latched"]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic relative to the robot's namespace.

    qos: "image" (keep last 1; reliable in simulation and lockstep, best effort otherwise),
        "reliable" (depth 10), "latched" (reliable, transient local, depth 1).
    recorded: whether it belongs in every episode's bag. stamped: whether its header, if it has
        one, holds the time of each message (a trajectory for a driver bears 0 = begin at once).
    """

    name: str
    type: str
    qos: Qos = "reliable"
    recorded: bool = True
    stamped: bool = True


NAMED_SCALARS = "sensor_msgs/msg/JointState"
STATUS = "diagnostic_msgs/msg/DiagnosticArray"

JOINT_STATES = Topic("joint_states", NAMED_SCALARS)
EE_POSE = Topic("ee_pose", "geometry_msgs/msg/PoseStamped")
INSTRUCTION = Topic("instruction", "std_msgs/msg/String", "latched")
ACTION_CHUNK = Topic("policy/action_chunk", "trajectory_msgs/msg/JointTrajectory")
DECISION = Topic("policy/decision", NAMED_SCALARS)
POLICY_STATUS = Topic("policy/status", STATUS, "latched")
REWARD_STATUS = Topic("reward/status", STATUS, "latched")
GUARD_STATE = Topic("guard/state", NAMED_SCALARS)
TELEOP_TWIST = Topic("teleop/twist", "geometry_msgs/msg/TwistStamped")
TELEOP_JOINTS = Topic("teleop/joint_positions", NAMED_SCALARS)
RESET_TRAJECTORY = Topic("reset/joint_trajectory", ACTION_CHUNK.type, recorded=False)
"""Motion of a reset, one point at a time, laid out like an action chunk; the guard executes it."""
RESET_STATUS = Topic("reset/status", STATUS, "latched")
REWARD_STATE = Topic("reward/state", NAMED_SCALARS)
REWARD_STEPS_TO_GO = Topic("reward/steps_to_go", "std_msgs/msg/Float32")
REWARD_REWARD = Topic("reward/reward", "std_msgs/msg/Float32")
REWARD_SUCCESS = Topic("reward/success", "std_msgs/msg/Bool")
EPISODE_STATUS = Topic("episode/status", STATUS, "latched")
EPISODE_TICK = Topic("episode/tick", NAMED_SCALARS)
TRUTH_STATE = Topic("truth/state", NAMED_SCALARS)
TRUTH_SUCCESS = Topic("truth/success", "std_msgs/msg/Bool")
MARKERS = Topic("monitor/markers", "visualization_msgs/msg/MarkerArray", "latched", recorded=False)


def camera(name: str, compressed: bool = False) -> Topic:
    """The image topic of camera `name`."""
    if compressed:
        return Topic(
            f"camera/{name}/image_raw/compressed", "sensor_msgs/msg/CompressedImage", "image"
        )
    return Topic(f"camera/{name}/image_raw", "sensor_msgs/msg/Image", "image")


COMMAND_TYPES = {
    "twist": "geometry_msgs/msg/TwistStamped",
    "joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
    "positions": "std_msgs/msg/Float64MultiArray",
    "velocities": "std_msgs/msg/Float64MultiArray",
    "gripper": "std_msgs/msg/Float64MultiArray",
}
"""Kinds of commands (`efm_core.command_groups.Output`) -> type of their message."""


def command(group: str, output: str = "twist") -> Topic:
    """The command topic of a group: `command/<group>/<output>`, a gripper's `command/<group>`.

    Raises ValueError for an unknown kind of output.
    """
    if output not in COMMAND_TYPES:
        raise ValueError(f"command output '{output}' is none of {', '.join(COMMAND_TYPES)}")
    name = f"command/{group}" if output == "gripper" else f"command/{group}/{output}"
    return Topic(name, COMMAND_TYPES[output], stamped=output == "twist")


def twist_command(group: str) -> Topic:
    """The velocity command topic of a command group (metres per second, robot base frame)."""
    return command(group)


ROBOT_TOPICS: tuple[Topic, ...] = (
    JOINT_STATES, EE_POSE, INSTRUCTION, ACTION_CHUNK, DECISION, POLICY_STATUS, REWARD_STATUS,
    GUARD_STATE, TELEOP_TWIST, RESET_STATUS, REWARD_STATE, REWARD_STEPS_TO_GO, REWARD_REWARD,
    REWARD_SUCCESS, EPISODE_STATUS, EPISODE_TICK, TRUTH_STATE, TRUTH_SUCCESS,
)  # fmt: skip
"""All topics but cameras and commands, whose names depend on the robot's description."""


def remap_rules(remaps: Mapping[str, str]) -> list[str]:
    """Topic names -> the words of a command line that rename them, to follow `--ros-args`."""
    return [word for name, driver in remaps.items() for word in ("-r", f"{name}:={driver}")]


@dataclass(frozen=True, slots=True)
class FleetTopics:
    """Absolute names shared by the fleet; owned by the fleet node and the trainer node."""

    STOP_REQUEST: str = "/fleet/stop_request"  # std_msgs/Empty, reliable: every guard hears it
    STOPPED: str = "/fleet/stopped"  # std_msgs/Bool, latched, repeated at 10 Hz
    POLICY_VERSION: str = "/fleet/policy_version"  # std_msgs/String, latched
    PLAN: str = "/fleet/plan"  # std_msgs/String, latched: EpisodePlan as JSON
    STATUS: str = "/fleet/status"  # diagnostic_msgs/DiagnosticArray, latched
    HEARTBEAT: str = "/fleet/heartbeat"  # diagnostic_msgs/DiagnosticArray: docs/lifecycle.md
    TRAINER_STATUS: str = "/trainer/status"  # diagnostic_msgs/DiagnosticArray, latched


FLEET = FleetTopics()
