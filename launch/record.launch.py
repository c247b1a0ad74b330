"""A person at a joystick beside a running fleet: ROS's `joy` driver and `efm_teleop` per robot."""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from efm_bringup.installed import share
from efm_bringup.launching import LOG_LEVELS
from efm_bringup.teleop.launching import joysticks
from efm_core.fleet import load_fleet
from efm_ros.dds import dds_environment

PACKAGE = "efm_bringup"


def operator_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Driver and teleoperation for every pair of robot and joystick."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    path = Path(value("fleet")).absolute()
    nodes = []
    for robot, device in joysticks(load_fleet(path), value("robots"), value("devices")):
        driver = {"device_id": device, "autorepeat_rate": 20.0, "deadzone": 0.0}
        teleop = {"fleet": str(path), "robot": robot, "speed": float(value("speed"))}
        nodes += [
            Node(
                package=package,
                executable=executable,
                namespace=robot,
                parameters=[parameters],
                ros_arguments=["--log-level", value("log_level")],
                output="both",
                respawn=value("respawn") == "true",
                respawn_delay=2.0,
            )
            for package, executable, parameters in (
                ("joy", "joy_node", driver),
                (PACKAGE, "efm_teleop", teleop),
            )
        ]
    return nodes


def generate_launch_description() -> LaunchDescription:
    """Arguments: fleet, robots, devices, speed, log_level, respawn."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "fleet",
                default_value=str(share("config/fleet.yaml")),
                description="fleet description (YAML) of the fleet that runs already",
            ),
            DeclareLaunchArgument(
                "robots",
                default_value="",
                description="robots to drive, separated by commas; default: the fleet's first",
            ),
            DeclareLaunchArgument(
                "devices",
                default_value="",
                description="their joysticks' numbers (joy_enumerate_devices), default: 0,1,...",
            ),
            DeclareLaunchArgument(
                "speed", default_value="0.2", description="speed at full deflection, m/s"
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=LOG_LEVELS,
                description="how much every process says",
            ),
            DeclareLaunchArgument(
                "respawn",
                default_value="true",
                choices=["true", "false"],
                description="whether a process that ended is started again, after 2 s",
            ),
            *(
                SetEnvironmentVariable(name, value)
                for name, value in dds_environment().items()
                if os.environ.get(name) != value
            ),
            OpaqueFunction(function=operator_nodes),
        ]
    )
