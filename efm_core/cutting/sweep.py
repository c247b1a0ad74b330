"""Second reading of a recording: the pictures and states that episodes are made of, written."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from efm_core import camera_pixels, messages, topics
from efm_core.actions import ActionSpace
from efm_core.bags import EpisodeWriter
from efm_core.camera_pixels import PictureError
from efm_core.cutting.foreign import ForeignBag
from efm_core.cutting.mapping import CutMapping
from efm_core.cutting.plan import EpisodePlan
from efm_core.cutting.scan import IMAGES, Tell
from efm_core.topics import Topic

SOURCE_HOLD, SOURCE_TELEOP = 0, 2


Said = tuple[Topic, int, bytes]
"""A message that is made here: topic, stamp in ns, CDR bytes."""


class _Copy(NamedTuple):
    """A message to be taken over: as which topic, with which stamp in ns, of which camera."""

    topic: Topic
    stamp_ns: int
    camera: str = ""


@dataclass(slots=True)
class _Cut:
    """One episode on its way.

    copies: (topic, place on it) -> what becomes of that message. left: how many are to come.
    said: what goes between them, by stamp, newest first. spoilt: pictures of it that
    could not be decoded. writer: None before its first message and once one was spoilt.
    """

    plan: EpisodePlan
    copies: dict[tuple[str, int], list[_Copy]]
    left: int
    said: list[Said] = field(default_factory=list)
    spoilt: set[tuple[str, int]] = field(default_factory=set)
    writer: EpisodeWriter | None = None


class Sweep:
    """Writes the planned episodes of one recording below `data_set` in one reading.

    Episodes are written whole or not at all: whatever goes wrong, those begun are dropped.
    reserve_bytes: as in `EpisodeWriter`.
    """

    def __init__(
        self, bag: ForeignBag, mapping: CutMapping, data_set: Path, reserve_bytes: int
    ) -> None:
        self._bag, self._mapping, self._data_set = bag, mapping, data_set
        self._reserve = reserve_bytes
        self._wanted: dict[tuple[str, int], list[_Cut]] = {}

    def write(
        self, plans: list[EpisodePlan], tell: Tell
    ) -> Iterator[tuple[EpisodePlan, Path | None, frozenset[tuple[str, int]]]]:
        """(plan, its directory or None, its pictures that are damaged), as each is finished."""
        cuts = [self._cut(plan) for plan in plans]
        left = len(cuts)
        names = {topic for topic, _ in self._wanted}
        numbers = dict.fromkeys(names, 0)
        try:
            for topic, kind, _, data in self._bag.messages(frozenset(names)):
                place, numbers[topic] = (topic, numbers[topic]), numbers[topic] + 1
                tell(1)
                for cut in self._wanted.get(place, ()):
                    self._take(cut, place, kind, data)
                    if cut.left == 0:
                        left -= 1
                        yield cut.plan, self._finish(cut), frozenset(cut.spoilt)
                if left == 0:
                    return
        finally:
            for cut in cuts:
                if cut.writer is not None:
                    cut.writer.discard()

    def _cut(self, plan: EpisodePlan) -> _Cut:
        copies: dict[tuple[str, int], list[_Copy]] = {}
        for place, copy in dict.fromkeys(self._copies(plan)):
            copies.setdefault(place, []).append(copy)
        cut = _Cut(plan, copies, len(copies))
        for place in copies:
            self._wanted.setdefault(place, []).append(cut)
        return cut

    def _copies(self, plan: EpisodePlan) -> Iterator[tuple[tuple[str, int], _Copy]]:
        """Pictures as they came, the state with the stamp of the observation that it belongs to.

        The trainer pairs by nearness: so it finds what the plan chose and nothing later.
        """
        described = {camera.name: camera for camera in plan.record.cameras}
        for row, (_, joints) in zip(plan.rows, plan.states, strict=True):
            for name, picture in row.pictures.items():
                source = self._mapping.cameras[name].topic
                copy = _Copy(described[name].topic, picture.stamp_ns, name)
                yield (source, picture.frame.number), copy
            if joints is not None and self._mapping.joints is not None:
                copy = _Copy(topics.JOINT_STATES, row.stamp_ns)
                yield (self._mapping.joints, joints.number), copy

    def _take(self, cut: _Cut, place: tuple[str, int], kind: str, data: bytes) -> None:
        copies = cut.copies[place]
        cut.left -= 1
        if copies[0].camera and kind == IMAGES[1]:
            try:
                camera_pixels.decode(messages.deserialize(data, kind))
            except PictureError:
                cut.spoilt.update((copy.camera, place[1]) for copy in copies)
        if cut.spoilt:
            if cut.writer is not None:
                cut.writer.discard()
                cut.writer = None
            return
        if cut.writer is None:
            cut.writer = self._open(cut)
        for copy in copies:
            self._say(cut, cut.writer, copy.stamp_ns)
            name = f"/{cut.plan.record.robot}/{copy.topic.name}"
            cut.writer.write(name, stamped(data, copy.stamp_ns), copy.stamp_ns)

    def _say(self, cut: _Cut, writer: EpisodeWriter, until_ns: int | None = None) -> None:
        """Write what is made here, up to a stamp."""
        while cut.said and (until_ns is None or cut.said[-1][1] <= until_ns):
            topic, stamp, data = cut.said.pop()
            writer.write(f"/{cut.plan.record.robot}/{topic.name}", data, stamp)

    def _open(self, cut: _Cut) -> EpisodeWriter:
        record = cut.plan.record
        said = sorted(said_of(cut.plan, self._bag.path.name), key=lambda one: one[1])
        cut.said = said[::-1]
        used = [c.topic for copies in cut.copies.values() for c in copies] + [t for t, _, _ in said]
        table = {f"/{record.robot}/{t.name}": (t.type, t.qos) for t in dict.fromkeys(used)}
        return EpisodeWriter(self._data_set, record, table, self._reserve)

    def _finish(self, cut: _Cut) -> Path | None:
        if cut.writer is None:
            return None
        self._say(cut, cut.writer)
        path = cut.writer.finish(cut.plan.record)
        cut.writer = None
        return path


def stamped(data: bytes, stamp_ns: int) -> bytes:
    """A CDR message that begins with a header, with another stamp; the rest as it is."""
    order = "<" if data[1] & 1 else ">"
    stamp = struct.pack(order + "iI", *divmod(stamp_ns, 1_000_000_000))
    return data if data[4:12] == stamp else data[:4] + stamp + data[12:]


def said_of(plan: EpisodePlan, origin: str) -> Iterator[Said]:
    """What the nodes of a robot would have published: (topic, stamp in ns, CDR bytes)."""
    record = plan.record
    space = ActionSpace.model_validate(record.action_space)
    start, end = record.start_ns, record.end_ns
    said = [
        (topics.INSTRUCTION, start, messages.text(record.instruction)),
        (topics.EPISODE_STATUS, start, _status(plan, "running", origin, start)),
    ]
    for k, (row, (pose, _)) in enumerate(zip(plan.rows, plan.states, strict=True)):
        if pose is not None:
            at, turn = (part.tolist() for part in pose.value)
            message = messages.pose(row.stamp_ns, space.frame, at, turn)
            said.append((topics.EE_POSE, row.stamp_ns, message))
        if np.isfinite(plan.actions[k]).all() and row.stamp_ns != end:
            source = SOURCE_TELEOP if plan.commanded[k] else SOURCE_HOLD
            message = messages.guard_state(
                row.stamp_ns, plan.actions[k], space, source, False, 0, -1.0, -1, record.episode_id
            )
            said.append((topics.GUARD_STATE, row.stamp_ns, message))
    said.append((topics.EPISODE_STATUS, end, _status(plan, "saving", origin, end)))
    for topic, stamp, message in said:
        yield topic, stamp, messages.serialize(message, topic.type)


def _status(plan: EpisodePlan, phase: str, origin: str, stamp_ns: int) -> object:
    record, ended = plan.record, phase != "running"
    values = {
        "phase": phase,
        "episode_id": record.episode_id,
        "mode": record.mode.value,
        "clock": record.clock,
        "start_ns": str(record.start_ns),
        "tick": str(record.ticks if ended else 0),
        "outcome": record.outcome.value if ended else "",
        "termination_reason": record.termination_reason if ended else "",
        "cut_from": origin,
    }
    return messages.status(stamp_ns, f"{record.robot}/episode", values)
