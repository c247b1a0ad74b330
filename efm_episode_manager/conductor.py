"""The episode manager without ROS: what to do when something is heard, asked for, or overdue.

The node hands in messages (`hearing.py`), service calls (`services.py`) and a timer (`poll`), and
does what is asked for through `core.Outside`. One episode's course is in `course.py`.
"""

from __future__ import annotations

import logging

from pydantic import ValidationError

from efm_core.episode import Outcome
from efm_core.plan import EpisodePlan
from efm_episode_manager.core import Core, Outside
from efm_episode_manager.course import Course
from efm_episode_manager.opening import new_session
from efm_episode_manager.plans import PlanProgress
from efm_episode_manager.session import Session
from efm_episode_manager.settings import ManagerSettings
from efm_episode_manager.state_machine import Event, Phase

_log = logging.getLogger(__name__)

LIVE = frozenset({Phase.READY, Phase.RUNNING, Phase.ENDING, Phase.PAUSED})
"""Phases of an episode in which everybody it needs must be heard."""
_MOST_SAVING = 1
"""Bags being finished beside a running episode; a slower disk slows the robot."""


class Conductor:
    """Runs the episodes of one robot's plan, one after the other."""

    def __init__(self, settings: ManagerSettings, outside: Outside) -> None:
        self.core = Core(settings, outside)
        self.course = Course(self.core, self._between)
        stopped = self.core.stop_mark.reason()
        if stopped is not None:
            self.core.reason = stopped
            self.core.fire(Event.STOP)

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self.core.phase

    @property
    def live_session(self) -> Session | None:
        """The announced episode that is not being saved yet, None without one."""
        return self.core.session if self.phase in LIVE else None

    # ---- plans -------------------------------------------------------------------------------

    def set_plan(self, text: str) -> None:
        """A plan (JSON) was published; an unchanged one is ignored."""
        core = self.core
        try:
            plan = EpisodePlan.model_validate_json(text)
        except ValidationError as error:
            core.reason = f"/fleet/plan is not understood: {error}"
            _log.error("%s", core.reason)
            return
        if core.progress is None or core.progress.plan != plan:
            core.progress = PlanProgress(plan, core.settings.robot, core.settings.data_dir)
            done, total = core.progress.done, core.progress.total
            _log.info("plan %s: %d of %d episodes are saved", plan.plan_id, done, total)
            core.publish_status()
            self.try_next()

    def try_next(self) -> None:
        """Begin the next planned episode if everything it needs is there."""
        core = self.core
        if self.phase is not Phase.IDLE:
            return
        if core.pause_wanted:
            core.pause_wanted = False
            core.fire(Event.PAUSE)
            return
        planned = core.progress.next() if core.progress else None
        if core.progress is None or planned is None:
            core.reason = ""
            return
        session = new_session(core.settings, core.progress.plan, planned)
        if core.now_s() < self.course.retry_s or self.course.saving > _MOST_SAVING:
            return
        core.reason = self._obstacle(session)
        if not core.reason:
            self.course.begin(session)

    def _obstacle(self, session: Session) -> str:
        core = self.core
        needed = ("fleet", "robot", "guard", *session.models)
        silent = core.liveness.silent(needed, core.now_s())
        if silent:
            return f"waiting for {', '.join(silent)}"
        if not core.outside.reset_ready():
            return "waiting for the robot's reset service"
        if core.scribe.free_space() < core.settings.reserve_bytes:
            return (
                f"less than {core.settings.reserve_bytes / 1e6:.0f} MB free below "
                f"{core.settings.data_dir}; make room or lower reserve_mb"
            )
        return ""

    def _between(self) -> None:
        """An episode is over: stop if nothing works, else go on."""
        core = self.core
        if core.counters.fault_streak >= core.settings.breaker and self.phase is Phase.IDLE:
            self.stop(f"{core.counters.fault_streak} episodes in a row failed ({core.reason})")
        self.try_next()

    # ---- stop, pause, help -------------------------------------------------------------------

    def set_fleet_stopped(self, stopped: bool) -> None:
        """`/fleet/stopped` was heard."""
        self.core.liveness.hear("fleet", self.core.now_s())
        self.core.fleet_stopped = stopped
        if stopped and self.phase is not Phase.STOPPED:
            self.stop("fleet stop")

    def stop(self, reason: str) -> None:
        """Latched, over a restart too: nothing moves until `start`."""
        self.core.reason = f"{reason}; after it is cleared call episode/start"
        self.core.stop_mark.set(self.core.reason)
        self.course.stop()

    def start(self) -> None:
        """`episode/start` after a stop: the next episode begins with a reset."""
        self.core.stop_mark.clear()
        self.core.reason = ""
        self.core.counters.fault_streak = 0
        self.core.fire(Event.START)
        self.try_next()

    def resume(self) -> None:
        """Go on after a pause; a lockstep world asks again by itself."""
        self.core.fire(Event.RESUME)
        self.try_next()

    def help_done(self) -> None:
        """A person has put the robot right."""
        self.core.reason = ""
        self.core.fire(Event.HELP_DONE)
        self.try_next()

    # ---- time --------------------------------------------------------------------------------

    def poll(self) -> None:
        """Call several times per second: everything that is due by time."""
        core, settings, session = self.core, self.core.settings, self.live_session
        now = core.now_s()
        if self.phase is Phase.IDLE:
            self.try_next()
        elif self.phase is Phase.RESETTING:
            if self.course.reset_overdue:
                self.course.reset_refused(f"no news of it within {settings.reset_s:g} s")
        elif session is not None:
            self._watch(session, now)

    def _watch(self, session: Session, now: float) -> None:
        core, settings = self.core, self.core.settings
        self.course.check_closed()
        if self.phase not in LIVE:
            return
        silent = core.liveness.silent(self._watched(session), now)
        if core.disk_error:
            core.reason, core.disk_error = f"recording failed: {core.disk_error}", ""
            self.course.fault("disk", Outcome.FAULT)
        elif silent:
            core.liveness.forget(silent[0])
            self.course.fault(silent[0])
        elif self.phase is Phase.READY:
            self._watch_ready(session, now - core.entered_s)
        elif settings.lockstep and self.phase in (Phase.RUNNING, Phase.ENDING):
            if now - core.progressed_s > settings.stall_s:
                self.course.fault("stalled")
        elif not settings.lockstep:
            self._watch_real_time(session, now - core.entered_s)

    def _watch_ready(self, session: Session, waited: float) -> None:
        """Loading a checkpoint may take long; answering once that is done may not."""
        settings = self.core.settings
        mute = {*session.models, "robot"} - session.answered
        unready = set(session.models) - session.echoed
        limit = settings.ready_s if unready else settings.stall_s
        if waited > limit:
            who = ", ".join(sorted(unready or mute))
            self.course.abandon(f"not ready within {limit:g} s: {who}")

    def _watched(self, session: Session) -> tuple[str, ...]:
        """Who must be heard.

        In lockstep the guard speaks when it has something to execute: its silence counts once
        the policy has answered. (Who demonstrates may take his time: see stall_s.)
        """
        asked = not self.core.settings.lockstep or (
            session.needs_policy and session.chunk >= session.sent
        )
        return (*session.models, "robot", "fleet", *(("guard",) if asked else ()))

    def _watch_real_time(self, session: Session, in_phase: float) -> None:
        rate = self.core.settings.space.rate
        ran = session.record.phase_seconds.get(Phase.RUNNING.value, 0.0)
        if self.phase is Phase.RUNNING and session.ended is None:
            if ran + in_phase > session.planned.limit / rate:
                self.course.time_out(session.planned.limit)
        elif self.phase is Phase.ENDING and in_phase > session.still_ticks / rate:
            self.course.still_done()
