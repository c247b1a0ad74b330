"""What is heard of one robot -> the bag of the running episode, as the very bytes that came.

The recorder hears all topics all the time. Between episodes it keeps the last value of each
latched topic and a short tail of everything else: the first picture of an episode may arrive
before the news that the reset is done.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from efm_core import messages, topics
from efm_core.camera_description import CameraDescription
from efm_core.camera_intake import CameraIntake
from efm_core.camera_ledger import Arrival
from efm_core.episode import TopicCounts
from efm_core.topics import Topic
from efm_episode_manager import cdr
from efm_episode_manager.session import TickGrid

_TAIL = 96
_PICTURES = 4
"""Pictures of each camera kept between episodes in real time: they are the bulk of the memory."""
_ANSWERED = frozenset(
    t.name
    for t in (topics.JOINT_STATES, topics.EE_POSE, topics.TRUTH_STATE, topics.REWARD_STATE,
              topics.DECISION, topics.ACTION_CHUNK)
)  # fmt: skip
"""Topics with one message for each observation, the last one of an episode included."""


class Writer(Protocol):
    """The part of `efm_core.bags.EpisodeWriter` that the recorder uses."""

    def write(self, topic: str, data: bytes, log_ns: int) -> None:
        """Append one message."""
        ...


def recorded_topics(
    cameras: Iterable[str | Topic], commands: Iterable[str]
) -> tuple[Topic, ...]:
    """Every topic that belongs in a bag: the robot's table, its cameras and its commands.

    cameras: topics, or names, "front" -> camera/front/image_raw. commands: groups, "arm" ->
    command/arm/twist, "arm:positions" -> command/arm/positions. Raises ValueError for an output
    that there is not.
    """
    parts = [group.partition(":") for group in commands]
    commanded = [topics.command(name, output or "twist") for name, _, output in parts]
    by_joints = any(topic.type != topics.TELEOP_TWIST.type for topic in commanded)
    return (
        *(topics.camera(c) if isinstance(c, str) else c for c in cameras),
        *(t for t in topics.ROBOT_TOPICS if t.recorded),
        *((topics.TELEOP_JOINTS,) if by_joints else ()),
        *commanded,
    )


class _Arrival(Enum):
    """How a message came, by the stamps of its topic."""

    ON_TIME = "on_time"
    LATE = "late"
    REPEATED = "repeated"
    REPLACED = "replaced"  # a known stamp with other contents


@dataclass(slots=True)
class _Log:
    """One topic of the running episode."""

    topic: Topic
    stamped: bool
    per_observation: bool
    intake: CameraIntake | None = None  # of a described camera in real time
    seen: dict[int, int] = field(default_factory=dict)  # stamp -> hash of the bytes
    newest: int = -1
    arrivals: Counter[_Arrival] = field(default_factory=Counter)

    def forget(self) -> None:
        self.seen.clear()
        self.arrivals.clear()
        self.newest = -1
        if self.intake is not None:
            self.intake.ledger.begin()

    def arrive(self, stamp: int, data: bytes) -> _Arrival:
        """Classify a stamped message and remember it.

        The guard may answer a tick a second time, with the still arm that replaces the policy's
        last command: that is a replacement, to be stored. An observation's answers don't change.
        """
        content = 0 if self.per_observation else hash(data)
        known = self.seen.get(stamp)
        self.seen[stamp] = content
        if known is not None:
            return _Arrival.REPEATED if known == content else _Arrival.REPLACED
        if stamp < self.newest:
            return _Arrival.LATE
        self.newest = stamp
        return _Arrival.ON_TIME


class Recorder:
    """Hears messages by topic name relative to the robot and writes them while an episode is open.

    prefix: put before a topic's name in the bag, "/arm0/". clock: in lockstep the log time is the
    observation's virtual stamp, so that two runs of one plan give the same bag; in real time it
    is the time of receipt (wall, ns), beside the time of sending. cameras: those whose pictures
    are judged and counted as the policy's are, in real time; a picture that came is stored once,
    of use or not.
    """

    def __init__(
        self,
        heard: Iterable[Topic],
        prefix: str,
        lockstep: bool,
        cameras: Iterable[CameraDescription] = (),
    ) -> None:
        self._prefix = prefix
        self._lockstep = lockstep
        self._logs = {
            t.name: _Log(
                t, cdr.has_stamp(t.type) and t.stamped, t.name in _ANSWERED or t.qos == "image"
            )
            for t in heard
        }
        for camera in () if lockstep else cameras:
            self._logs[camera.topic.name].intake = CameraIntake(camera, lockstep)
        self._latched: dict[str, bytes] = {}
        self._tail: deque[tuple[str, bytes, int, int]] = deque(maxlen=_TAIL)
        self._writer: Writer | None = None
        self._grid = TickGrid(0, 1.0)
        self._now_ns = 0
        self.truth: list[bytes] = []

    @property
    def open(self) -> bool:
        """Whether an episode is being written."""
        return self._writer is not None

    def hear(self, name: str, data: bytes, received_ns: int, sent_ns: int = 0) -> None:
        """One message of topic `name`, by wall times of receipt and sending (0: unknown).

        Raises OSError when the disk refuses it.
        """
        log = self._logs[name]
        if log.topic.qos == "latched":
            self._latched[name] = data
        if self._writer is None:
            if log.intake is not None:
                self._make_room(name)
            self._tail.append((name, data, received_ns, sent_ns))
        else:
            self._store(log, data, received_ns, sent_ns)

    def _make_room(self, name: str) -> None:
        kept = [entry for entry in self._tail if entry[0] == name]
        if len(kept) >= _PICTURES:
            self._tail.remove(kept[0])

    def forget_tail(self) -> None:
        """A reset was accepted: what came before belongs to no episode."""
        self._tail.clear()

    def start(self, writer: Writer, grid: TickGrid, never_early: Collection[str] = ()) -> None:
        """Begin an episode: latched values first, then what of its messages came early.

        never_early: topics whose messages answer the announcement, which follows; what came
        before it answered the last one.
        """
        self._writer, self._grid, self._now_ns = writer, grid, grid.start_ns
        self.truth = []
        for log in self._logs.values():
            log.forget()
        for name, data in self._latched.items():
            self._store(self._logs[name], data, grid.start_ns)
        tail, self._tail = list(self._tail), deque(maxlen=_TAIL)
        for name, data, received_ns, sent_ns in tail:
            log = self._logs[name]
            early = log.topic.qos != "latched" and name not in never_early
            if early and self._belongs(log, data):
                self._store(log, data, received_ns, sent_ns)

    def _belongs(self, log: _Log, data: bytes) -> bool:
        return not log.stamped or self._grid.tick(cdr.stamp_ns(data)) is not None

    def stop(
        self, since_ns: int | None = None, until_ns: int | None = None
    ) -> dict[str, TopicCounts]:
        """End the episode; counts per absolute topic name.

        since_ns, until_ns: wall times of its start and end (real time), between which pictures
        were expected.
        """
        self._writer = None
        return {
            self._prefix + name: self._counts(log, since_ns, until_ns)
            for name, log in self._logs.items()
        }

    def pictures(self, since_ns: int | None, until_ns: int | None) -> dict[str, TopicCounts]:
        """The counts of the cameras so far, by relative topic name; times as in `stop`."""
        return {
            name: self._counts(log, since_ns, until_ns)
            for name, log in self._logs.items()
            if log.topic.qos == "image"
        }

    def complete(self, stamp_ns: int) -> bool:
        """Whether every topic that answered observations so far has answered this one too."""
        return all(
            stamp_ns in log.seen
            for log in self._logs.values()
            if log.per_observation and log.seen
        )

    def _store(self, log: _Log, data: bytes, received_ns: int, sent_ns: int = 0) -> None:
        assert self._writer is not None
        if log.intake is not None:
            frame = log.intake.take(messages.deserialize(data, log.topic.type), received_ns)
            if frame.arrival is not Arrival.REPEATED:
                self._writer.write(self._prefix + log.topic.name, data, received_ns, sent_ns)
            return
        log_ns = self._now_ns if self._lockstep else received_ns
        sent_ns = 0 if self._lockstep else sent_ns
        arrival = _Arrival.ON_TIME
        if log.stamped and log.topic.qos != "latched":
            stamp = cdr.stamp_ns(data)
            arrival = log.arrive(stamp, data)
            if self._lockstep and self._grid.tick(stamp) is not None:
                self._now_ns = log_ns = stamp
            if log.topic.name == topics.TRUTH_STATE.name:
                self.truth.append(data)
        log.arrivals[arrival] += 1
        if arrival is not _Arrival.REPEATED:
            self._writer.write(self._prefix + log.topic.name, data, log_ns, sent_ns)

    def _counts(
        self, log: _Log, since_ns: int | None = None, until_ns: int | None = None
    ) -> TopicCounts:
        if log.intake is not None:
            return log.intake.ledger.counts(since_ns, until_ns)
        dropped = 0
        if log.per_observation and log.seen and self._lockstep:
            ticks = [t for s in log.seen if (t := self._grid.tick(s)) is not None]
            dropped = max(ticks, default=-1) + 1 - len(ticks)
        came = log.arrivals
        repeated = came[_Arrival.REPEATED] + came[_Arrival.REPLACED]
        return TopicCounts(
            expected=came.total() + dropped,
            on_time=came[_Arrival.ON_TIME],
            late=came[_Arrival.LATE],
            repeated=repeated,
            dropped=dropped,
        )
