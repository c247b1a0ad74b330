"""The parameters with which every process of a fleet starts: the fleet file and its robot."""

from __future__ import annotations

from pathlib import Path

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from efm_core.fleet import FleetDescription, RobotDescription, load_fleet


def fleet_parameter(node: Node) -> FleetDescription:
    """Declare `fleet`, the path of the fleet file, and read the file.

    Raises ValueError when it is empty, FleetError when the file is no fleet.
    """
    path = str(_declare(node, "fleet", "path of the fleet description (YAML)"))
    if not path:
        raise ValueError("parameter 'fleet' is empty; start with -p fleet:=<path of fleet.yaml>")
    return load_fleet(Path(path))


def robot_parameter(node: Node, fleet: FleetDescription) -> RobotDescription:
    """Declare `robot` (default: the node's namespace) and find it in the fleet.

    Raises FleetError listing the robots there are, ValueError when the node's namespace is not
    the robot's: its topics would be nobody's.
    """
    namespace = node.get_namespace().strip("/")
    name = str(_declare(node, "robot", "robot's name; empty: the node's namespace")) or namespace
    robot = fleet.robot(name)
    if namespace != robot.name:
        raise ValueError(
            f"{node.get_name()} of robot '{name}' runs in namespace '/{namespace}'; "
            f"start it with -r __ns:=/{name}"
        )
    return robot


def _declare(node: Node, name: str, description: str) -> object:
    descriptor = ParameterDescriptor(description=description, read_only=True)
    return node.declare_parameter(name, "", descriptor).value
