"""One process with the models: `/<robot>/policy` and `/<robot>/reward` of every robot.

Besides the trainer this is the only process with torch in it.
"""

from __future__ import annotations

from typing import Any

import torch
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.context import Context
from rclpy.node import Node

from efm_bringup.inference_host import InferenceHost
from efm_bringup.model_loading import ModelLoader
from efm_ros.entrypoint import leave, run
from efm_ros.parameters import fleet_parameter


class InferenceNode(Node):
    """Holds the models; `hosted` are the policy and reward nodes, to be spun beside it.

    Parameters: `fleet` (path of the fleet file), `robots` (names served; empty: all of them),
    `threads` (of torch).
    """

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        """Raises ValueError naming what is wrong with the fleet or the robots asked for."""
        super().__init__("inference", context=context, start_parameter_services=False, **options)
        fleet = fleet_parameter(self)
        torch.set_num_threads(self._integer("threads", 1, "threads of torch"))
        names = [name for name in self._names() if name] or [r.name for r in fleet.robots]
        robots = [fleet.robot(name) for name in names]
        for robot in robots:
            for camera in robot.cameras:
                if camera.compressed:
                    raise ValueError(
                        f"{fleet.path}: robot '{robot.name}', camera '{camera.name}': compressed "
                        "pictures are not read yet; publish image_raw and set compressed: false"
                    )
        self._host = InferenceHost(self, ModelLoader(fleet).load)
        self.hosted: list[Node] = []
        for robot in robots:
            self.hosted += self._host.add(
                robot.name, robot.cameras, robot.space, fleet.clock, context
            )
        self.get_logger().info(f"serving {', '.join(names)} from {fleet.models_dir}")

    def _integer(self, name: str, default: int, description: str) -> int:
        descriptor = ParameterDescriptor(description=description, read_only=True)
        value = self.declare_parameter(name, default, descriptor).value
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"parameter '{name}' is {value}, expected a whole number above 0")
        return value

    def _names(self) -> list[str]:
        descriptor = ParameterDescriptor(description="robots served", read_only=True)
        return list(self.declare_parameter("robots", [""], descriptor).value or [])

    def destroy_node(self) -> None:
        """End the threads before the entities that they wake."""
        self._host.close()
        super().destroy_node()


def make_nodes() -> list[Node]:
    """The inference node and all the nodes that it hosts."""
    node = InferenceNode()
    return [node, *node.hosted]


def main() -> None:
    """Entry point of `efm_inference`."""
    leave(run(make_nodes))
