"""What the cameras and the state of one bag showed at an instant, as the robot paired them.

Pictures are judged by the object that judges them on the robot (`CameraIntake`) and decoded by it,
when a row asks for them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from efm_core import messages
from efm_core.camera_intake import CameraIntake, Frame
from efm_core.camera_ledger import Arrival
from efm_core.episode import EpisodeRecord
from efm_core.topics import EE_POSE

_EXACT_NS = 1000
"""An offset in s, a float64, gives a stamp back within this."""
_SEARCH_NS = 2_000_000_000
"""How far from its observation a picture is looked for by its checksum."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a decision or a reward was made from.

    offsets: input -> its stamp minus the observation's, in s. digests: camera -> checksum of the
    picture, in real time.
    """

    offsets: Mapping[str, float] = field(default_factory=dict)
    digests: Mapping[str, int] = field(default_factory=dict)


class CameraTrack:
    """One camera's pictures by stamp; of a repeated stamp the first counts."""

    def __init__(self, name: str, record: EpisodeRecord) -> None:
        self._name = name
        self._described = {c.name: c for c in record.cameras}.get(name)
        self._lockstep = record.clock == "lockstep"
        self._intake: CameraIntake | None = None
        self._frames: dict[int, Frame] = {}
        self.stamps: list[int] = []

    def __len__(self) -> int:
        return len(self.stamps)

    def take(self, message: Any, received_ns: int) -> None:
        """One message, received by the recorder at a wall time in ns."""
        if self._described is None:  # a bag that says nothing of its cameras: nothing is judged
            stamp_ns = messages.stamp_of(message)
            self._keep(Frame(self._name, message, stamp_ns, received_ns))
            return
        if self._intake is None:
            self._intake = CameraIntake(self._described, self._lockstep)
        frame = self._intake.take(message, received_ns)
        if frame.arrival not in (Arrival.REPEATED, Arrival.REFUSED):
            self._keep(frame)

    def _keep(self, frame: Frame) -> None:
        if frame.stamp_ns not in self._frames:
            self._frames[frame.stamp_ns] = frame
            insort(self.stamps, frame.stamp_ns)

    def move(self, frame: Frame, stamp_ns: int) -> None:
        """Give a picture the stamp by which the robot knew it."""
        self.stamps.remove(frame.stamp_ns)
        del self._frames[frame.stamp_ns]
        frame.stamp_ns = stamp_ns
        self._keep(frame)

    def find(self, stamp_ns: int, inputs: Inputs | None) -> Frame | None:
        """The picture that belongs to an observation; None where there is none in the bag.

        With `inputs` it is the very picture that the robot used. Without, the one of that stamp,
        else the nearest within the camera's tolerance (unknown: the newest before).
        """
        if inputs is not None and self._name in inputs.digests:
            target = stamp_ns + round(inputs.offsets.get(self._name, 0.0) * 1e9)
            return self.by_digest(target, inputs.digests[self._name])
        if stamp_ns in self._frames:
            return self._readable(self._frames[stamp_ns])
        if inputs is not None and self._name in inputs.offsets:
            target = stamp_ns + round(inputs.offsets[self._name] * 1e9)
            return self._nearest(target, _EXACT_NS)
        if self._described is not None and not self._lockstep:
            return self._nearest(stamp_ns, self._described.pairing_s * 1e9)
        before = bisect_left(self.stamps, stamp_ns)
        return self._readable(self._frames[self.stamps[before - 1]]) if before else None

    def by_digest(self, target_ns: int, digest: int) -> Frame | None:
        """Of the pictures with this checksum the one nearest to a stamp, within 2 s of it."""
        exact = self._frames.get(target_ns)
        if exact is not None and exact.digest == digest:
            return self._readable(exact)
        first = bisect_left(self.stamps, target_ns - _SEARCH_NS)
        last = bisect_left(self.stamps, target_ns + _SEARCH_NS)
        near = sorted(self.stamps[first:last], key=lambda t: abs(t - target_ns))
        frames = (self._frames[t] for t in near)
        found = next((frame for frame in frames if frame.digest == digest), None)
        return None if found is None else self._readable(found)

    def _nearest(self, stamp_ns: int, tolerance_ns: float) -> Frame | None:
        at = bisect_left(self.stamps, stamp_ns)
        frames = [self._frames[t] for t in self.stamps[max(at - 2, 0) : at + 2]]
        timely = [f for f in frames if f.arrival is Arrival.ON_TIME]
        near = min(timely, key=lambda f: abs(f.stamp_ns - stamp_ns), default=None)
        if near is None or abs(near.stamp_ns - stamp_ns) > tolerance_ns:
            return None
        return self._readable(near)

    def _readable(self, frame: Frame) -> Frame | None:
        """The frame; None for one that was judged good and shows its damage in decoding."""
        return frame if self._described is None or frame.readable else None


def restamp(track: CameraTrack, answered: Mapping[int, Inputs]) -> None:
    """Give the pictures that the robot knew by their receipt the stamps of its answers.

    answered: stamp of an answer -> what it was made from.
    """
    known = set(track.stamps)
    for stamp_ns, inputs in answered.items():
        if stamp_ns in known:
            continue
        frame = track.find(stamp_ns, inputs)
        if frame is not None and frame.stamp_ns not in answered:
            track.move(frame, stamp_ns)


class StateTrack:
    """One source of the state by stamp; of a repeated stamp the first counts."""

    def __init__(self, source: str, record: EpisodeRecord) -> None:
        self._source = source
        self._tolerance_ns = (record.state_tolerance or 0.0) * 1e9
        self._values: dict[int, dict[str, float]] = {}
        self._stamps: list[int] = []

    def take(self, message: Any) -> None:
        """A JointState with named scalars, or the pose of the end effector."""
        is_pose = self._source == EE_POSE.name
        read = messages.read_pose_scalars if is_pose else messages.read_named_scalars
        stamp_ns = messages.stamp_of(message)
        if stamp_ns not in self._values:
            self._values[stamp_ns] = read(message)
            insort(self._stamps, stamp_ns)

    def find(self, stamp_ns: int, inputs: Inputs | None) -> dict[str, float]:
        """What the robot used with an observation, else the nearest within the tolerance."""
        offsets = {} if inputs is None else inputs.offsets
        target_ns, tolerance_ns = stamp_ns, self._tolerance_ns
        if self._source in offsets:
            target_ns = stamp_ns + round(offsets[self._source] * 1e9)
            tolerance_ns = _EXACT_NS
        elif offsets and tolerance_ns:
            return {}  # the robot found none that was near enough
        at = bisect_left(self._stamps, target_ns)
        near = self._stamps[max(at - 1, 0) : at + 1]
        best = min(near, key=lambda t: abs(t - target_ns), default=None)
        if best is None or abs(best - target_ns) > tolerance_ns:
            return {}
        return self._values[best]
