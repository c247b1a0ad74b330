"""What a fleet file says of a camera."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from efm_core import topics
from efm_core.topics import Topic

CameraName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


class CameraDescription(BaseModel):
    """One camera: its topic, its pictures, and what is still good enough (clock "real" alone).

    name: topic `camera/<name>/image_raw`, with `/compressed` behind it where `compressed` is set
        (sensor_msgs/CompressedImage, JPEG or PNG). width, height: px; a picture of another size
        is refused. rate: pictures per second; what is missing is counted by it.
    tolerance: s, longest time between the stamps of this camera's picture and of the
        observation's (the first camera's) for the two to be one observation; None = 1.5 periods
        of this camera.
    max_age: s from stamp to receipt beyond which a picture is late and not used.
    max_loss: share of an episode's pictures, 0 to 1, that may be lost or late; beyond it the
        episode is marked unusable for learning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: CameraName = "front"
    width: Annotated[int, Field(ge=16, le=8192)] = 64
    height: Annotated[int, Field(ge=16, le=8192)] = 64
    rate: Annotated[float, Field(gt=0.0, le=1000.0)] = 10.0
    compressed: bool = False
    tolerance: Annotated[float, Field(gt=0.0, le=10.0)] | None = None
    max_age: Annotated[float, Field(gt=0.0, le=10.0)] = 0.5
    max_loss: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2

    @property
    def topic(self) -> Topic:
        """The topic of its pictures, relative to the robot."""
        return topics.camera(self.name, self.compressed)

    @property
    def pairing_s(self) -> float:
        """The tolerance in force, s."""
        return 1.5 / self.rate if self.tolerance is None else self.tolerance
