"""Policy and reward nodes of many robots round one set of models, in one thread."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from rclpy.context import Context
from rclpy.node import Node

from efm_bringup.batcher import Batcher
from efm_bringup.model_shelf import Loaded, ModelShelf, Versions
from efm_core.actions import ActionSpace
from efm_core.detector import DetectorSettings
from efm_core.observation import Decision, Observation, StepsToGo
from efm_policy_node.node import PolicyNode
from efm_reward_node.node import RewardNode
from efm_ros.executor import DrainingExecutor
from efm_ros.observation_source import Camera, ObservationSource
from efm_ros.qos import Clock


class InferenceHost:
    """Hosts `/<robot>/policy` and `/<robot>/reward` of each robot added.

    Questions are answered after the callbacks of a wake-up, so those that arrived together make
    one batch; threads that load or infer report through a guard condition of `node`.
    """

    def __init__(self, node: Node, load: Callable[[Versions, str], Loaded]) -> None:
        """`load`: see ModelShelf."""
        self._node = node
        self._guard = node.create_guard_condition(self._settle)
        self._kinds: dict[str, Hashable] = {}
        self.shelf = ModelShelf(load, self._kinds.__getitem__, self._wake)
        self.batcher = Batcher(self.shelf, self._wake)
        self._pairs: dict[str, tuple[PolicyNode, RewardNode]] = {}

    def add(
        self,
        robot: str,
        cameras: Sequence[Camera],
        space: ActionSpace,
        clock: Clock,
        context: Context | None = None,
    ) -> list[Node]:
        """Make the two nodes of a robot; the caller spins and destroys them."""
        self._kinds[robot] = (space.hash, tuple((c.name, c.width, c.height) for c in cameras))
        policy = PolicyNode(robot, space, clock, self, context=context)
        reward = RewardNode(robot, self, context=context)
        source = ObservationSource(policy, cameras, space.rate, clock)
        policy.attach(source)
        reward.attach(source)
        self._pairs[robot] = (policy, reward)
        return [policy, reward]

    def _wake(self) -> None:
        executor = self._node.executor
        if not (isinstance(executor, DrainingExecutor) and executor.call_soon(self._settle)):
            self._guard.trigger()

    def _settle(self) -> None:
        for robot in self.shelf.settle():
            self._report(robot)
            for node in self._pairs[robot]:
                node.on_models()
        self.batcher.flush()

    def _report(self, robot: str) -> None:
        state, loaded = self.shelf.state(robot), self.shelf.engine(robot)
        logger = self._node.get_logger()
        if state.errors:
            logger.error(f"{robot}: {self._refusal(robot, '')}")
        elif loaded is not None:
            logger.info(
                f"{robot}: policy '{state.versions.policy}', reward '{state.versions.reward}', "
                f"{loaded.seconds * 1e3:.1f} ms per answer; engines in memory: "
                f"{self.shelf.engines}"
            )

    def close(self) -> None:
        """End the threads."""
        self.shelf.close()
        self.batcher.close()

    # ---- PolicyHost and RewardHost -----------------------------------------------------------

    def want(self, robot: str, policy: str, reward: str) -> None:
        """The robot's episode wants these versions, "" for whatever it has."""
        self.shelf.want(robot, policy, reward)

    def policy(self, robot: str) -> tuple[str, bool, str]:
        """(version in force or "", whether another one is loading, why one was refused)."""
        state = self.shelf.state(robot)
        return state.versions.policy, state.loading, self._refusal(robot, "policy")

    def reward(self, robot: str) -> tuple[str, bool, str]:
        """(version in force or "", whether another one is loading, why one was refused)."""
        state = self.shelf.state(robot)
        return state.versions.reward, state.loading, self._refusal(robot, "reward")

    def _refusal(self, robot: str, role: str) -> str:
        """A pair is loaded or refused together, so both roles report what is wrong with it."""
        errors = self.shelf.state(robot).errors
        return errors.get(role) or "; ".join(errors.values())

    def detector(self, robot: str) -> DetectorSettings:
        """Settings of the success detector of the reward checkpoint in force."""
        loaded = self.shelf.engine(robot)
        return DetectorSettings() if loaded is None else loaded.engine.detector

    def act(
        self,
        robot: str,
        observation: Observation,
        draws: NDArray[np.float64],
        temperature: float,
        deliver: Callable[[Decision | ValueError], None],
    ) -> None:
        """Ask the policy; see Batcher.act."""
        self.batcher.act(robot, observation, draws, temperature, deliver)

    def judge(
        self,
        robot: str,
        observation: Observation,
        deliver: Callable[[StepsToGo | ValueError], None],
    ) -> None:
        """Ask the reward model; see Batcher.judge."""
        self.batcher.judge(robot, observation, deliver)
