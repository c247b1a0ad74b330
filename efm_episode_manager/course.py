"""The course of one episode: reset, first answers, ticks, the end, the bag."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from efm_core import messages, topics
from efm_core.episode import Outcome
from efm_episode_manager import cdr
from efm_episode_manager.core import Core
from efm_episode_manager.opening import take_start
from efm_episode_manager.resets.lead import ResetLead
from efm_episode_manager.session import Purpose, Session, TickGrid, Verdict
from efm_episode_manager.state_machine import Event, Phase
from efm_episode_manager.verdicts import Verdicts

_log = logging.getLogger(__name__)

SUSPECT_SECONDS = 0.5
"""A node that repeats its status at 10 Hz and was not heard for this long is likely gone."""


class Course:
    """Leads the core's session from its reset to its bag; calls `over` after each episode.

    saving: bags that are being finished. retry_s: steady time before which nothing new begins.
    """

    def __init__(self, core: Core, over: Callable[[], None]) -> None:
        self._core = core
        self._over = over
        self._verdicts = Verdicts(core)
        self.lead = ResetLead(core, self._announce)
        core.reset_status = self.lead.status
        self._noticed = self.lead.station.listeners(core.settings.reset.method)
        self._judged = ""
        self._last_shown = (topics.JOINT_STATES, *core.settings.camera_topics)[-1]
        self._closing: Event | None = None
        self._last_ns = 0
        self._closing_s = 0.0
        self.saving = 0
        self.retry_s = 0.0

    # ---- reset -------------------------------------------------------------------------------

    def begin(self, session: Session) -> None:
        """Start with a reset."""
        self._core.session = session
        self._wake_for(session)
        self.lead.begin(session)

    def _wake_for(self, session: Session) -> None:
        """What the next tick waits for: the reward, else the picture, the last to be shown."""
        cue = topics.REWARD_STATE if session.needs_reward else self._last_shown
        self._core.outside.wake_by(cue.name)

    def reset_refused(self, reason: str, request: str) -> None:
        """The robot did not take the scene of `request`, or refused to reset."""
        self.lead.scene_refused(reason, request)

    def hear_reset_status(self, values: Mapping[str, str]) -> None:
        """`reset/status` was heard."""
        if self.lead.hear_status(values) and self._core.session is not None:
            self.fault("robot")  # it was restarted, or reset by somebody else

    def notice(self, name: str, data: bytes) -> None:
        """A message of topic `name`, for whoever resets the robot or judges the scene."""
        listener = self._noticed.get(name)
        if listener is not None:
            listener(data)
        if name == self._judged:
            self._judge(data)

    def _judge(self, data: bytes) -> None:
        """What the check of the scene looks at."""
        session = self._core.session
        if session is None or self._core.phase is not Phase.READY:
            self._judged = ""
        elif session.grid.tick(cdr.stamp_ns(data)) is not None:
            self.lead.check(session).look(data)
            self.check_ready()

    def _announce(self, values: Mapping[str, str]) -> None:
        """The robot stands at the start: open the bag, then tell everybody."""
        core, session = self._core, self._core.session
        assert session is not None
        try:
            take_start(session, core.settings, values, self.lead.attempts)
            core.scribe.open(session, core.settings.data_dir / session.plan.data_set)
        except (ValueError, OSError) as error:
            self.abandon(str(error))
            return
        self._closing, core.disk_error = None, ""
        self._wake_for(session)  # perhaps it is the reset's own
        check = self.lead.check(session)
        check.begin(session)
        self._judged = check.topic
        core.liveness.expect(("robot", "guard", "fleet", *session.models), core.now_s())
        core.send(topics.INSTRUCTION, messages.text(session.record.instruction))
        if session.grid.tick(core.robot_stamp_ns) is not None:
            session.answered.add("robot")  # its first observation overtook the news
        core.outside.hurry(True)
        core.fire(Event.RESET_DONE)
        self.check_ready()

    def check_ready(self) -> None:
        """Run once every echo and first answer is there."""
        core, session = self._core, self._core.session
        if session is None or core.phase is not Phase.READY or not session.ready:
            return
        wrong = self.lead.check(session).verdict
        if wrong is None:
            return
        if wrong:
            self._drop(session)
            self.lead.not_ready(wrong)
            return
        if not core.settings.lockstep:
            session.record.start_ns = core.outside.wall_ns()
            session.grid = TickGrid(session.record.start_ns, session.record.rate, exact=False)
        core.outside.hurry(False)
        core.fire(Event.FIRST_ANSWERS)
        self.lead.began(session)
        if core.settings.lockstep:
            self.observed(session.grid.start_ns, success=False)

    # ---- ticks -------------------------------------------------------------------------------

    def observed(self, stamp_ns: int, success: bool) -> None:
        """The observation of `stamp_ns` was judged (or, without a reward model, seen)."""
        core, session = self._core, self._core.session
        going = core.phase in (Phase.RUNNING, Phase.ENDING) and self._closing is None
        if session is None or not going:
            return
        verdict = session.observed(stamp_ns, success)
        if verdict is Verdict.GO:
            self._go(session)
        elif verdict is Verdict.REPEAT:
            self._send_tick(session)
        elif verdict is Verdict.CONCLUDE:
            self.conclude(session.seen, "detector")
        elif verdict is Verdict.TIMEOUT:
            self.time_out(session.seen)
        elif verdict is Verdict.FINISHED:
            self._close(Event.FINISHED, stamp_ns)

    def _go(self, session: Session) -> None:
        session.sent += 1
        self._core.progressed_s = self._core.now_s()
        self._send_tick(session)

    def _send_tick(self, session: Session) -> None:
        scalars = {"tick": float(session.sent), "still": float(session.ended is not None)}
        message = messages.named_scalars(
            session.grid.stamp(session.sent), session.record.episode_id, scalars
        )
        self._core.send(topics.EPISODE_TICK, message)

    # ---- the end -----------------------------------------------------------------------------

    def _end(self, session: Session, tick: int, outcome: Outcome, reason: str) -> None:
        """From now on this is the newest take: what a person says after its end is said of it."""
        session.end(tick, outcome, reason)
        if not session.discarded and session.purpose is Purpose.EPISODE:
            self._verdicts.ended(session)

    def conclude(self, tick: int, reason: str) -> None:
        """Success at observation `tick`: the arm is held and the still frames recorded."""
        core, session = self._core, self._core.session
        assert session is not None
        self._end(session, tick, Outcome.SUCCESS, reason)
        core.fire(Event.CONCLUDED)
        if core.settings.lockstep and session.seen >= tick:
            self._go(session)

    def time_out(self, tick: int) -> None:
        """The limit is reached at observation `tick`.

        Whoever died less than the manager's patience before it, so that the arm was held at the
        end, has cut the episode short.
        """
        core, session = self._core, self._core.session
        assert session is not None
        needed = [name for name in ("policy", "robot", "guard") if name != "policy" or (
            session.needs_policy and not session.taken_over
        )]
        who, silence_s = core.liveness.quietest(needed, core.now_s())
        if not core.settings.lockstep and silence_s > SUSPECT_SECONDS:
            self.fault(who)
            return
        silent = core.liveness.silent(("reward",), core.now_s())
        self._end(session, tick, session.conclusion(reward_alive=not silent), "timeout")
        self._close(Event.CUT, session.record.end_ns)

    def cut(self, outcome: Outcome, reason: str, flush: bool = False) -> None:
        """End the episode now, without still frames; what was concluded before stays."""
        core, session = self._core, self._core.session
        assert session is not None
        if session.ended is None:
            self._end(session, session.decisions(core.outside.wall_ns()), outcome, reason)
        self._close(Event.CUT, session.record.end_ns if flush else 0)

    def still_done(self) -> None:
        """Real time: the arm was held for long enough."""
        self._close(Event.FINISHED, 0)

    def _close(self, event: Event, last_ns: int) -> None:
        """Save once the messages of `last_ns` (0: none) are there; `event` leads to SAVING.

        Until then the phase stays, for nobody answers an episode that is being saved.
        """
        self._closing, self._last_ns = event, last_ns
        self._closing_s = self._core.now_s()
        self._core.outside.hurry(True)
        self.check_closed()

    def check_closed(self) -> None:
        """Save what is complete, or waited flush_s for the rest."""
        core, event = self._core, self._closing
        if event is None or core.session is None:
            return
        # In real time no two topics share a stamp: what is under way gets a moment.
        known = self._last_ns == 0 or (
            core.settings.lockstep and core.scribe.recorder.complete(self._last_ns)
        )
        if known or core.now_s() - self._closing_s >= core.settings.flush_s:
            self._closing = None
            core.fire(event)
            self._hand_over(core.session)
            core.fire(Event.SAVED)
            self._over()

    def _hand_over(self, session: Session) -> None:
        """Finish the bag in the worker; the next episode need not wait for the disk."""
        core, self._core.session = self._core, None
        self.lead.over(session)
        core.outside.hurry(False)
        self.saving += 1
        if self._counts(session):  # else it is recorded anew, and at once
            core.progress.saving(session.planned.index)
        core.outside.work(session, core.scribe.close(session))

    def _counts(self, session: Session) -> bool:
        """Whether the plan in force waits for this episode."""
        progress = self._core.progress
        return progress is not None and progress.plan == session.plan and not session.discarded

    def saved(self, session: Session, path: Path | None, error: Exception | None) -> None:
        """The job of saving ended: with a directory, discarded (None), or with an error."""
        core = self._core
        self.saving -= 1
        if self._counts(session):
            core.progress.saved(session.planned.index, done=path is not None)
        if error is not None:
            core.counters.fault()
            self.put_off(f"episode {session.record.episode_id} was not saved: {error}")
            _log.error("%s", core.reason)
        elif path is not None and session.purpose is Purpose.EPISODE:
            core.counters.saved(session.record)
            self._verdicts.saved(session, path)
        elif session.discarded:
            core.counters.redone += 1
        core.publish_status()
        self._over()

    def withdraw(self) -> None:
        """The announced episode, not begun yet, is not wanted any more: nothing is kept."""
        core, session = self._core, self._core.session
        assert session is not None
        self.lead.cancel()
        self._drop(session)
        core.fire(Event.ABANDONED)
        self._over()

    # ---- what goes wrong ---------------------------------------------------------------------

    def abandon(self, reason: str) -> None:
        """The episode ends before its first tick: nothing is kept."""
        core, session = self._core, self._core.session
        assert session is not None
        _log.warning("episode %s never began: %s", session.record.episode_id, reason)
        self._drop(session)
        self.lead.over(session)
        core.counters.fault()
        self.put_off(reason)
        core.fire(Event.ABANDONED)
        self._over()

    def put_off(self, reason: str) -> None:
        """Nothing new begins for a while; reason: why, for people."""
        self._core.reason = reason
        self.retry_s = self._core.now_s() + self._core.settings.retry_s

    def _drop(self, session: Session) -> None:
        session.discarded = True
        self._core.session = None
        self._core.outside.hurry(False)
        if self._core.scribe.recorder.open:
            self._core.scribe.close(session)()

    def fault(self, what: str, outcome: Outcome = Outcome.INTERRUPTED) -> None:
        """`what` (policy, reward, robot, guard, fleet, ...) failed during an episode."""
        _log.warning("fault in phase %s: %s", self._core.phase.value, what)
        if self._core.phase is Phase.PAUSED:
            self._core.pause_wanted = True  # the person's pause outlives the episode
        if self._core.phase is Phase.READY:
            self.abandon(f"fault: {what}")
        elif self._core.phase in (Phase.RUNNING, Phase.PAUSED, Phase.ENDING):
            self.cut(outcome, f"fault:{what}")

    def stop(self) -> None:
        """Latched: whatever goes on ends, what was recorded is saved and marked."""
        core, session, phase = self._core, self._core.session, self._core.phase
        self._closing = None
        self.lead.cancel()
        if session is None:
            core.fire(Event.STOP)
        elif phase in (Phase.RESETTING, Phase.READY):
            self._drop(session)
            core.fire(Event.STOP)
        else:
            self._mark_stopped(session)
            core.fire(Event.STOP)
            self._hand_over(session)

    def _mark_stopped(self, session: Session) -> None:
        if session.ended is None:
            tick = session.decisions(self._core.outside.wall_ns())
            self._end(session, tick, Outcome.INTERRUPTED, "stop")

    def shut_down(self) -> None:
        """The process ends: save what is open, without telling anybody."""
        core, session = self._core, self._core.session
        if session is None or not core.scribe.recorder.open:
            return
        if core.phase is Phase.READY:
            self._drop(session)
            return
        self._mark_stopped(session)
        core.scribe.close(session)()
