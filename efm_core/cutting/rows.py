"""Which pictures become observations: one per control period, as on a robot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from efm_core.camera_description import CameraDescription
from efm_core.camera_ledger import Arrival, FrameLedger
from efm_core.cutting.scan import take
from efm_core.cutting.tracks import Picture, nearest
from efm_core.episode import TopicCounts


@dataclass(frozen=True, slots=True)
class Row:
    """One observation: its stamp in ns and the picture of every camera."""

    stamp_ns: int
    pictures: dict[str, Picture]


class Pairing:
    """Pictures that may be used, by stamp.

    cameras: the first one sets the pace. spoilt: (camera, place on its topic) of pictures that
    turned out not to be decodable.
    """

    def __init__(
        self,
        cameras: Sequence[CameraDescription],
        pictures: dict[str, list[Picture]],
        rate: float,
        spoilt: frozenset[tuple[str, int]] = frozenset(),
    ) -> None:
        self._cameras = cameras
        self._period_ns = round(1e9 / rate)
        self._early_ns = min(self._period_ns, round(1e9 / cameras[0].rate)) // 2
        self._usable: dict[str, dict[int, Picture]] = {}
        for camera in cameras:
            good: dict[int, Picture] = {}
            for picture in pictures[camera.name]:
                sound = (camera.name, picture.frame.number) not in spoilt
                if picture.arrival is Arrival.ON_TIME and sound:
                    good.setdefault(picture.stamp_ns, picture)
            self._usable[camera.name] = good
        self._stamps = {name: sorted(good) for name, good in self._usable.items()}

    def rows(self, start_ns: int, end_ns: int) -> tuple[list[Row], int]:
        """Observations of [start, end], and pictures of the first camera that found no partner.

        One per control period on average: of the first camera the picture nearest to each instant
        that is due, where every camera has one within its tolerance. A robot, who cannot wait for
        the nearest, takes one up to half a control period early
        (`efm_ros.observing.ObservationBuilder`); at the control rate that is the same.
        """
        found: list[Row] = []
        due_ns, unpaired = 0, 0
        for stamp in self._stamps[self._cameras[0].name]:
            if not start_ns <= stamp <= end_ns:
                continue
            if found and stamp <= due_ns - self._early_ns:
                continue
            pictures = dict(self._partners(stamp))
            if len(pictures) < len(self._cameras):
                unpaired += 1
                continue
            planned = due_ns + self._period_ns
            lagging = not found or planned < stamp + self._period_ns // 2
            due_ns = stamp + self._period_ns if lagging else planned
            found.append(Row(stamp, pictures))
        return found, unpaired

    def _partners(self, stamp_ns: int) -> Iterator[tuple[str, Picture]]:
        for camera in self._cameras:
            best = nearest(self._stamps[camera.name], stamp_ns, camera.pairing_s * 1e9)
            if best is not None:
                yield camera.name, self._usable[camera.name][best]


def counted(
    camera: CameraDescription,
    pictures: Sequence[Picture],
    start_ns: int,
    end_ns: int,
    spoilt: frozenset[tuple[str, int]] = frozenset(),
) -> TopicCounts:
    """What became of a camera's pictures of [start, end], as the recorder counts them."""
    ledger = FrameLedger(camera, lockstep=False)
    for picture in pictures:
        if start_ns <= picture.stamp_ns <= end_ns:
            verdict = take(ledger, picture.frame, picture.before)
            broken = (camera.name, picture.frame.number) in spoilt
            if broken and verdict.arrival is Arrival.ON_TIME:
                ledger.refuse("data")
    return ledger.counts(start_ns, end_ns)
