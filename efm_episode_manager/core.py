"""What the parts of the episode manager share: phase, episode, counters, and the way outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from efm_core import messages, topics
from efm_core.episode import TopicCounts
from efm_core.topics import Topic
from efm_episode_manager.afterwards import LastTake
from efm_episode_manager.counters import Counters
from efm_episode_manager.gauges import Gauges
from efm_episode_manager.liveness import Liveness
from efm_episode_manager.ownership import StopMark
from efm_episode_manager.plans import PlanProgress
from efm_episode_manager.recorder import recorded_topics
from efm_episode_manager.scribe import Job, Scribe
from efm_episode_manager.session import Session
from efm_episode_manager.settings import ManagerSettings
from efm_episode_manager.state_machine import Event, Phase, StateMachine


class Outside(Protocol):
    """What the manager needs from the world round it."""

    def steady_s(self) -> float:
        """A steady clock, s."""
        ...

    def wall_ns(self) -> int:
        """The wall clock, ns."""
        ...

    def send(self, topic: Topic, message: Any) -> bytes:
        """Publish; returns the CDR bytes sent."""
        ...

    def reset_ready(self) -> bool:
        """Whether the robot's reset can be called."""
        ...

    def request_reset(self, scene: Mapping[str, Any]) -> None:
        """Hand over the scene and call reset; a refusal comes back by `reset_refused`."""
        ...

    def wake_by(self, topic: str) -> None:
        """Of the topics with a message per tick, this one alone need be heard at once."""
        ...

    def hurry(self, on: bool) -> None:
        """Whether every message need be heard at once, for a moment."""
        ...

    def work(self, session: Session, job: Job) -> None:
        """Run the job beside the callbacks, in order; its end comes back by `saved`."""
        ...


class Core:
    """State of one manager. `session` is the episode from its reset until it goes to the disk.

    reason: why nothing goes on, for people. entered_s, progressed_s: steady times (s) at which
    the phase began and a tick last went by. robot_stamp_ns: newest stamp of the robot.
    reset_status: asked for the pairs that tell of resets. pause_wanted: pause before the next
    episode. last: the newest episode handed to the disk.
    """

    def __init__(self, settings: ManagerSettings, outside: Outside) -> None:
        self.settings = settings
        self.outside = outside
        self.machine = StateMachine()
        self.liveness = Liveness(settings.silence_s)
        self.counters = Counters()
        self.stop_mark = StopMark(settings.data_dir, settings.robot)
        self.scribe = Scribe(settings, recorded_topics(settings.camera_topics, settings.commands))
        self.progress: PlanProgress | None = None
        self.session: Session | None = None
        self.last: LastTake | None = None
        self.reason = ""
        self.disk_error = ""
        self.fleet_stopped = False
        self.pause_wanted = False
        self.reset_status: Callable[[], dict[str, str]] = dict
        self.robot_stamp_ns = 0
        self.entered_s = self.progressed_s = outside.steady_s()
        shown = [topic.name for topic in settings.camera_topics]
        shown += [topics.JOINT_STATES.name, topics.EE_POSE.name]
        self.gauges = Gauges(settings.data_dir, shown, self.entered_s, self._frames)

    def adopt(self, settings: ManagerSettings) -> None:
        """Other limits from now on."""
        self.settings = settings
        self.liveness.limit_s = settings.silence_s

    def _frames(self) -> dict[str, TopicCounts]:
        start_ns = None
        if self.session is not None and self.phase in (Phase.RUNNING, Phase.PAUSED, Phase.ENDING):
            start_ns = self.session.record.start_ns
        return self.scribe.recorder.pictures(start_ns, self.outside.wall_ns())

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self.machine.phase

    def now_s(self) -> float:
        """A steady clock, s."""
        return self.outside.steady_s()

    def fire(self, event: Event) -> None:
        """Move the state machine, book the time spent in the phase left, tell everybody."""
        now, before = self.now_s(), self.phase
        self.machine.fire(event)
        if self.session is not None and before is not Phase.IDLE:
            seconds = self.session.record.phase_seconds
            spent = seconds.get(before.value, 0.0) + now - self.entered_s
            seconds[before.value] = round(spent, 6)
        self.entered_s = self.progressed_s = now
        self.publish_status()

    def send(self, topic: Topic, message: Any) -> None:
        """Publish on one of the manager's own topics and record what was sent."""
        data = self.outside.send(topic, message)
        now_ns = self.outside.wall_ns()
        self.record(topic.name, data, now_ns, now_ns)

    def record(self, name: str, data: bytes, received_ns: int, sent_ns: int = 0) -> None:
        """Hand a message to the recorder; when the disk refuses it, `disk_error` says why."""
        try:
            self.scribe.recorder.hear(name, data, received_ns, sent_ns)
        except OSError as error:
            self.disk_error = str(error)

    def publish_status(self) -> None:
        """Send `episode/status`."""
        values = self.status()
        waits = (
            self.phase in (Phase.NEEDS_HELP, Phase.STOPPED)
            or (self.phase is Phase.PAUSED and bool(self.reason))
            or bool(values.get("waits_for"))
        )
        stamp_ns = self.outside.wall_ns()
        self.send(
            topics.EPISODE_STATUS,
            messages.status(stamp_ns, "episode_manager", values, int(waits), self.reason),
        )

    def status(self) -> dict[str, str]:
        """The pairs of `episode/status`; an episode is announced once it is reset."""
        session, progress, counters = self.session, self.progress, self.counters
        announced = session is not None and self.phase is not Phase.RESETTING
        record = session.record if session is not None and announced else None
        ended = record is not None and session is not None and session.ended is not None
        plan = session.plan if session else progress.plan if progress else None
        return {
            "phase": self.phase.value,
            "episode_id": record.episode_id if record else "",
            "mode": plan.mode.value if plan else "",
            "clock": self.settings.clock,
            "start_ns": str(record.start_ns if record else 0),
            "tick": str(session.sent if session else -1),
            "outcome": record.outcome.value if record and ended else "",
            "termination_reason": record.termination_reason if record and ended else "",
            "policy_version": plan.policy_version if plan else "",
            "reward_version": plan.reward_version if plan else "",
            "temperature": repr(plan.temperature) if plan else "",
            "seed": str(plan.seed) if plan else "",
            "plan": progress.plan.plan_id if progress else "",
            "plan_done": str(progress.done if progress else 0),
            "plan_total": str(progress.total if progress else 0),
            "episodes_total": str(counters.episodes),
            "faults_total": str(counters.faults),
            "success_total": str(counters.successes),
            "redone_total": str(counters.redone),
            "discarded_total": str(counters.discarded),
            "unusable_total": str(counters.unusable),
            "last_label": self.last.label_text if self.last else "",
            **self.reset_status(),
            **self.gauges.values(self.now_s()),
            "reason": self.reason,
        }
