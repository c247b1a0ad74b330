"""Everything between a camera's message and a picture: judged once, decoded at most once."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efm_core import camera_pixels, messages
from efm_core.camera_description import CameraDescription
from efm_core.camera_ledger import Arrival, FrameLedger
from efm_core.camera_pixels import PictureError


@dataclass(slots=True, eq=False)
class Frame:
    """One picture of a camera, as its message.

    stamp_ns: the stamp to use, ns; the receive time where the message's is of no use.
    received_ns: wall time of receipt, ns. error: why it was refused, in words.
    """

    camera: str
    message: Any
    stamp_ns: int
    received_ns: int = 0
    arrival: Arrival = Arrival.ON_TIME
    reason: str = ""
    error: str = ""
    _rgb: NDArray[np.uint8] | None = field(default=None, repr=False)
    _digest: int | None = field(default=None, repr=False)

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The picture, uint8 (H, W, 3) RGB, decoded when first asked for. Raises PictureError."""
        if self._rgb is None:
            self._rgb = camera_pixels.decode(self.message)
        return self._rgb

    @property
    def readable(self) -> bool:
        """Whether it can be decoded."""
        try:
            return self.rgb is not None
        except PictureError:
            return False

    @property
    def digest(self) -> int:
        """Checksum (Adler-32) of the message's data: equal for the same picture."""
        if self._digest is None:
            self._digest = zlib.adler32(self.message.data)
        return self._digest


class CameraIntake:
    """Takes in the messages of one camera; robot, recorder and trainer use the same object.

    `ledger` has the counts.
    """

    def __init__(self, description: CameraDescription, lockstep: bool) -> None:
        self.description = description
        self.ledger = FrameLedger(description, lockstep)
        self._newest: Frame | None = None

    def take(self, message: Any, received_ns: int) -> Frame:
        """One message (sensor_msgs/Image or CompressedImage), received at wall time ns."""
        description, problem, error = self.description, "", ""
        try:
            camera_pixels.check(message, description.width, description.height)
        except PictureError as refusal:
            problem, error = refusal.field, str(refusal)
        stamp_ns = messages.stamp_of(message)
        frame = Frame(description.name, message, stamp_ns, received_ns)
        newest = self._newest
        frame.arrival, frame.stamp_ns, frame.reason = self.ledger.take(
            stamp_ns, received_ns, problem,
            lambda: newest is not None and newest.digest == frame.digest,
        )  # fmt: skip
        if frame.arrival is not Arrival.ON_TIME:
            frame.error = error or self._complaint(frame, stamp_ns)
        if frame.arrival is not Arrival.REPEATED and frame.reason != "reordered":
            self._newest = frame
        return frame

    def _complaint(self, frame: Frame, stamp_ns: int) -> str:
        age = (frame.received_ns - stamp_ns) / 1e9
        if frame.reason == "future":
            return f"stamp is {-age:.3f} s in the future; synchronise the clocks"
        if frame.reason == "delayed":
            return (
                f"picture is {age:.3f} s old on arrival, max_age is "
                f"{self.description.max_age:g} s; synchronise the clocks or raise max_age"
            )
        return ""
