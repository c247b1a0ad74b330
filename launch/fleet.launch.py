"""The fleet on a system ROS: the same processes as `efm fleet`, from the same description."""

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
from efm_core.fleet_processes import processes
from efm_ros.dds import dds_environment

PACKAGE = "efm_bringup"


def fleet_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """One action for every process of the description; what crashes comes back."""

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
        for process in logging_at(processes(fleet), value("log_level"))
    ]


def viewers(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """RViz on this fleet, and a monitor where the fleet starts none of its own."""
    seen = viewing(load_fleet(Path(LaunchConfiguration("fleet").perform(context))))
    return [
        *(
            Node(package=PACKAGE, executable=spec.executable, arguments=list(spec.args))
            for spec in seen.monitor
        ),
        Node(package="rviz2", executable="rviz2", arguments=["-d", str(seen.config)]),
    ]


def generate_launch_description() -> LaunchDescription:
    """Arguments: fleet, rviz, log_level, respawn."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "fleet",
                default_value=str(share("config/fleet.yaml")),
                description="fleet description (YAML); default: two simulated robots",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="false",
                choices=["true", "false"],
                description="show the robots in RViz",
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
            OpaqueFunction(function=fleet_nodes),
            OpaqueFunction(function=viewers, condition=IfCondition(LaunchConfiguration("rviz"))),
        ]
    )
