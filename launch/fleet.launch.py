"""The fleet on a system ROS: the same processes as `efm fleet`, from the same description."""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from efm_bringup.installed import share
from efm_core.fleet import load_fleet, processes
from efm_ros.dds import dds_environment

PACKAGE = "efm_bringup"


def fleet_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """One action for every process of the description; what crashes comes back after 2 s."""
    fleet = load_fleet(Path(LaunchConfiguration("fleet").perform(context)))
    return [
        Node(
            package=PACKAGE,
            executable=process.executable,
            arguments=list(process.args),
            output="both",
            respawn=True,
            respawn_delay=2.0,
        )
        for process in processes(fleet)
    ]


def generate_launch_description() -> LaunchDescription:
    """Arguments: fleet, the description's file; rviz, whether to show it."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "fleet",
                default_value=str(share("config/fleet.yaml")),
                description="fleet description (YAML); default: two simulated robots",
            ),
            DeclareLaunchArgument(
                "rviz", default_value="false", description="show the robots in RViz"
            ),
            *(
                SetEnvironmentVariable(name, value)
                for name, value in dds_environment().items()
                if os.environ.get(name) != value
            ),
            OpaqueFunction(function=fleet_nodes),
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", str(share("rviz/fleet.rviz"))],
                condition=IfCondition(LaunchConfiguration("rviz")),
            ),
        ]
    )
