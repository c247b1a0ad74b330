"""One process with the models: `/<robot>/policy` and `/<robot>/reward` of every robot.

Besides the trainer this is the only process with torch in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from efm_bringup.inference_host import InferenceHost
from efm_bringup.model_loading import ModelLoader
from efm_bringup.model_shelf import Versions
from efm_core.checkpoint import read_manifest
from efm_core.episode import Mode
from efm_core.registry import Registry
from efm_policy_node.node import PARAMETERS as POLICY_PARAMETERS
from efm_reward_node.node import PARAMETERS as REWARD_PARAMETERS
from efm_ros.channels import PLAN, receive
from efm_ros.entrypoint import leave, run
from efm_ros.managed import Heart
from efm_ros.parameters import FLEET, ParameterSpec, declare, described_fleet

PARAMETERS = (
    FLEET,
    ParameterSpec("robots", (), "names of the robots served; none: all of the fleet"),
    ParameterSpec("threads", 1, "threads of torch", "", 1, 256),
    *dict.fromkeys((*POLICY_PARAMETERS, *REWARD_PARAMETERS)),
)
"""Those of policy and reward are handed on to the nodes of every robot."""


class InferenceNode(Node):
    """Holds the models; `hosted` are the policy and reward nodes, to be spun beside it.

    Parameters: `PARAMETERS`.
    """

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        """Raises ValueError naming what is wrong with the fleet or the robots asked for."""
        super().__init__("inference", context=context, **options)
        values = declare(self, PARAMETERS)
        fleet = described_fleet(values)
        torch.set_num_threads(values["threads"])
        names = values["robots"] or [robot.name for robot in fleet.robots]
        robots = [fleet.robot(name) for name in names]
        self._registry = Registry(fleet.models_dir)
        self._plan, self._demonstrations = Versions(), False
        receive(self, PLAN, self._on_plan)
        self._host = InferenceHost(
            self, ModelLoader(fleet).load, self._expected, Heart(self, values["heartbeat_s"])
        )
        self.hosted: list[Node] = []
        for robot in robots:
            self.hosted += self._host.add(
                robot.name, robot.cameras, robot.space, fleet.clock, context, robot.remaps,
                robot.state_tolerance, _handed_on(values),
            )  # fmt: skip
        self.get_logger().info(f"serving {', '.join(names)} from {fleet.models_dir}")

    def _on_plan(self, message: Any) -> None:
        plan = json.loads(message.data)
        self._plan = Versions(plan.get("policy_version", ""), plan.get("reward_version", ""))
        self._demonstrations = plan.get("mode") == Mode.DEMO.value

    def _expected(self) -> Versions:
        """The plan's versions; the champion where it names no policy, and its reward likewise.

        So a rollback reaches every robot with its next episode, unless the plan names a version
        or is of demonstrations.
        """
        if self._plan.policy or self._demonstrations:
            return self._plan
        try:
            champion = self._registry.alias("champion") or ""
            manifest = read_manifest(self._registry.path(champion)) if champion else None
        except (ValueError, OSError) as error:
            self.get_logger().warning(
                f"the champion is not loaded: {error}", throttle_duration_sec=10.0
            )
            return self._plan
        reward = manifest.reward_version if manifest else ""
        there = reward if reward in self._registry.versions() else ""
        return Versions(champion, self._plan.reward or there)

    def destroy_node(self) -> None:
        """End the threads before the entities that they wake."""
        self._host.close()
        super().destroy_node()


def _handed_on(values: Mapping[str, Any]) -> dict[str, Sequence[Parameter]]:
    roles = {"policy": POLICY_PARAMETERS, "reward": REWARD_PARAMETERS}
    return {
        role: [Parameter(spec.name, value=values[spec.name]) for spec in specs]
        for role, specs in roles.items()
    }


def make_nodes() -> list[Node]:
    """The inference node and all the nodes that it hosts."""
    node = InferenceNode()
    return [node, *node.hosted]


def main() -> None:
    """Entry point of `efm_inference`."""
    leave(run(make_nodes))
