"""Leads a robot from the end of one episode to the start of the next, and never waits.

A try has two steps: the method (a motion, a person, a run of the policy, nothing at all), then,
at a simulated robot, the scene. Whatever fails, the check of the scene included, costs a try;
after the last one help is called, and the robots beside this one never notice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum

from efm_core.episode import Outcome
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_core.reset_settings import NoReset, PersonReset, PolicyReset
from efm_episode_manager.core import Core
from efm_episode_manager.opening import new_session, reset_session
from efm_episode_manager.resets.checks import SceneCheck, Unchecked
from efm_episode_manager.resets.lasting import Lasting
from efm_episode_manager.resets.making import Means, make_means
from efm_episode_manager.resets.method import Stage
from efm_episode_manager.resets.scene import (
    SceneNews,
    SceneRequested,
    present_scene,
    scene_for,
)
from efm_episode_manager.resets.station import Station
from efm_episode_manager.session import Purpose, Session
from efm_episode_manager.state_machine import Event, Phase

_log = logging.getLogger(__name__)


class _Step(str, Enum):
    NONE = "none"
    METHOD = "method"
    SCENE = "scene"


class ResetLead:
    """All resets of one robot. `announce` is called with what is known of the start.

    attempts: tries of the present reset. asked: whether a person wants one before the next
    episode (after `episode/ask_reset`), though the robot practises without.
    """

    def __init__(self, core: Core, announce: Callable[[Mapping[str, str]], None]) -> None:
        """Raises ValueError for a reference picture that can't be read."""
        self._core, self._announce = core, announce
        settings, cameras = core.settings.reset, core.settings.camera_topics
        self.station = Station(core)
        self._usual = self._means = make_means(settings.method, self.station, cameras)
        self._instead: Means | None = None
        if isinstance(settings.method, NoReset):
            self._instead = make_means(settings.method.asked, self.station, cameras)
        self._unchecked = Unchecked()
        self._wanted: tuple[EpisodePlan, PlannedEpisode] | None = None
        self._step, self._deadline_s = _Step.NONE, 0.0
        self._practising = self._tended = False
        self._scene = SceneRequested()
        self._reset_stamp = ""
        self._lasting = Lasting(core.counters)
        self.attempts = 0
        self.asked = False

    # ---- what others ask ---------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """The method in force, as in the fleet file."""
        return self._means.settings.kind

    @property
    def needs_scene(self) -> bool:
        """Whether the robot must answer `reset` before any episode."""
        return self._core.settings.reset.simulated or self._means.method.new_scene

    @property
    def waits_for_person(self) -> bool:
        """Whether a person was asked and has not answered."""
        return bool(self.station.request)

    def check(self, session: Session) -> SceneCheck:
        """What judges the first observation of an episode."""
        ours = session.purpose is Purpose.EPISODE
        return self._means.check if ours else self._unchecked

    def status(self) -> dict[str, str]:
        """The pairs that `episode/status` shows of resets."""
        session, counters = self._core.session, self._core.counters
        purpose = session.purpose if session is not None else Purpose.EPISODE
        return {
            "reset": self.kind,
            "reset_attempt": str(self.attempts),
            "purpose": purpose.value,
            "waits_for": "person" if self.waits_for_person else "",
            "resets_asked_total": str(counters.resets_asked),
            "helps_total": str(counters.helps),
            "interventions_per_100": f"{counters.interventions_per_100:.2f}",
        }

    # ---- one reset ---------------------------------------------------------------------------

    def begin(self, session: Session) -> None:
        """A planned episode is due; `session` is the core's already."""
        self._wanted = (session.plan, session.planned)
        if not self._practising:
            self.attempts = 0
            self._lasting.begin(session)
            self.asked = self.asked or bool(self._lasting.reason and self._instead)
            self._means = self._instead if self.asked and self._instead else self._usual
        self._core.fire(Event.PLAN)
        if self._practising:
            self._step = _Step.METHOD
            self._advance()
        else:
            self._try()

    def _try(self) -> None:
        self.attempts += 1
        self._step = _Step.METHOD
        self._restart_clock()
        if self._tended:
            self._tended = False
            self._request_scene()
            return
        self._means.method.begin(self.attempts)
        if self.waits_for_person:
            self._core.reason = f"{self.station.request}, then call episode/reset_done"
            self._core.publish_status()
        self._advance()

    def _restart_clock(self) -> None:
        self._deadline_s = self._core.now_s() + self._means.settings.time_limit_s

    @property
    def _overdue(self) -> bool:
        return self._core.now_s() > self._deadline_s

    def poll(self) -> None:
        """Call several times per second in phase resetting."""
        if self._step is _Step.METHOD:
            self._advance()
        elif self._step is _Step.SCENE and self._overdue:
            self.refused(f"no news of it within {self._means.settings.time_limit_s:g} s")

    def _advance(self) -> None:
        method = self._means.method
        progress = method.poll()
        if progress.stage is Stage.WORKING and self._overdue:
            limit = f"not done within {self._means.settings.time_limit_s:g} s"
            self.refused(f"{limit}: {progress.reason}" if progress.reason else limit)
        elif progress.stage is Stage.FAILED:
            self.refused(progress.reason)
        elif progress.stage is Stage.PRACTISE:
            self._practise()
        elif progress.stage is Stage.DONE:
            method.end()
            self._core.reason = ""
            self._practising = False
            self._request_scene()

    def _practise(self) -> None:
        """Run the reset's instruction as an episode; afterwards the planned one is due again."""
        assert self._wanted is not None
        settings = self._means.settings
        assert isinstance(settings, PolicyReset)
        self._practising = True
        self._core.session = reset_session(self._core.settings, *self._wanted, settings)
        self._request_scene()

    def _request_scene(self) -> None:
        core, session = self._core, self._core.session
        assert session is not None
        self._step = _Step.SCENE
        self._restart_clock()
        core.scribe.recorder.forget_tail()
        if not self.needs_scene:
            self._arrived({"stamp_ns": str(core.outside.wall_ns())})
            return
        request = f"{session.record.episode_id}/{self.attempts}"
        self._scene = SceneRequested(request, self._reset_stamp)
        period_ns = round(1e9 / core.settings.space.rate)
        earliest = core.robot_stamp_ns + period_ns if core.settings.lockstep else None
        if self._means.method.new_scene:
            scene = scene_for(session.planned, request, earliest)
            scene = self._lasting.scene(scene, self.asked)
        else:
            scene = present_scene(session.planned, request, earliest, self.attempts - 1)
        core.outside.request_reset(scene)

    def hear_status(self, values: Mapping[str, str]) -> bool:
        """`reset/status` was heard; whether it tells of a reset that nobody here asked for."""
        asked = self._step is _Step.SCENE and self._core.phase is Phase.RESETTING
        news = self._scene.hear(values) if asked else SceneNews.NOTHING
        strange = False
        if values.get("state") == "done":
            before, self._reset_stamp = self._reset_stamp, values.get("stamp_ns", "")
            strange = self._core.phase is not Phase.RESETTING and self._reset_stamp != before
        if news is SceneNews.DONE:
            self._arrived(values)
        elif news is SceneNews.FAILED:
            self.refused(values.get("reason") or "the robot gave no reason")
        return strange

    def _arrived(self, values: Mapping[str, str]) -> None:
        self._step = _Step.NONE
        session = self._core.session
        assert session is not None
        self._lasting.heard(session, values)
        session.record.reset = self.kind
        session.record.reset_reason = self._lasting.reason
        session.record.reset_asked = self._fresh
        self._announce(values)

    @property
    def _fresh(self) -> bool:
        """Whether a scene that was to stay as it lay is made anew."""
        wanted = self.asked and self._wanted is not None and self._wanted[1].lasting
        return self._means is self._instead or bool(self._lasting.reason) or wanted

    # ---- how it ends -------------------------------------------------------------------------

    def began(self, session: Session) -> None:
        """The announced episode runs: nothing of its reset is owed any more."""
        if session.purpose is Purpose.EPISODE:
            self._lasting.began(self._fresh)
            self._forget()
            self.asked = False

    def over(self, session: Session) -> None:
        """An episode has ended, or will never begin: perhaps it was a reset's own."""
        self._lasting.over(session)
        if session.purpose is Purpose.RESET and self._practising:
            record = session.record
            self._practising = not session.discarded  # thrown away: the reset begins anew
            good = record.outcome is Outcome.SUCCESS
            self._means.method.practised(good, record.termination_reason)

    def not_ready(self, reason: str) -> None:
        """The scene of the announced episode is no start: another try, with a fresh episode."""
        assert self._wanted is not None
        self._core.session = None
        self._core.fire(Event.NOT_READY)
        self._core.session = new_session(self._core.settings, *self._wanted)
        self.refused(reason)

    def scene_refused(self, reason: str, request: str) -> None:
        """The robot does not want the scene of `request`; an older one's news is none."""
        if self._step is _Step.SCENE and request == self._scene.request:
            self.refused(reason)

    def refused(self, reason: str) -> None:
        """A try failed: the next one, another way, or help."""
        core = self._core
        if core.phase is not Phase.RESETTING or core.session is None:
            return
        self._means.method.end()
        self._practising = False
        _log.warning("reset %d of %d: %s", self.attempts, self._means.settings.attempts, reason)
        if self.attempts < self._means.settings.attempts:
            self._try()
        elif self._instead is not None and self._means is self._usual:
            _log.warning("practice without resets needs one: %s", reason)
            self.ask()
            self._means, self.attempts = self._instead, 0
            self._try()
        else:
            self._call_for_help(reason)

    def _call_for_help(self, reason: str) -> None:
        core, tries = self._core, self.attempts
        core.reason = (
            f"the robot did not reset in {tries} {'try' if tries == 1 else 'tries'} ({reason}); "
            "put it right, then call episode/reset_done"
        )
        core.counters.helps += 1
        core.session = None
        self._forget()
        core.fire(Event.RESET_FAILED)

    def _forget(self) -> None:
        self._step, self._practising, self.attempts = _Step.NONE, False, 0

    # ---- people ------------------------------------------------------------------------------

    def ask(self) -> None:
        """Somebody wants a reset before the next episode: an intervention."""
        if not self.asked:
            self.asked = True
            self._core.counters.resets_asked += 1

    def confirm(self) -> bool:
        """A person says that it is done; whether anybody had been asked."""
        if not self.waits_for_person:
            return False
        self.station.confirmed = True
        self.poll()
        return True

    def helped(self) -> None:
        """A person has put the robot right: what it did before is not to be undone."""
        self.station.forget_way()
        self.tended()

    def tended(self) -> None:
        """A person was at the robot between two episodes: nobody need be asked to come."""
        chosen = self._instead if self.asked and self._instead else self._usual
        self._tended = isinstance(chosen.settings, PersonReset)

    def cancel(self) -> None:
        """Everything stops: the next reset begins anew."""
        self._means.method.end()
        self._forget()
