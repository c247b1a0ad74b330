"""PolicyNode: `/<robot>/policy`, answers every observation of a live episode with a chunk."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.context import Context
from rclpy.node import Node

from efm_core import messages
from efm_core.actions import ActionSpace
from efm_core.observation import Decision, Observation
from efm_core.topics import ACTION_CHUNK, DECISION, POLICY_STATUS
from efm_policy_node.policy_logic import Answer, Ask, FrozenWatch, PolicyLogic
from efm_ros.channels import Sender
from efm_ros.observation_source import ObservationSource
from efm_ros.observing import EpisodeView, Observed
from efm_ros.qos import Clock
from efm_ros.status import ERROR, OK, WARNING, StatusSender

STALE_SECONDS = 0.25
"""Without a picture for this long (or 1.5 control periods) the policy's images are stale."""


class PolicyHost(Protocol):
    """Where the models are: one engine for many robots."""

    def want(self, robot: str, policy: str, reward: str) -> None:
        """The robot's episode wants these versions, "" for whatever it has."""
        ...

    def policy(self, robot: str) -> tuple[str, bool, str]:
        """(version in force or "", whether another one is loading, why one was refused)."""
        ...

    def act(
        self,
        robot: str,
        observation: Observation,
        draws: NDArray[np.float64],
        temperature: float,
        deliver: Callable[[Decision | ValueError], None],
    ) -> None:
        """Sample a decision; `deliver` is called soon, from the executor's thread."""
        ...


class PolicyNode(Node):
    """The policy of one robot. Its host owns the model and calls `on_models` after a change."""

    def __init__(
        self,
        robot: str,
        space: ActionSpace,
        clock: Clock,
        host: PolicyHost,
        *,
        context: Context | None = None,
    ) -> None:
        super().__init__(
            "policy", namespace=robot, context=context, start_parameter_services=False,
            use_global_arguments=False,  # a process-wide remap must not rename every node
        )  # fmt: skip
        self._robot, self._space, self._host = robot, space, host
        self._logic = PolicyLogic(space)
        self._episode = EpisodeView()
        self._waiting: Observed | None = None
        self._sent: tuple[int, bytes, bytes] | None = None
        self._chunk, self._decision = Sender(self, ACTION_CHUNK), Sender(self, DECISION)
        self._status = StatusSender(
            self, POLICY_STATUS, "policy", episode_id="", version="", state="idle", reason="",
            stale=False, frozen=False, decisions=0, deadline_missed=0,
        )  # fmt: skip
        self._refusal = ""
        self._stale = self._frozen = False
        self._watch = FrozenWatch()
        self._real = clock == "real"
        self._source: ObservationSource | None = None
        if self._real:
            steady = RosClock(clock_type=ClockType.STEADY_TIME)
            self.create_timer(0.05, self._check_freshness, clock=steady)

    def attach(self, source: ObservationSource) -> None:
        """Take observations from `source`."""
        self._source = source
        source.add(self)

    # ---- Listener ----------------------------------------------------------------------------

    def on_episode(self, episode: EpisodeView) -> None:
        """`episode/status` changed."""
        before, self._episode = self._episode, episode
        if episode.episode_id != before.episode_id:
            self._logic.begin(episode.episode_id)
            self._waiting, self._sent, self._refusal = None, None, ""
        if _wants(episode) != _wants(before):
            self._host.want(self._robot, episode.policy_version, episode.reward_version)
        self._announce()

    def on_observed(self, observed: Observed) -> None:
        """An observation of a live episode."""
        if not self._uses_policy():
            return
        if self._real:
            self._look_for_frozen(observed)
        stamp_ns = observed.observation.stamp_ns
        if self._sent is not None and self._sent[0] == stamp_ns and observed.repeated:
            self._chunk.send_bytes(self._sent[1])
            self._decision.send_bytes(self._sent[2])
            return
        if not self._in_force():
            self._waiting = observed
            return
        self._ask(observed)

    def on_models(self) -> None:
        """The host has loaded or refused what was wanted."""
        self._announce()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and self._uses_policy():
            if self._in_force():
                self._ask(waiting)
            else:
                self._waiting = waiting

    # ---- the model ---------------------------------------------------------------------------

    def _uses_policy(self) -> bool:
        """A person moves the robot in demonstrations, unless a policy is asked for as well."""
        return self._episode.live and (
            self._episode.mode != "demo" or bool(self._episode.policy_version)
        )

    def _in_force(self) -> bool:
        version, loading, _ = self._host.policy(self._robot)
        wanted = self._episode.policy_version
        return bool(version) and not loading and wanted in ("", version)

    def _ask(self, observed: Observed) -> None:
        episode = observed.episode
        ask = self._logic.ask(
            observed.observation, episode.seed, episode.temperature, observed.offsets,
            observed.received_s,
        )  # fmt: skip
        if ask is not None:
            self._host.act(
                self._robot, ask.observation, ask.draws, ask.temperature,
                partial(self._deliver, ask),
            )  # fmt: skip

    def _deliver(self, ask: Ask, decision: Decision | ValueError) -> None:
        if isinstance(decision, ValueError):
            self._logic.forget(ask)
            self._refusal = str(decision)
            self._announce()
            return
        version = self._host.policy(self._robot)[0]
        answer = self._logic.take(ask, decision, version, time.monotonic())
        if answer is not None:
            self._publish(answer)

    def _publish(self, answer: Answer) -> None:
        """The chunk first: the robot waits for it."""
        ask = answer.ask
        stamp_ns = ask.observation.stamp_ns
        chunk = self._chunk.send(
            messages.action_chunk(stamp_ns, ask.episode_id, self._space, answer.values)
        )
        decision = self._decision.send(
            messages.decision(
                stamp_ns, answer.version, answer.decision, self._space, answer.latency,
                answer.deadline_missed, ask.offsets,
            )
        )  # fmt: skip
        self._sent = (stamp_ns, chunk, decision)
        self._status.note(
            decisions=self._logic.decisions, deadline_missed=self._logic.deadline_missed
        )

    # ---- what is reported --------------------------------------------------------------------

    def _announce(self) -> None:
        version, loading, refused = self._host.policy(self._robot)
        reason = refused or self._refusal
        if reason:
            state = "error"
        elif loading:
            state = "loading"
        elif not self._uses_policy():
            state = "idle"
        elif self._in_force():
            state = "ready"
        else:
            state, reason = "error", "no policy version is given by the plan and none is loaded"
        if not self._episode.live and state == "error":
            state = "idle"  # the next episode asks again
        level = ERROR if state == "error" else WARNING if self._stale or self._frozen else OK
        self._status.announce(
            level=level, message=reason, episode_id=self._episode.episode_id, version=version,
            state=state, reason=reason, stale=self._stale, frozen=self._frozen,
        )  # fmt: skip

    def _check_freshness(self) -> None:
        assert self._source is not None
        limit = max(STALE_SECONDS, 1.5 / self._space.rate)
        age = time.monotonic() - self._source.picture_s
        stale = self._uses_policy() and age > limit
        if stale != self._stale:
            self._stale = stale
            self._announce()

    def _look_for_frozen(self, observed: Observed) -> None:
        digest = 0
        for image in observed.observation.images.values():
            digest = zlib.crc32(np.ascontiguousarray(image), digest)
        answer = self._logic.answer
        moving = self._episode.phase == "running" and answer is not None and bool(
            np.any(answer.values)
        )  # fmt: skip
        frozen = self._watch.update(digest, moving, observed.received_s)
        if frozen != self._frozen:
            self._frozen = frozen
            self._announce()


def _wants(episode: EpisodeView) -> tuple[str, str, str]:
    return episode.episode_id, episode.policy_version, episode.reward_version
