"""What the messages of the robot's topics mean to the conductor.

Most messages are only recorded; of the few that steer the episode no more is decoded than needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from efm_core import messages, topics
from efm_core.episode import Outcome
from efm_core.guard_report import Fault
from efm_episode_manager import cdr
from efm_episode_manager.conductor import Conductor
from efm_episode_manager.scribe import ANSWERS
from efm_episode_manager.session import Session
from efm_episode_manager.state_machine import Phase

_ENDING_FAULTS = frozenset(
    {Fault.POLICY, Fault.SECOND_PUBLISHER, Fault.FROZEN_CAMERA, Fault.TRACKING}
)
"""Faults of the guard that end an episode at once; the others may pass."""


class Hearing:
    """Takes every message by its topic's name relative to the robot."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._core, self._course = conductor.core, conductor.course
        self._holding_s: float | None = None
        self._reset_state = "idle"
        self._handlers: dict[str, Callable[[bytes], None]] = {
            topics.JOINT_STATES.name: self._joint_states,
            topics.ACTION_CHUNK.name: self._action_chunk,
            topics.REWARD_STATE.name: self._reward_state,
            topics.GUARD_STATE.name: self._guard_state,
            topics.POLICY_STATUS.name: lambda data: self._model_status("policy", data),
            topics.REWARD_STATUS.name: lambda data: self._model_status("reward", data),
            topics.RESET_STATUS.name: self._reset_status,
        }

    def hear(self, name: str, data: bytes, received_ns: int, sent_ns: int = 0) -> None:
        """One message: CDR bytes, wall times of receipt and sending (0: unknown)."""
        self._core.gauges.hear(name)
        session = self._conductor.live_session
        if session is not None and name in ANSWERS and self._is_foreign(session, name, data):
            return
        self._core.record(name, data, received_ns, sent_ns)
        self._course.notice(name, data)
        handler = self._handlers.get(name)
        if handler is not None:
            handler(data)
        self._course.check_closed()

    def _is_foreign(self, session: Session, name: str, data: bytes) -> bool:
        """Whether this is another episode's or an earlier version's answer."""
        return not session.accepts(name, cdr.frame_id(data))

    def _alive(self, party: str) -> None:
        self._core.liveness.hear(party, self._core.now_s())

    def _answer(self, party: str, stamp_ns: int) -> bool:
        """`party` answered an observation: True before the episode runs, where that counts."""
        session = self._core.session
        if session is None or self._core.phase is not Phase.READY:
            return False
        if session.grid.tick(stamp_ns) is not None:
            session.answered.add(party)
            self._course.check_ready()
        return True

    def _joint_states(self, data: bytes) -> None:
        stamp_ns = cdr.stamp_ns(data)
        self._core.robot_stamp_ns = max(self._core.robot_stamp_ns, stamp_ns)
        session = self._conductor.live_session
        if session is not None and session.grid.tick(stamp_ns) is None:
            return  # a robot that was restarted shows another time: it is not this episode's
        self._alive("robot")
        if self._answer("robot", stamp_ns) or session is None:
            return
        if not session.needs_reward:
            self._course.observed(stamp_ns, success=False)

    def _action_chunk(self, data: bytes) -> None:
        self._alive("policy")
        stamp_ns, session = cdr.stamp_ns(data), self._conductor.live_session
        if session is not None:
            session.chunk = max(session.chunk, session.grid.tick(stamp_ns) or 0)
        self._answer("policy", stamp_ns)

    def _reward_state(self, data: bytes) -> None:
        self._alive("reward")
        stamp_ns = cdr.stamp_ns(data)
        session = self._conductor.live_session
        if self._answer("reward", stamp_ns) or session is None:
            return
        if session.needs_reward:
            message = messages.deserialize(data, topics.REWARD_STATE.type)
            success = messages.read_named_scalars(message)["success"] > 0.5
            self._course.observed(stamp_ns, success)

    def _guard_state(self, data: bytes) -> None:
        self._alive("guard")
        session = self._core.session
        if session is None or self._core.phase is not Phase.RUNNING:
            self._holding_s = None
            return
        message = messages.deserialize(data, topics.GUARD_STATE.type)
        scalars = messages.read_named_scalars(message)
        session.guard_acted(messages.stamp_of(message), int(scalars["source"]))
        self._guard_fault(Fault(int(scalars["fault"])))

    def _guard_fault(self, fault: Fault) -> None:
        now = self._core.now_s()
        if fault in (Fault.NONE, Fault.STOPPED):
            self._holding_s = None
        elif fault in _ENDING_FAULTS:
            self._course.fault(fault.name.lower(), Outcome.FAULT)
        elif self._holding_s is None:
            self._holding_s = now
        elif now - self._holding_s > self._core.settings.stall_s:
            self._holding_s = None
            self._course.fault(fault.name.lower())

    def _model_status(self, party: str, data: bytes) -> None:
        self._alive(party)
        session = self._conductor.live_session
        if session is None:
            return
        watching = party == "policy" and not self._core.settings.lockstep
        if party not in session.models and not watching:
            return
        values = messages.read_status(messages.deserialize(data, topics.POLICY_STATUS.type))
        mine = values.get("episode_id") == session.record.episode_id
        running = self._core.phase is Phase.RUNNING
        if watching and mine and running and values.get("frozen") == "1":
            # The guard holds a policy by itself; what a person drives ends here.
            self._course.fault("frozen_camera", Outcome.FAULT)
        elif party not in session.models:
            return
        elif self._core.phase is Phase.READY:
            self._echo(session, party, values)
        elif values.get("episode_id") != session.record.episode_id:
            self._course.fault(party)  # it was restarted: it no longer knows the episode
        elif values.get("state") == "error":
            self._core.reason = f"{party}: {values.get('reason', '')}"
            self._course.fault(party, Outcome.FAULT)

    def _echo(self, session: Session, party: str, values: Mapping[str, str]) -> None:
        if values.get("episode_id") != session.record.episode_id:
            return
        if values.get("state") == "error":
            self._course.abandon(f"{party}: {values.get('reason') or 'gave no reason'}")
            return
        wanted = session.wanted_version(party)
        if values.get("state") == "ready" and wanted in ("", values.get("version")):
            session.echo(party, values.get("version", ""))
            self._course.check_ready()

    def _reset_status(self, data: bytes) -> None:
        values = messages.read_status(messages.deserialize(data, topics.RESET_STATUS.type))
        before, self._reset_state = self._reset_state, values.get("state", "")
        if self._conductor.live_session is not None and before != self._reset_state == "idle":
            # The robot that was reset for this episode is not the one that speaks now, however
            # soon it came back: its scene is another one.
            self._core.reason = "the robot was started anew"
            self._course.fault("robot")
            return
        self._course.hear_reset_status(values)
