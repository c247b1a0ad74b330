"""Policy and reward nodes of many robots round one set of models, in one thread."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future

from efm_bringup.batcher import Batcher
from efm_bringup.model_shelf import Loaded, ModelShelf, Versions
from efm_core.actions import ActionSpace
from efm_core.camera_description import CameraDescription
from efm_core.detector import DetectorSettings
from efm_core.observation import Decision, Observation, StepsToGo
from efm_policy_node.node import PolicyNode
from efm_reward_node.node import RewardNode
from efm_ros.executor import DrainingExecutor
from efm_ros.managed import Heart
from efm_ros.observation_source import ObservationSource
from efm_ros.qos import Clock


class InferenceHost:
    """Hosts `/<robot>/policy` and `/<robot>/reward` of each robot added.

    Questions are answered after the callbacks of a wake-up, so those that arrived together make
    one batch; threads that load or infer report through a guard condition of `node`.
    """

    def __init__(
        self,
        node: Node,
        load: Callable[[Versions, str], Loaded],
        expected: Callable[[], Versions] = Versions,
        heart: Heart | None = None,
    ) -> None:
        """`load`: see ModelShelf. `expected`: the versions to use where an episode names none.

        heart: speaks for the nodes of all robots.
        """
        self._heart = heart
        self._expected = expected
        self._roles: dict[str, set[str]] = {}
        self._prepared: dict[str, list[Future]] = {}
        self._node = node
        self._guard = node.create_guard_condition(self._settle)
        self._kinds: dict[str, Hashable] = {}
        self.shelf = ModelShelf(load, self._kinds.__getitem__, self._wake)
        self.batcher = Batcher(self.shelf, self._wake)
        self._pairs: dict[str, tuple[PolicyNode, RewardNode]] = {}

    def add(
        self,
        robot: str,
        cameras: Sequence[CameraDescription],
        space: ActionSpace,
        clock: Clock,
        context: Context | None = None,
        remaps: Mapping[str, str] | None = None,
        state_tolerance: float = 0.1,
        parameters: Mapping[str, Sequence[Parameter]] | None = None,
    ) -> list[Node]:
        """Make the two nodes of a robot; the caller spins and destroys them.

        remaps: absolute topic names of efm -> the driver's (`RobotDescription.remaps`).
        state_tolerance: s, `RobotDescription.state_tolerance`.
        parameters: of the nodes, by the names policy and reward.
        """
        given = parameters or {}
        self._kinds[robot] = (space.hash, tuple((c.name, c.width, c.height) for c in cameras))
        policy = PolicyNode(
            robot, space, clock, self, context=context, remaps=remaps,
            parameters=given.get("policy", ()), heart=self._heart,
        )  # fmt: skip
        reward = RewardNode(
            robot, self, context=context, remaps=remaps,
            parameters=given.get("reward", ()), heart=self._heart,
        )  # fmt: skip
        source = ObservationSource(policy, cameras, space.rate, clock, state_tolerance)
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
            for future in self._prepared.pop(robot, []):
                future.set_result(None)
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

    # ---- life cycle of the two roles ---------------------------------------------------------

    def prepare(self, robot: str, role: str) -> Future | None:
        """Load and warm up the pair that is expected; None when there is nothing to wait for.

        A checkpoint that is refused is no failure: the episode that wants it says so, and another
        episode may want another one.
        """
        self._roles.setdefault(robot, set()).add(role)
        expected = self._expected()
        self.want(robot, expected.policy, expected.reward)
        if not self.shelf.state(robot).loading:
            return None
        future = Future()
        self._prepared.setdefault(robot, []).append(future)
        return future

    def release(self, robot: str, role: str) -> None:
        """Free the robot's models once neither role needs them."""
        roles = self._roles.get(robot, set())
        roles.discard(role)
        if not roles:
            self.shelf.forget(robot)

    # ---- PolicyHost and RewardHost -----------------------------------------------------------

    def want(self, robot: str, policy: str, reward: str) -> None:
        """The robot's episode wants these versions, "" for what is expected, else what it has."""
        expected = Versions() if policy and reward else self._expected()
        self.shelf.want(robot, policy or expected.policy, reward or expected.reward)

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
