"""One robot of a fleet by itself, real or simulated, with the models it needs."""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from efm_bringup.installed import share
from efm_bringup.launching import LOG_LEVELS, logging_at, one_robot
from efm_core.fleet import load_fleet
from efm_ros.dds import dds_environment

PACKAGE = "efm_bringup"


def robot_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The robot's processes, the inference and the fleet node."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    fleet = load_fleet(Path(value("fleet")))
    return [
        Node(
            package=PACKAGE,
            executable=process.executable,
            arguments=list(process.args),
            output="both",
            respawn=value("respawn") == "true",
            respawn_delay=2.0,
        )
        for process in logging_at(one_robot(fleet, value("robot")), value("log_level"))
    ]


def generate_launch_description() -> LaunchDescription:
    """Arguments: fleet, robot, log_level, respawn."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "fleet",
                default_value=str(share("config/fleet.yaml")),
                description="fleet description (YAML); default: two simulated robots",
            ),
            DeclareLaunchArgument(
                "robot",
                default_value="robot1",
                description="which robot of the fleet; with kind: driver its own driver must run",
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
            OpaqueFunction(function=robot_nodes),
        ]
    )
