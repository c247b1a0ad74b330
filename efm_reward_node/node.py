"""RewardNode: `/<robot>/reward`, judges every observation of a live episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.task import Future

from efm_core import messages
from efm_core.detector import DetectorSettings
from efm_core.observation import Observation, StepsToGo
from efm_core.topics import (
    REWARD_REWARD,
    REWARD_STATE,
    REWARD_STATUS,
    REWARD_STEPS_TO_GO,
    REWARD_SUCCESS,
    remap_rules,
)
from efm_reward_node.reward_logic import RewardAnswer, RewardLogic
from efm_ros.channels import Sender
from efm_ros.managed import MANAGED, Heart, ManagedNode
from efm_ros.observation_source import ObservationSource
from efm_ros.observing import EpisodeView, Observed
from efm_ros.parameters import declare
from efm_ros.status import ERROR, OK, StatusSender

PARAMETERS = MANAGED


class RewardHost(Protocol):
    """Where the models are: one engine for many robots."""

    def prepare(self, robot: str, role: str) -> Future | None:
        """Load and warm up what `role` (reward) most likely needs; done when that is over."""
        ...

    def release(self, robot: str, role: str) -> None:
        """The role needs no model any more."""
        ...

    def want(self, robot: str, policy: str, reward: str) -> None:
        """The robot's episode wants these versions, "" for whatever it has."""
        ...

    def reward(self, robot: str) -> tuple[str, bool, str]:
        """(version in force or "", whether another one is loading, why one was refused)."""
        ...

    def detector(self, robot: str) -> DetectorSettings:
        """Settings of the success detector, from the reward checkpoint in force."""
        ...

    def judge(
        self,
        robot: str,
        observation: Observation,
        deliver: Callable[[StepsToGo | ValueError], None],
    ) -> None:
        """Steps-to-go of one observation; `deliver` is called soon, from the executor's thread."""
        ...


class RewardNode(ManagedNode):
    """The reward model of one robot; its host calls `on_models` after a change."""

    def __init__(
        self,
        robot: str,
        host: RewardHost,
        *,
        context: Context | None = None,
        remaps: Mapping[str, str] | None = None,
        parameters: Sequence[Parameter] = (),
        heart: Heart | None = None,
    ) -> None:
        """`parameters`: values of `PARAMETERS` other than the defaults. heart: its process's."""
        super().__init__(
            "reward", namespace=robot, context=context, start_parameter_services=False,
            parameter_overrides=list(parameters),
            use_global_arguments=False,  # a process-wide remap must not rename every node
            cli_args=["--ros-args", *remap_rules(remaps or {})],
        )  # fmt: skip
        values = declare(self, PARAMETERS)
        self._robot, self._host = robot, host
        self._logic = RewardLogic()
        self._episode = EpisodeView()
        self._waiting: Observed | None = None
        self._asked_ns: int | None = None
        self._sent: tuple[int, bytes] | None = None
        self._state = Sender(self, REWARD_STATE)
        self._plots = tuple(
            Sender(self, topic) for topic in (REWARD_STEPS_TO_GO, REWARD_REWARD, REWARD_SUCCESS)
        )
        self._refusal = ""
        self._status = StatusSender(
            self, REWARD_STATUS, "reward", episode_id="", version="", state="inactive", reason="",
            stale=False, frozen=False, decisions=0, deadline_missed=0,
        )  # fmt: skip
        self.manage(heart or Heart(self, values["heartbeat_s"]), values["autostart"])

    def attach(self, source: ObservationSource) -> None:
        """Take observations from `source`."""
        source.add(self)

    # ---- life cycle --------------------------------------------------------------------------

    def load(self) -> Future | None:
        """Have the host load a model, as far as it can know which."""
        return self._host.prepare(self._robot, "reward")

    def begin(self) -> None:
        """Judge from now on."""
        self._want()
        self._announce()

    def halt(self) -> None:
        """Say nothing more; an episode without a judge ends as unknown, never as success."""
        self._waiting = self._asked_ns = self._sent = None
        self._announce()

    def release(self) -> None:
        """The host need not keep the model for this node."""
        self._host.release(self._robot, "reward")

    # ---- Listener ----------------------------------------------------------------------------

    def on_episode(self, episode: EpisodeView) -> None:
        """`episode/status` changed."""
        before, self._episode = self._episode, episode
        if episode.episode_id != before.episode_id:
            self._logic.begin(episode.episode_id)
            self._waiting = self._asked_ns = self._sent = None
            self._refusal = ""
        if self.active and _wants(episode) != _wants(before):
            self._want()
        self._announce()

    def on_observed(self, observed: Observed) -> None:
        """An observation of a live episode."""
        if not self._uses_reward():
            return
        stamp_ns = observed.observation.stamp_ns
        if self._sent is not None and self._sent[0] == stamp_ns and observed.repeated:
            self._state.send_bytes(self._sent[1])
        elif self._in_force():
            self._ask(observed)
        else:
            self._waiting = observed

    def on_models(self) -> None:
        """The host has loaded or refused what was wanted."""
        self._announce()
        if self._waiting is not None and self._uses_reward() and self._in_force():
            waiting, self._waiting = self._waiting, None
            self._ask(waiting)

    def _want(self) -> None:
        episode = self._episode
        self._host.want(self._robot, episode.policy_version, episode.reward_version)

    # ---- the model ---------------------------------------------------------------------------

    def _uses_reward(self) -> bool:
        """Demonstrations are judged only when their plan names a reward version."""
        episode = self._episode
        wanted = episode.mode != "demo" or bool(episode.reward_version)
        return self.active and episode.live and wanted

    def _in_force(self) -> bool:
        version, loading, _ = self._host.reward(self._robot)
        wanted = self._episode.reward_version
        return bool(version) and not loading and wanted in ("", version)

    def _ask(self, observed: Observed) -> None:
        if observed.observation.stamp_ns == self._asked_ns:
            return  # the answer is on its way
        self._asked_ns = observed.observation.stamp_ns
        self._host.judge(
            self._robot, observed.observation, partial(self._deliver, observed)
        )

    def _deliver(self, observed: Observed, word: StepsToGo | ValueError) -> None:
        if observed.episode.episode_id != self._episode.episode_id:
            return
        if isinstance(word, ValueError):
            self._asked_ns, self._refusal = None, str(word)
            self._announce()
            return
        observation = observed.observation
        settings = self._host.detector(self._robot)
        answer = self._logic.take(observation.stamp_ns, observation.tick, word, settings)
        self._publish(answer, observed)

    def _publish(self, answer: RewardAnswer, observed: Observed) -> None:
        version = self._host.reward(self._robot)[0]
        state = self._state.send(
            messages.reward_state(
                answer.stamp_ns, version, answer.mean, answer.std, answer.reward, answer.success,
                observed.offsets if observed.digests else None, observed.digests,
            )
        )  # fmt: skip
        self._sent = (answer.stamp_ns, state)
        steps_to_go, reward, success = self._plots
        steps_to_go.send(messages.float32(answer.mean))
        reward.send(messages.float32(answer.reward))
        success.send(messages.boolean(answer.success))
        self._status.note(decisions=self._logic.decisions)

    # ---- what is reported --------------------------------------------------------------------

    def _announce(self) -> None:
        version, loading, refused = self._host.reward(self._robot)
        reason = refused or self._refusal
        if not self.active:
            state, reason = "inactive", ""
        elif reason:
            state = "error"
        elif loading:
            state = "loading"
        elif not self._uses_reward():
            state = "idle"
        elif self._in_force():
            state = "ready"
        else:
            state, reason = "error", "no reward version is given by the plan and none is loaded"
        if not self._episode.live and state == "error":
            state = "idle"  # the next episode asks again
        self._status.announce(
            level=ERROR if state == "error" else OK, message=reason,
            episode_id=self._episode.episode_id, version=version, state=state, reason=reason,
        )  # fmt: skip


def _wants(episode: EpisodeView) -> tuple[str, str, str]:
    return episode.episode_id, episode.policy_version, episode.reward_version
