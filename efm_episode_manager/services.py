"""What a person asks of the manager by the services under `episode/`.

Every method returns (accepted, message for the caller) and never waits.
"""

from __future__ import annotations

from efm_core.episode import Outcome
from efm_episode_manager.conductor import Conductor
from efm_episode_manager.state_machine import Event, Phase

Answer = tuple[bool, str]

NAMES = ("start", "pause", "resume", "stop", "success", "failure", "discard", "reset_done")
"""Services `episode/<name>`, all std_srvs/Trigger; methods of `OperatorServices`."""


class OperatorServices:
    """The operator's side of a conductor."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

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

    def reset_done(self) -> Answer:
        """A person has put the robot right: try to reset again."""
        conductor = self._conductor
        if conductor.phase is not Phase.NEEDS_HELP:
            return False, f"no help was asked for: {conductor.phase.value}"
        conductor.help_done()
        return True, "thank you"
