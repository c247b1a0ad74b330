"""RViz on a fleet that runs already, on this machine or another one of its ROS domain."""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from efm_bringup.installed import share
from efm_bringup.launching import LOG_LEVELS, logging_at
from efm_bringup.monitor.viewing import viewing
from efm_core.fleet import load_fleet
from efm_ros.dds import dds_environment

PACKAGE = "efm_bringup"


def viewers(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The monitor, unless the fleet runs its own, and RViz."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    seen = viewing(load_fleet(Path(value("fleet"))), value("config"))
    return [
        *(
            Node(
                package=PACKAGE,
                executable=spec.executable,
                arguments=list(spec.args),
                output="both",
                respawn=value("respawn") == "true",
                respawn_delay=2.0,
            )
            for spec in logging_at(seen.monitor, value("log_level"))
        ),
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", str(seen.config)],
            condition=IfCondition(LaunchConfiguration("rviz")),
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    """Arguments: fleet, config (an RViz file), rviz (whether to show it), log_level, respawn."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "fleet",
                default_value=str(share("config/fleet.yaml")),
                description="fleet description (YAML) that the running fleet was started with",
            ),
            DeclareLaunchArgument(
                "config",
                default_value="",
                description="RViz configuration; default: one made for the fleet's robots",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="true",
                choices=["true", "false"],
                description="show RViz; false: markers alone, for Foxglove or another viewer",
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
            OpaqueFunction(function=viewers),
        ]
    )
