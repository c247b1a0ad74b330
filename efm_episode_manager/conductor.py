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
from efm_episode_manager.course import SUSPECT_SECONDS, Course
from efm_episode_manager.opening import new_session
from efm_episode_manager.plans import PlanProgress
from efm_episode_manager.session import Session
from efm_episode_manager.settings import ManagerSettings
from efm_episode_manager.state_machine import Event, Phase

_log = logging.getLogger(__name__)

LIVE = frozenset({Phase.READY, Phase.RUNNING, Phase.ENDING, Phase.PAUSED})
"""Phases of an episode in which everybody it needs must be heard."""
_INACTIVE = "inactive"
_MOST_SAVING = 1
"""Bags being finished beside a running episode; a slower disk slows the robot."""


class Conductor:
    """Runs the episodes of one robot's plan, one after the other.

    working: whether it may; see `work` and `rest`.
    """

    def __init__(self, settings: ManagerSettings, outside: Outside, working: bool = True) -> None:
        self.working = working
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
        if core.progress is None or core.progress.plan != plan or core.progress.closed:
            core.progress = PlanProgress(plan, core.settings.robot, core.settings.data_dir)
            done, total = core.progress.done, core.progress.total
            _log.info("plan %s: %d of %d episodes are saved", plan.plan_id, done, total)
            core.publish_status()
            self.try_next()

    def try_next(self) -> None:
        """Begin the next planned episode if everything it needs is there."""
        core = self.core
        if self.phase is not Phase.IDLE or not self.working:
            return
        if core.pause_wanted:
            core.pause_wanted = False
            core.fire(Event.PAUSE)
            return
        if core.now_s() < self.course.retry_s:
            return  # until then people can read the reason
        planned = core.progress.next() if core.progress else None
        if core.progress is None or planned is None:
            core.reason = ""
            return
        if self.course.saving > _MOST_SAVING:
            return
        session = new_session(core.settings, core.progress.plan, planned)
        core.reason = self._obstacle(session)
        if not core.reason:
            self.course.begin(session)

    def _obstacle(self, session: Session) -> str:
        core = self.core
        needed = ("fleet", "robot", "guard", *session.models)
        silent = core.liveness.silent(needed, core.now_s())
        if silent:
            return f"waiting for {', '.join(silent)}"
        if self.course.lead.needs_scene and not core.outside.reset_ready():
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
        self._check_failures()
        self.try_next()

    def _check_failures(self) -> None:
        """The camera was moved, a block is gone, the policy is worse: practice would be in vain."""
        core, limit = self.core, self.core.settings.failure_breaker
        if not 0 < limit <= core.counters.failure_streak or self.phase is not Phase.IDLE:
            return
        core.reason = (
            f"{core.counters.failure_streak} practice episodes in a row without success; all are "
            "kept; look at scene, camera and policy, then call episode/resume (parameter "
            "failure_breaker)"
        )
        _log.error("%s", core.reason)
        core.counters.failure_streak = 0
        core.fire(Event.PAUSE)

    # ---- work and rest -----------------------------------------------------------------------

    def work(self) -> None:
        """Go on with the plan."""
        self.working = True
        if self.core.reason == _INACTIVE:
            self.core.reason = ""
        self.try_next()

    def rest(self) -> None:
        """End the episode that goes on and begin no other; a stop or a call for help stays."""
        self.working = False
        core, session = self.core, self.core.session
        if session is not None and self.phase in (Phase.RESETTING, Phase.READY):
            self.course.withdraw()
        elif session is not None:
            self.course.fault(self._missing(session))
        if self.phase is Phase.IDLE:
            core.reason = _INACTIVE
        core.publish_status()

    def _missing(self, session: Session) -> str:
        """Who was not heard lately: most likely why the robot is brought down."""
        party, seconds = self.core.liveness.quietest(self._watched(session), self.core.now_s())
        return party if seconds > SUSPECT_SECONDS else "deactivated"

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
        if self.core.session is None:
            self.core.reason = ""
            self.course.lead.tended()
        self.core.fire(Event.RESUME)
        self.try_next()

    def help_done(self) -> None:
        """A person has put the robot right."""
        self.core.reason = ""
        self.course.lead.helped()
        self.core.fire(Event.HELP_DONE)
        self.try_next()

    # ---- time --------------------------------------------------------------------------------

    def poll(self) -> None:
        """Call several times per second: everything that is due by time."""
        core, session = self.core, self.live_session
        if not self.working:
            return
        if self.phase is Phase.IDLE:
            self.try_next()
        elif self.phase is Phase.RESETTING:
            self.course.lead.poll()
        elif session is not None:
            self._watch(session, core.now_s())

    def _watch(self, session: Session, now: float) -> None:
        core, settings = self.core, self.core.settings
        self.course.check_closed()
        if self.phase not in LIVE:
            return
        silent = core.liveness.silent(self._watched(session), now)
        if core.disk_error:
            self._disk_failed()
        elif silent:
            core.liveness.forget(silent[0])
            self.course.fault(silent[0])
        elif self.phase is Phase.READY:
            self._watch_ready(session, now - core.entered_s)
        elif settings.lockstep and self.phase in (Phase.RUNNING, Phase.ENDING):
            person = session.taken_over or (
                not session.needs_policy and settings.operator_source == "person"
            )
            if now - core.progressed_s > (settings.operator_s if person else settings.stall_s):
                self.course.fault("stalled")
        elif not settings.lockstep:
            self._watch_real_time(session, now - core.entered_s)

    def _disk_failed(self) -> None:
        """The disk refused a message: end the episode, and say why until the next one tries."""
        why, self.core.disk_error = f"recording failed: {self.core.disk_error}", ""
        if self.phase is Phase.READY:
            self.course.abandon(why)
        else:
            _log.error("%s", why)
            self.course.put_off(why)
            self.course.fault("disk", Outcome.FAULT)

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
        the policy has answered and no person moves the robot, who may take a break: see operator_s.
        """
        asked = not self.core.settings.lockstep or (
            session.needs_policy and session.chunk >= session.sent and not session.taken_over
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
