"""PolicyNode: `/<robot>/policy`, answers every observation of a live episode with a chunk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.task import Future

from efm_core import messages
from efm_core.actions import ActionSpace
from efm_core.observation import Decision, Observation
from efm_core.topics import ACTION_CHUNK, DECISION, GUARD_STATE, POLICY_STATUS, remap_rules
from efm_policy_node.camera_watch import FROZEN_SECONDS, CommandedMotion, FrozenCameras
from efm_policy_node.policy_logic import Answer, Ask, PolicyLogic
from efm_ros.channels import Sender, receive
from efm_ros.managed import MANAGED, Heart, ManagedNode
from efm_ros.observation_source import ObservationSource
from efm_ros.observing import EpisodeView, Observed
from efm_ros.parameters import ParameterSpec, declare
from efm_ros.qos import Clock
from efm_ros.status import ERROR, OK, WARNING, StatusSender

PARAMETERS = (
    *MANAGED,
    ParameterSpec(
        "stale_s", 0.22, "real: without a picture for this long, or for 1.5 control periods if "
        "that is longer, the images are stale", "s", 0.02, 10.0,
    ),
    ParameterSpec(
        "frozen_s", FROZEN_SECONDS, "real: a picture that stays the same for this long while the "
        "robot is told to move is frozen", "s", 0.1, 60.0,
    ),
)  # fmt: skip

_AGAIN_SECONDS = 0.05
"""How soon pictures of a camera that was silent are noticed, at the latest."""
_SOONEST_SECONDS = 0.002


class PolicyHost(Protocol):
    """Where the models are: one engine for many robots."""

    def prepare(self, robot: str, role: str) -> Future | None:
        """Load and warm up what `role` (policy) most likely needs; done when that is over."""
        ...

    def release(self, robot: str, role: str) -> None:
        """The role needs no model any more."""
        ...

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


class PolicyNode(ManagedNode):
    """The policy of one robot. Its host owns the model and calls `on_models` after a change."""

    def __init__(
        self,
        robot: str,
        space: ActionSpace,
        clock: Clock,
        host: PolicyHost,
        *,
        context: Context | None = None,
        remaps: Mapping[str, str] | None = None,
        parameters: Sequence[Parameter] = (),
        heart: Heart | None = None,
    ) -> None:
        """`parameters`: values of `PARAMETERS` other than the defaults. heart: its process's."""
        super().__init__(
            "policy", namespace=robot, context=context, start_parameter_services=False,
            parameter_overrides=list(parameters),
            use_global_arguments=False,  # a process-wide remap must not rename every node
            cli_args=["--ros-args", *remap_rules(remaps or {})],
        )  # fmt: skip
        values = declare(self, PARAMETERS)
        self._robot, self._space, self._host = robot, space, host
        self._stale_s: float = values["stale_s"]
        self._logic = PolicyLogic(space)
        self._episode = EpisodeView()
        self._waiting: Observed | None = None
        self._sent: tuple[int, bytes, bytes] | None = None
        self._chunk, self._decision = Sender(self, ACTION_CHUNK), Sender(self, DECISION)
        self._status = StatusSender(
            self, POLICY_STATUS, "policy", episode_id="", version="", state="inactive", reason="",
            stale=False, frozen=False, decisions=0, deadline_missed=0,
        )  # fmt: skip
        self._refusal = ""
        self._silent: tuple[str, ...] = ()
        self._cameras = FrozenCameras(values["frozen_s"])
        self._motion = CommandedMotion(space)
        self._real = clock == "real"
        self._source: ObservationSource | None = None
        if self._real:
            steady = RosClock(clock_type=ClockType.STEADY_TIME)
            self._freshness = self.create_timer(
                self._stale_s, self._check_freshness, clock=steady
            )
        self.manage(heart or Heart(self, values["heartbeat_s"]), values["autostart"])

    def attach(self, source: ObservationSource) -> None:
        """Take observations from `source`."""
        self._source = source
        source.add(self)
        self._status.live = lambda: {"frames": json.dumps(source.frames())}
        if self._real:
            receive(self, GUARD_STATE, self._on_guard_state, "real", lazy=True)

    # ---- life cycle --------------------------------------------------------------------------

    def load(self) -> Future | None:
        """Have the host load a model, as far as it can know which."""
        return self._host.prepare(self._robot, "policy")

    def begin(self) -> None:
        """Answer from now on."""
        self._want()
        self._announce()

    def halt(self) -> None:
        """Say nothing more: the guard holds the robot once the chunk runs out, at the latest."""
        self._waiting = self._sent = None
        self._announce()

    def release(self) -> None:
        """The host need not keep the model for this node."""
        self._host.release(self._robot, "policy")

    # ---- Listener ----------------------------------------------------------------------------

    def on_episode(self, episode: EpisodeView) -> None:
        """`episode/status` changed."""
        before, self._episode = self._episode, episode
        if episode.episode_id != before.episode_id:
            self._logic.begin(episode.episode_id)
            self._cameras.begin()
            self._waiting, self._sent, self._refusal = None, None, ""
        if self.active and _wants(episode) != _wants(before):
            self._want()
        self._announce()

    def on_observed(self, observed: Observed) -> None:
        """An observation of a live episode."""
        if self._real:
            self._look_for_frozen(observed)
        if not self._uses_policy():
            return
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

    def _want(self) -> None:
        episode = self._episode
        self._host.want(self._robot, episode.policy_version, episode.reward_version)

    # ---- the model ---------------------------------------------------------------------------

    def _uses_policy(self) -> bool:
        """A person moves the robot in demonstrations, unless a policy is asked for as well."""
        episode = self._episode
        wanted = episode.mode != "demo" or bool(episode.policy_version)
        return self.active and episode.live and wanted

    def _in_force(self) -> bool:
        version, loading, _ = self._host.policy(self._robot)
        wanted = self._episode.policy_version
        return bool(version) and not loading and wanted in ("", version)

    def _ask(self, observed: Observed) -> None:
        episode = observed.episode
        ask = self._logic.ask(
            observed.observation, episode.seed, episode.temperature, observed.offsets,
            observed.received_s, observed.digests,
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
                answer.deadline_missed, ask.offsets, ask.digests,
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
        if not self.active:
            state, reason = "inactive", ""
        elif reason:
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
        frozen, still = self._cameras.frozen, self._cameras.still
        warned = self._silent or frozen or still
        self._status.announce(
            level=ERROR if state == "error" else WARNING if warned else OK,
            message=reason or self._complaint(), episode_id=self._episode.episode_id,
            version=version, state=state, reason=reason, stale=bool(self._silent),
            frozen=bool(frozen),
        )  # fmt: skip

    # ---- the cameras, in real time -----------------------------------------------------------

    def _complaint(self) -> str:
        """What is wrong with the cameras, in words."""
        parts = (
            ("no fresh picture", self._silent),
            ("the same picture while the robot is told to move", self._cameras.frozen),
            ("the same picture", self._cameras.still),
        )
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)

    def _check_freshness(self) -> None:
        """And look again when the next camera falls silent: a fixed period would come late."""
        assert self._source is not None
        limit = max(self._stale_s, 1.5 / self._space.rate)
        silent, left = self._source.silent_cameras(limit)
        if not self._uses_policy():
            silent = ()
        if silent:
            left = min(left, _AGAIN_SECONDS)
        self._freshness.timer_period_ns = int(1e9 * min(max(left, _SOONEST_SECONDS), limit))
        self._freshness.reset()
        if silent != self._silent:
            self._silent = silent
            self._announce()

    def _on_guard_state(self, message: Any) -> None:
        executed = messages.read_executed(messages.read_named_scalars(message), self._space)
        self._motion.on_guard(executed)

    def _look_for_frozen(self, observed: Observed) -> None:
        answer = self._logic.answer
        values = None if answer is None else answer.values
        told = self._motion.moving(values)
        moving = told and self._episode.phase == "running"
        stamp_ns = observed.observation.stamp_ns
        stamps = {n: stamp_ns + round(observed.offsets[n] * 1e9) for n in observed.digests}
        if self._cameras.update(observed.digests, stamps, moving, observed.received_s):
            self._announce()


def _wants(episode: EpisodeView) -> tuple[str, str, str]:
    return episode.episode_id, episode.policy_version, episode.reward_version
