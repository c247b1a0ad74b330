"""The guard: the last thing before the robot. Nothing moves except through it.

Pure and deterministic: every event brings its time (`now`, s of any steady clock) and returns the
report to publish, or None. The guard node and the in-process roll-outs drive the same object.

Arbitration: stop > fault > teleop (taken over, or mode demo) > reset (phase resetting) > policy
(phase running) > hold. A hold decelerates to zero within the limits and stays there.

Clock "lockstep": the world waits for an answer to tick k, so what is stamped k is executed with
the pose stamped k, once, in whichever order the two arrive; ages are not checked, and what the
timer publishes changes nothing that a tick depends on. Clock "real": `step` is called by a timer
and every accepted input acts at once; ages are checked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from efm_core.guard_inbox import Chunk, Inbox, Manual
from efm_core.guard_motion import Choice, GuardMotion
from efm_core.guard_report import Fault, GuardReport, Source
from efm_core.limits import GuardSettings, cap_cartesian

__all__ = ["Fault", "Guard", "GuardReport", "GuardSettings", "Source"]

OPERATOR_SECONDS = 2.0
"""Real time: a takeover without a command for so long ends with its episode."""
_LATE = 0.02
"""A timer's step may come so many s late, and the hold takes its way too."""
_ENDING = Choice(reason="phase ending")


class Guard:
    """One robot's guard; see the module. Not thread-safe: one caller at a time."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self._space = settings.space
        self._lockstep = settings.clock == "lockstep"
        # A command stands until the timer's next step: what would run out before runs out now.
        self._stands = 0.0 if self._lockstep else settings.step_period
        self._early = 0.0 if self._lockstep else settings.step_period + _LATE
        self._inbox = Inbox(settings)
        self._motion = GuardMotion(settings)
        self._phase, self._episode, self._mode = "idle", "", ""
        self._status_at = self._fleet_at = -np.inf
        self._stopped, self._latched = True, False
        self._fleet_seen_stopped = False
        self._barred: str | None = None
        self._stale = self._camera = Fault.NONE
        self._pose_stamp: int | None = None
        self._taken_over = False
        self._operator_at = -np.inf
        self._early_tick: tuple[str, int | None] = ("", None)
        self._forget_episode()

    def _forget_episode(self) -> None:
        self._inbox.clear()
        self._motion.begin_episode()
        self._fault, self._fault_reason = Fault.NONE, ""
        self._answered: GuardReport | None = None
        self._tick_stamp: int | None = None
        if self._early_tick[0] == self._episode:
            self._tick_stamp = self._early_tick[1]

    @property
    def runs_out(self) -> float:
        """s after its receipt at which a chunk must be followed by a step, to hold in time."""
        return self._inbox.validity - _LATE

    @property
    def counts(self) -> Counter[str]:
        """How many inputs were accepted or dropped, by reason."""
        return self._inbox.counts

    # ---- what the episode manager and the fleet say ------------------------------------------

    def on_episode_status(
        self, phase: str, episode_id: str, now: float, mode: str = "", age: float = 0.0
    ) -> GuardReport | None:
        """episode/status: a new id forgets everything of the old episode.

        age: s since it arrived; it may have waited until something woke the node. In real time a
        repetition gets no report of its own: the timer's steps go on.
        """
        news = (phase, episode_id, mode) != (self._phase, self._episode, self._mode)
        news = news or self._lockstep or self._stale is not Fault.NONE
        self._status_at = now - age
        self._revive(now)
        if phase == "resetting" and self._phase != phase:
            self._begin_reset()
        self._phase, self._mode = phase, mode
        early = None
        if episode_id != self._episode:
            self._episode = episode_id
            self._forget_episode()
            # Whoever is there gives it back, or goes on sending; who was killed does neither.
            if not self._lockstep and now - self._operator_at > OPERATOR_SECONDS:
                self._taken_over = False
            early, self._inbox.early = self._inbox.early, None
        if early is not None and early.episode_id == episode_id:
            age = early.age + now - early.received
            return self.on_chunk(early.stamp_ns, episode_id, early.values, now, age)
        if phase == "ending" and self._lockstep:
            return self._enter_ending()
        return self._react(now) if news else None

    def _begin_reset(self) -> None:
        """A reset has no episode's id: what an earlier one left behind must not bar it for ever.

        It follows a person's start or help, and nothing of it moves while a stop is latched.
        """
        if self._barred == "":
            self._barred = None
        if self._episode == "":
            self._fault, self._fault_reason = Fault.NONE, ""

    def on_fleet_stopped(
        self, stopped: bool, now: float, age: float = 0.0
    ) -> GuardReport | None:
        """/fleet/stopped: True latches; only True and then False releases, for a new episode.

        age: s since it arrived, as for `on_episode_status`.
        """
        self._fleet_at = now - age
        news = self._lockstep or self._stale is not Fault.NONE or self._stopped or self._latched
        self._revive(now)
        if stopped:
            self._fleet_seen_stopped = True
            if not self._stopped:
                self._stopped = True
                return self.on_stop(now)
            return None
        if self._stopped and self._fleet_seen_stopped:
            self._barred = self._episode
        if self._fleet_seen_stopped or not self._latched:
            self._latched = False
        self._stopped = False
        self._fleet_seen_stopped = False
        return self._react(now) if news else None

    def on_stop(self, now: float) -> GuardReport | None:
        """A stop request: holds at once, latched until the fleet said stopped and then cleared.

        A node that offers its own stop service forwards it to /fleet/stop_request, so that the
        fleet's state, which alone can clear it, agrees.
        """
        self._latched = True
        self._barred = self._episode
        self.counts["stops"] += 1
        return self._hold_now(now)

    def on_fault(self, fault: Fault, reason: str, now: float) -> GuardReport | None:
        """A fault seen by the node (a second publisher, ...): holds until the next episode."""
        self._fault, self._fault_reason = fault, reason
        return self._hold_now(now)

    def on_policy_status(self, stale: bool, frozen: bool, now: float) -> GuardReport | None:
        """policy/status: whether its images are too old or repeat themselves (real time only)."""
        if self._lockstep:
            return None
        self._camera = (
            Fault.FROZEN_CAMERA if frozen else Fault.STALE_CAMERA if stale else Fault.NONE
        )
        return self.step(now) if self._camera is not Fault.NONE else None

    # ---- what wants to move the robot --------------------------------------------------------

    def on_chunk(
        self, stamp_ns: int, episode_id: str, values: ArrayLike, now: float, age: float = 0.0
    ) -> GuardReport | None:
        """policy/action_chunk: values (chunk, D) in action-space units.

        age: s between the observation's stamp and receipt (real time only), negative for a stamp
        in the future. A chunk of an episode not announced yet waits for its announcement.
        """
        array = np.array(values, dtype=np.float64)
        chunk = Chunk(stamp_ns, episode_id, array, now, age)
        if episode_id != self._episode or not episode_id:
            self._inbox.keep_early(chunk)
            return None
        answered = self._answered_stamp()
        if self._lockstep and answered is not None and stamp_ns <= answered:
            if stamp_ns == answered:
                return self._repeat()
            self.counts["older"] += 1
            return None
        problem = self._inbox.problem(array, self._motion.previous)
        if problem:
            return self.on_bad_chunk(episode_id, problem, now)
        if not self._inbox.accept(chunk):
            return None
        report = self._react(now)
        if report is not None and report.source is Source.POLICY and not self._lockstep:
            return replace(report, stamp_ns=stamp_ns)
        return report

    def on_bad_chunk(self, episode_id: str, reason: str, now: float) -> GuardReport | None:
        """A chunk that could not be read or is not valid: dropped; several in a row are a fault."""
        if episode_id != self._episode or not episode_id:
            self.counts["foreign"] += 1
            return None
        self._inbox.refuse_chunk()
        count = self._inbox.invalid
        if count < self.settings.invalid_limit:
            return None if self._lockstep else self.step(now)
        return self.on_fault(Fault.POLICY, f"{count} invalid chunks: {reason}", now)

    def on_teleop(self, stamp_ns: int, values: ArrayLike, now: float) -> GuardReport | None:
        """A person's command (D,): velocities in unit/s (delta) or targets (absolute)."""
        command = self._inbox.manual(stamp_ns, values, now)
        if command is None:
            return None
        self._inbox.teleop, self._operator_at = command, now
        if not self._teleop_rules():
            return None
        if self._lockstep and self._is_answered(stamp_ns):
            return self._repeat()
        return self._react(now)

    def on_reset(self, stamp_ns: int, values: ArrayLike, now: float) -> GuardReport | None:
        """A reset plug-in's command, like `on_teleop`; moves in phase resetting only."""
        command = self._inbox.manual(stamp_ns, values, now)
        if command is None:
            return None
        self._inbox.reset = command
        return self._react(now) if self._phase == "resetting" else None

    def on_takeover(self, active: bool, now: float) -> GuardReport | None:
        """A person takes the robot over, or gives it back: older commands are dropped.

        In lockstep the chunk of the very observation that waits for an answer is not older.
        """
        if active == self._taken_over:
            return None
        self._taken_over, self._operator_at = active, now
        self._inbox.teleop = None
        if not self._lockstep:
            self._inbox.drop_chunk()
        return self._react(now)

    # ---- what the robot and the clock say ----------------------------------------------------

    def on_pose(self, stamp_ns: int, position: ArrayLike, now: float) -> GuardReport | None:
        """Where the robot is: (D,) in the order of the dimensions, base frame, NaN = unknown.

        Raises ValueError for another shape.
        """
        array = np.array(position, dtype=np.float64)
        if array.shape != (self._space.size,):
            raise ValueError(f"position has shape {array.shape}, expected {(self._space.size,)}")
        if np.isinf(array).any():
            self.counts["invalid_pose"] += 1
            return None
        if self._lockstep and self._is_answered(stamp_ns):
            return self._repeat()
        in_place = self._motion.measure(array, now)
        if not in_place and self._fault is not Fault.TRACKING:
            reason = f"the robot is further than {dict(self.settings.max_lag)} from its setpoint"
            return self.on_fault(Fault.TRACKING, reason, now)
        if not self._lockstep:
            return None
        self._pose_stamp = stamp_ns
        return self._react(now)

    def on_tick(
        self, stamp_ns: int, now: float, episode_id: str = "", still: bool = False
    ) -> GuardReport | None:
        """episode/tick: in lockstep and phase ending answered by a hold, else remembered.

        episode_id: whose tick it is, "" = the announced one's. One that comes before its episode
        is announced waits for that. still: the arm shall rest, whether the news of the phase
        ending came already or not; the world waits for that answer.
        """
        if episode_id and episode_id != self._episode:
            self._early_tick = (episode_id, stamp_ns)
            return None
        seen, self._tick_stamp = self._tick_stamp, stamp_ns
        if not self._lockstep or not (still or self._phase == "ending"):
            return None
        if not self._is_answered(stamp_ns):
            return self._answer(_ENDING, stamp_ns)
        if self._is_still() or (seen == stamp_ns and not still):
            return self._repeat()
        return self._replace_by_hold()

    def step(self, now: float) -> GuardReport | None:
        """The timer. Real time: the command now. Lockstep: a hold to publish, None if not holding.

        In lockstep the returned hold is for the eyes of whoever listens: it advances no tick.
        """
        self._watch(now)
        if not self._lockstep:
            choice = self._barrier() or self._choose_at(now)
            if choice.values is not None and not self._motion.may_move(now):
                choice = Choice(fault=Fault.NO_POSE, reason="no fresh position of the robot")
            return self._motion.follow(choice, now)
        barrier = self._barrier()
        if barrier is None and self._phase in ("running", "ending"):
            return None
        return self._motion.still(barrier or Choice(reason=f"phase {self._phase}"))

    # ---- what forbids motion -----------------------------------------------------------------

    def _watch(self, now: float) -> None:
        limit = self.settings.stale_after - self._early
        if now - self._status_at > limit:
            self._stale = Fault.STALE_STATUS
        elif now - self._fleet_at > limit:
            self._stale = Fault.STALE_FLEET
        else:
            self._stale = Fault.NONE

    def _revive(self, now: float) -> None:
        if self._stale is not Fault.NONE:
            self._watch(now)

    def _barrier(self) -> Choice | None:
        """Why nothing may move, whoever asks; None when something may."""
        if self._stopped or self._latched:
            return Choice(fault=Fault.STOPPED, reason="stopped")
        if self._barred is not None and self._barred == self._episode:
            return Choice(reason="after a stop nothing moves until a new episode")
        if self._fault is not Fault.NONE:
            return Choice(fault=self._fault, reason=self._fault_reason)
        if self._stale is not Fault.NONE:
            what = "episode/status" if self._stale is Fault.STALE_STATUS else "fleet/stopped"
            reason = f"no {what} for {self.settings.stale_after} s"
            return Choice(fault=self._stale, reason=reason)
        return None

    def _teleop_rules(self) -> bool:
        if self._phase in ("ending", "saving", "stopped"):
            return False
        return self._taken_over or (self._mode == "demo" and self._phase == "running")

    def _react(self, now: float) -> GuardReport | None:
        if self._lockstep:
            return self._tick(now)
        return self.step(now)

    def _hold_now(self, now: float) -> GuardReport | None:
        choice = self._barrier() or Choice()
        return self._motion.still(choice) if self._lockstep else self._motion.follow(choice, now)

    # ---- lockstep: answers to ticks ----------------------------------------------------------

    def _tick(self, now: float) -> GuardReport | None:
        """Execute what is stamped like the newest pose, once."""
        stamp = self._pose_stamp
        if stamp is None or self._phase != "running" or self._barrier() is not None:
            return None
        choice = self._choose_for(stamp, now)
        return None if choice is None else self._answer(choice, stamp)

    def _choose_for(self, stamp: int, now: float) -> Choice | None:
        if not self._motion.may_move(now):
            return None
        if self._teleop_rules():
            command = self._inbox.teleop
            if command is None or command.stamp_ns != stamp:
                return None
            return self._manual_choice(Source.TELEOP, command)
        chunk, index = self._inbox.chunk, self._inbox.point(stamp)
        if chunk is None or index is None:
            return None
        age = now - chunk.received
        return Choice(Source.POLICY, chunk.values[index], chunk_age=age, point_index=index)

    def _answer(self, choice: Choice, stamp: int) -> GuardReport | None:
        """One answer per stamp, none to an older one."""
        answered = self._answered_stamp()
        if answered is not None and answered >= stamp:
            return None
        report = self._motion.answer(choice, stamp)
        self._answered = report or self._answered
        return report

    def _enter_ending(self) -> GuardReport | None:
        """The news of the end may come before or after the tick that it belongs to.

        A tick that nobody answered is answered by a hold. An answer that the world has not acted
        on (no tick yet) is replaced by a hold: whoever ended the episode may wait for it and then
        send the tick, so that the arm stands from the very observation that showed success.
        """
        tick, answered = self._tick_stamp, self._answered_stamp()
        if tick is not None and (answered is None or tick > answered):
            return self._answer(_ENDING, tick)
        if answered is None or tick == answered or self._is_still():
            return None
        return self._replace_by_hold()

    def _replace_by_hold(self) -> GuardReport | None:
        stamp = self._answered_stamp()
        if stamp is not None:
            self._answered = self._motion.answer_instead(_ENDING, stamp)
        return self._answered

    def _repeat(self) -> GuardReport | None:
        """The answer given before, unless something forbids motion now."""
        if self._phase not in ("running", "ending") or self._barrier() is not None:
            return None
        self.counts["repeated"] += 1
        return self._answered

    def _is_still(self) -> bool:
        return self._answered is not None and self._answered.source is Source.HOLD

    def _answered_stamp(self) -> int | None:
        return None if self._answered is None else self._answered.stamp_ns

    def _is_answered(self, stamp_ns: int) -> bool:
        return self._answered_stamp() == stamp_ns

    # ---- real time: the command for now ------------------------------------------------------

    def _choose_at(self, now: float) -> Choice:
        deadman = self.settings.deadman - self._early
        if self._teleop_rules():
            command = self._inbox.teleop
            if command is None or now - command.received >= deadman:
                return Choice(reason=f"no teleop command for {deadman:g} s")
            return self._manual_choice(Source.TELEOP, command)
        if self._phase == "resetting":
            command = self._inbox.reset
            if command is None or now - command.received >= deadman:
                return Choice(reason="no reset motion")
            return self._manual_choice(Source.RESET, command)
        if self._phase != "running":
            return Choice(reason=f"phase {self._phase}")
        if self._camera is not Fault.NONE:
            return Choice(fault=self._camera, reason="the policy's images are stale or frozen")
        return self._chunk_at(now)

    def _chunk_at(self, now: float) -> Choice:
        chunk = self._inbox.chunk
        if chunk is None:
            return Choice(fault=Fault.STALE_CHUNK, reason="no action chunk")
        age = now - chunk.received
        if age + self._stands > self._inbox.validity:
            reason = f"the action chunk is {age:.3f} s old and ran out"
            return Choice(fault=Fault.STALE_CHUNK, reason=reason, chunk_age=age)
        since = age + max(chunk.age, 0.0)
        index = self._inbox.point_at(since)
        remaining = (index + 1) / self._space.rate - since
        return Choice(Source.POLICY, chunk.values[index], Fault.NONE, "", age, index, remaining)

    def _manual_choice(self, source: Source, command: Manual) -> Choice:
        values = command.values
        if self._space.kind == "delta":
            capped = cap_cartesian(self._space, values, self.settings.teleop_speed)
            values = capped / self._space.rate
        return Choice(source, values)
