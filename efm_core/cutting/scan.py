"""First reading of a recording: when everything came and what is small, without the pictures."""

from __future__ import annotations

import difflib
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rosbags.serde import SerdeError

from efm_core import messages
from efm_core.bags.errors import BagError
from efm_core.camera_description import CameraDescription
from efm_core.camera_ledger import Arrival, FrameLedger, Verdict
from efm_core.camera_pixels import PictureError, check
from efm_core.cutting import commands
from efm_core.cutting.foreign import ForeignBag
from efm_core.cutting.frames import FrameTree, Transform, transform_of
from efm_core.cutting.mapping import (
    CutMapping,
    LabelTopic,
    MappingError,
    MarkedEpisodes,
    Marker,
    NextAction,
    PoseSource,
    TextTopic,
)
from efm_core.cutting.tracks import CameraFrame, Picture, Track
from efm_core.fleet import RobotDescription

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
STRING = "std_msgs/msg/String"
_POSES = ("geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/TransformStamped")
_TF = ("tf2_msgs/msg/TFMessage",)
_BEFORE_NS = -(2**62)
_UNREAD: dict[str, float] = {}
"""In place of joints whose values nothing asks for: an hour of them at 500 Hz would be 1 GB."""
Tell = Callable[[int], None]
"""Called with the number of messages read since the last call."""


@dataclass(slots=True)
class Scan:
    """What one recording holds for a mapping; stamps in ns, those to use.

    pictures: camera -> all that came. joints, pose: stamped values. actions: a track for each
    command source of the mapping (None for source next). events: topic -> (stamp, value) of
    markers, labels and instructions. begin_ns: instant that times of the mapping count from.
    unreadable: topic -> messages that made no sense.
    """

    cameras: dict[str, CameraDescription]
    pictures: dict[str, list[Picture]]
    joints: Track[dict[str, float]] = field(default_factory=Track)
    pose: Track[Transform] = field(default_factory=Track)
    actions: list[Track[np.ndarray[Any, np.dtype[np.float64]]] | None] = field(default_factory=list)
    events: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    begin_ns: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Use:
    """A topic of the mapping: the field that names it, what it may be, who takes its messages."""

    where: str
    topic: str
    types: tuple[str, ...]
    hear: Callable[[Any, str, int, int, bytes], None]


class Scanner:
    """Reads one recording by a mapping. Raises BagError when the bag lacks a topic or its type."""

    def __init__(self, bag: ForeignBag, mapping: CutMapping, robot: RobotDescription) -> None:
        self._bag, self._mapping, self._robot = bag, mapping, robot
        described = {c.name: c for c in robot.cameras}
        cameras = {c.name: mapping.cameras[c.name].described(c) for c in robot.cameras}
        for name in described:
            kind = bag.topics.get(mapping.cameras[name].topic, ("", 0))[0]
            update = {"compressed": kind == IMAGES[1]}
            cameras[name] = cameras[name].model_copy(update=update)
        self.scan = Scan(cameras, {name: [] for name in cameras}, begin_ns=bag.start_ns)
        self._first = robot.cameras[0].name
        self._offset_ns: int | None = None  # stamp minus recorder's time, of simulated times
        self._frames: dict[str, list[CameraFrame]] = {name: [] for name in cameras}
        self._moved = any(isinstance(source, NextAction) for source in mapping.action)
        self._uses = list(self._all_uses())
        for use in self._uses:
            self._check(use)

    @property
    def topics(self) -> frozenset[str]:
        """Topics of the recording that the mapping names."""
        return frozenset(use.topic for use in self._uses)

    def read(self, tell: Tell) -> Scan:
        """Read it from one end to the other."""
        handlers: dict[str, list[_Use]] = {}
        for use in self._uses:
            handlers.setdefault(use.topic, []).append(use)
        numbers = dict.fromkeys(handlers, 0)
        for topic, kind, log_ns, data in self._bag.messages(self.topics):
            self._hear(handlers[topic], kind, numbers[topic], log_ns, data)
            numbers[topic] += 1
            tell(1)
        for name, frames in self._frames.items():
            self.scan.pictures[name] = judged(frames, self.scan.cameras[name])
        return self.scan

    def _hear(self, uses: list[_Use], kind: str, number: int, log_ns: int, data: bytes) -> None:
        """Messages that make no sense are counted; a picture among them is judged as such."""
        try:
            message = messages.deserialize(data, kind)
            for use in uses:
                use.hear(message, use.where, number, log_ns, data)
        except MappingError as error:
            raise MappingError(f"{self._bag.path}: {error}") from error
        except (SerdeError, ValueError, IndexError, AssertionError, struct.error):
            topic = uses[0].topic
            self.scan.unreadable[topic] = self.scan.unreadable.get(topic, 0) + 1

    def _stamp(self, message: Any, log_ns: int) -> int:
        """The stamp to use of a message, ns.

        In simulated times one without a stamp came with the newest picture of the first camera,
        or before everything.
        """
        if self._mapping.times != "received" and hasattr(message, "header"):
            stamp = messages.stamp_of(message)
            if stamp > 0:
                return stamp
        if self._mapping.times != "simulated":
            return log_ns
        return log_ns + (_BEFORE_NS if self._offset_ns is None else self._offset_ns)

    # ---- what is read from which topic -------------------------------------------------------

    def _all_uses(self) -> Iterator[_Use]:
        mapping = self._mapping
        for name, camera in mapping.cameras.items():
            yield _Use(f"cameras.{name}.topic", camera.topic, IMAGES, self._picture_of(name))
        if mapping.joints is not None:
            yield _Use("joints", mapping.joints, ("sensor_msgs/msg/JointState",), self._joints)
        if mapping.pose is not None:
            yield from self._pose_uses(mapping.pose)
        for place, source in enumerate(mapping.action):
            if isinstance(source, NextAction):
                self.scan.actions.append(None)
                continue
            track: Track[Any] = Track()
            self.scan.actions.append(track)
            reader = commands.reader(source, self._robot.space)
            kind, take = commands.TYPES[source.source], self._command_of(track, reader)
            yield _Use(f"action.{place}.topic", source.topic, (kind,), take)
        for where, topic, types in _event_topics(mapping):
            self.scan.events.setdefault(topic, [])
            yield _Use(where, topic, types, self._event_of(topic))

    def _pose_uses(self, pose: PoseSource) -> Iterator[_Use]:
        if pose.topic is not None:
            yield _Use("pose.topic", pose.topic, _POSES, self._pose)
            return
        assert pose.frames is not None  # one of the two, the mapping says
        tree = FrameTree(*pose.frames)

        def take(message: Any, where: str, number: int, log_ns: int, data: bytes) -> None:
            for one in message.transforms:
                stamp = 0 if where == "pose.tf_static" else self._stamp(one, log_ns)
                way = transform_of(one.transform)
                tree.hear(one.header.frame_id, one.child_frame_id, way, stamp)
            found = tree.pose()
            if found is not None and found[0] > 0:
                self.scan.pose.add(found[0], found[1], number, last=True)

        yield _Use("pose.tf", pose.tf, _TF, take)
        if pose.tf_static in self._bag.topics:
            yield _Use("pose.tf_static", pose.tf_static, _TF, take)

    def _check(self, use: _Use) -> None:
        if use.topic not in self._bag.topics:
            near = difflib.get_close_matches(use.topic, self._bag.topics, n=1)
            raise BagError(
                f"{self._bag.path} has no topic {use.topic}, which the mapping's {use.where} "
                f"names; {f'did you mean {near[0]}? ' if near else ''}It has "
                f"{self._bag.listing()}; mend the mapping"
            )
        kind = self._bag.topics[use.topic][0]
        if kind not in (use.types or messages.typestore.types):
            raise BagError(
                f"{self._bag.path}: {use.topic} is {kind}, the mapping's {use.where} takes "
                f"{' or '.join(use.types) or 'standard messages'}; the bag has "
                f"{self._bag.listing()}; mend the mapping"
            )

    # ---- taking messages ---------------------------------------------------------------------

    def _picture_of(self, camera: str) -> Callable[[Any, str, int, int, bytes], None]:
        described = self.scan.cameras[camera]
        times, frames = self._mapping.times, self._frames[camera]

        def take(message: Any, where: str, number: int, log_ns: int, data: bytes) -> None:
            problem, text = "", ""
            try:
                check(message, described.width, described.height)
            except PictureError as error:
                problem, text = error.field, str(error)
            stamp = messages.stamp_of(message)
            received = log_ns
            if times == "received":
                stamp = log_ns
            elif times == "simulated":
                received = stamp
                if camera == self._first:
                    if self._offset_ns is None:
                        self.scan.begin_ns += stamp - log_ns
                    self._offset_ns = stamp - log_ns
            digest = zlib.adler32(message.data)
            frames.append(CameraFrame(number, stamp, received, problem, text, digest))

        return take

    def _joints(self, message: Any, where: str, number: int, log_ns: int, data: bytes) -> None:
        stamp = self._stamp(message, log_ns)
        digest = zlib.adler32(data[12:])
        values = messages.read_named_scalars(message)  # raises for one that makes no sense
        self.scan.joints.add(stamp, values if self._moved else _UNREAD, number, digest)

    def _pose(self, message: Any, where: str, number: int, log_ns: int, data: bytes) -> None:
        source = self._mapping.pose
        assert source is not None  # this is only called for a mapping with a pose
        commands.check_frame(message, source.frame, self._robot.space, where, str(source.topic))
        found = transform_of(message.transform if hasattr(message, "transform") else message.pose)
        self.scan.pose.add(self._stamp(message, log_ns), found, number)

    def _command_of(
        self, track: Track[Any], read: commands.CommandReader
    ) -> Callable[[Any, str, int, int, bytes], None]:
        def take(message: Any, where: str, number: int, log_ns: int, data: bytes) -> None:
            values = read(message, where)
            # The stamp of a trajectory is when it shall begin, not when it was commanded.
            stamped = not hasattr(message, "points")
            stamp = self._stamp(message if stamped else None, log_ns)
            track.add(stamp, values, number)

        return take

    def _event_of(self, topic: str) -> Callable[[Any, str, int, int, bytes], None]:
        found = self.scan.events[topic]

        def take(message: Any, where: str, number: int, log_ns: int, data: bytes) -> None:
            found.append((self._stamp(message, log_ns), getattr(message, "data", None)))

        return take


def judged(frames: list[CameraFrame], camera: CameraDescription) -> list[Picture]:
    """What the robot would have made of each picture, by the object that it uses."""
    ledger = FrameLedger(camera, lockstep=False)
    newest: int | None = None
    found = []
    for frame in frames:
        before = newest
        verdict = take(ledger, frame, before)
        if verdict.arrival is not Arrival.REPEATED and verdict.reason != "reordered":
            newest = frame.digest
        found.append(Picture(frame, verdict.arrival, verdict.stamp_ns, before))
    return found


def take(ledger: FrameLedger, frame: CameraFrame, before: int | None) -> Verdict:
    """A ledger's verdict on one message. before: digest of the last picture in order."""
    problem = frame.problem
    return ledger.take(frame.header_ns, frame.received_ns, problem, lambda: before == frame.digest)


def _event_topics(mapping: CutMapping) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(field, topic, types it may have) of each topic whose values count; each topic once."""
    found: dict[str, tuple[str, str, tuple[str, ...]]] = {}

    def add(where: str, source: TextTopic | LabelTopic | Marker, *types: str) -> None:
        found.setdefault(source.topic, (f"{where}.topic", source.topic, types))

    if isinstance(mapping.instruction, TextTopic):
        add("instruction", mapping.instruction, STRING)
    if isinstance(mapping.success, LabelTopic):
        add("success", mapping.success)
    if isinstance(mapping.episodes, MarkedEpisodes):
        for role in ("start", "end", "discard"):
            marker = getattr(mapping.episodes, role)
            if marker is not None:
                add(f"episodes.{role}", marker)
    yield from found.values()
