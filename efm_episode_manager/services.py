"""What a person asks of the manager by the services under `episode/`.

Every method returns (accepted, message for the caller) and never waits.
"""

from __future__ import annotations

from efm_core.episode import Outcome
from efm_episode_manager.conductor import LIVE, Conductor
from efm_episode_manager.session import Purpose
from efm_episode_manager.state_machine import Event, Phase
from efm_episode_manager.verdicts import Verdicts

Answer = tuple[bool, str]

NAMES = (
    "start", "pause", "pause_next", "resume", "stop", "success", "failure", "end", "discard",
    "finish", "label_success", "label_failure", "discard_last", "reset_done", "ask_reset",
)  # fmt: skip
"""Services `episode/<name>`, all std_srvs/Trigger; methods of `OperatorServices`."""


class OperatorServices:
    """The operator's side of a conductor."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._verdicts = Verdicts(conductor.core)

    def start(self) -> Answer:
        """After a stop: go on, beginning with a reset."""
        conductor = self._conductor
        if conductor.phase is Phase.PAUSED:
            return self.resume()
        if conductor.phase is Phase.NEEDS_HELP:
            return self.reset_done()
        if conductor.phase is not Phase.STOPPED:
            return True, f"already going: {conductor.phase.value}"
        if conductor.core.fleet_stopped:
            return False, "the fleet is stopped; call /fleet/clear_stop first"
        conductor.start()
        return True, "started"

    def pause(self) -> Answer:
        """Hold the arm in mid-episode; between episodes begin no further one."""
        conductor = self._conductor
        if conductor.phase is Phase.PAUSED:
            return True, "already paused"
        if conductor.core.machine.allows(Event.PAUSE):
            conductor.core.fire(Event.PAUSE)
            return True, "paused"
        if conductor.phase is Phase.STOPPED:
            return False, "stopped; there is nothing to pause"
        conductor.core.pause_wanted = True
        return True, f"will pause after {conductor.phase.value}"

    def pause_next(self) -> Answer:
        """Begin no further episode before `resume`; a running one goes on."""
        conductor = self._conductor
        if conductor.phase is Phase.STOPPED:
            return False, "stopped; there is nothing to pause"
        if conductor.phase is Phase.IDLE:
            conductor.core.fire(Event.PAUSE)
        elif conductor.phase is not Phase.PAUSED:
            conductor.core.pause_wanted = True
        return True, "will pause before the next episode"

    def resume(self) -> Answer:
        """Go on after a pause."""
        conductor = self._conductor
        conductor.core.pause_wanted = False
        if conductor.phase is not Phase.PAUSED:
            return False, f"not paused: {conductor.phase.value}"
        conductor.resume()
        return True, "resumed"

    def stop(self) -> Answer:
        """Stop this robot until `episode/start`."""
        if self._conductor.phase is not Phase.STOPPED:
            self._conductor.stop("episode/stop was called")
        return True, "stopped; go on with episode/start"

    def success(self) -> Answer:
        """The running episode has reached its goal: still frames, then save."""
        return self._judge(True)

    def failure(self) -> Answer:
        """The running episode has failed: save it."""
        return self._judge(False)

    def _judge(self, good: bool) -> Answer:
        conductor, session = self._conductor, self._conductor.live_session
        going = conductor.phase in (Phase.RUNNING, Phase.PAUSED)
        if session is None or not going or session.ended is not None:
            return False, f"no episode is running: {conductor.phase.value}"
        core, labels = conductor.core, session.record.labels
        labels.operator, labels.operator_source = good, core.settings.operator_source
        if good:
            conductor.course.conclude(session.decisions(core.outside.wall_ns()), "operator")
        else:
            conductor.course.cut(Outcome.FAILURE, "operator", flush=True)
        return True, session.record.episode_id

    def discard(self) -> Answer:
        """Throw the running episode away; it is recorded anew."""
        conductor, session = self._conductor, self._conductor.live_session
        if session is None or conductor.phase is Phase.READY:
            return False, f"no episode to discard: {conductor.phase.value}"
        session.discarded = True
        conductor.course.cut(Outcome.UNKNOWN, "operator")
        return True, session.record.episode_id

    def end(self) -> Answer:
        """The running episode is over: save it; whether it succeeded is said later, or never."""
        conductor, session = self._conductor, self._conductor.live_session
        going = conductor.phase in (Phase.RUNNING, Phase.PAUSED)
        if session is None or not going or session.ended is not None:
            return False, f"no episode is running: {conductor.phase.value}"
        if session.decisions(conductor.core.outside.wall_ns()) == 0:
            return False, "nothing was done yet; discard throws this take away"
        conductor.course.cut(Outcome.UNKNOWN, "operator", flush=True)
        return True, session.record.episode_id

    def finish(self) -> Answer:
        """No further episode of this plan; a running one is saved as it is."""
        conductor = self._conductor
        core, session = conductor.core, conductor.core.session
        if core.progress is None:
            return False, "there is no plan to finish"
        if core.progress.plan.round >= 0:
            return False, "a round of practice is the trainer's; end the trainer, or use stop"
        begun = session is not None and conductor.phase in LIVE - {Phase.READY}
        wall_ns = core.outside.wall_ns()
        kept = session is not None and begun and session.purpose is Purpose.EPISODE and (
            session.ended is not None or session.decisions(wall_ns) > 0
        )
        core.progress.close(session.planned.index if session is not None and kept else None)
        core.pause_wanted = False
        if session is None:
            if conductor.phase is Phase.PAUSED:
                conductor.resume()
        elif not begun:
            conductor.course.withdraw()
        elif session.ended is None:
            session.discarded = not kept
            conductor.course.cut(Outcome.UNKNOWN, "operator", flush=kept)
        core.publish_status()
        return True, f"finished; {core.progress.total} episodes of the plan"

    def label_success(self) -> Answer:
        """The newest take, over already, had reached its goal."""
        return self._label(True)

    def label_failure(self) -> Answer:
        """The newest take, over already, had failed."""
        return self._label(False)

    def _label(self, good: bool) -> Answer:
        last = self._conductor.core.last
        if last is None or last.discarded:
            return False, "no episode to label"
        try:
            self._verdicts.label(last, good)
        except (OSError, ValueError) as error:
            return False, f"{last.path} was not labelled: {error}"
        return True, last.session.record.episode_id

    def discard_last(self) -> Answer:
        """Take the newest saved episode out of the data set; it is not recorded anew."""
        last = self._conductor.core.last
        if last is None or last.discarded:
            return False, "no saved episode to discard"
        try:
            self._verdicts.discard(last)
        except OSError as error:
            return False, f"{last.path} was not discarded: {error}"
        return True, last.session.record.episode_id

    def reset_done(self) -> Answer:
        """A person has put the robot right: go on, or try to reset again."""
        conductor = self._conductor
        if conductor.phase is Phase.RESETTING and conductor.course.lead.confirm():
            return True, "thank you"
        if conductor.phase is not Phase.NEEDS_HELP:
            return False, f"no help was asked for: {conductor.phase.value}"
        conductor.help_done()
        return True, "thank you"

    def ask_reset(self) -> Answer:
        """Something fell, or the robot is stuck: reset before the next episode; end this one."""
        conductor, session = self._conductor, self._conductor.live_session
        conductor.course.lead.ask()
        if session is not None and session.ended is None:
            if conductor.phase is Phase.READY:
                conductor.course.withdraw()
            else:
                conductor.course.cut(Outcome.INTERRUPTED, "operator")
        return True, "the next episode begins with a reset"
