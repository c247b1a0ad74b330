"""What an episode manager is told about its robot, and its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from efm_core import topics
from efm_core.actions import ActionSpace
from efm_core.camera_description import CameraDescription
from efm_core.reset_settings import RobotReset
from efm_core.topics import Topic


class ManagerSettings(BaseModel):
    """Settings of one robot's manager.

    robot, fleet: names. data_dir: where data sets are written. clock: lockstep or real.
    cameras: camera names; commands: command groups, name (a twist) or name:output.
    camera_descriptions: what is known of the cameras, or their JSON; without one a camera's
    pictures are raw and their size is not judged. state_tolerance: s, see RobotDescription.
    space: the robot's action space; its rate (Hz) is the episode's.
    operator_source: who calls success and failure: a person, or a simulation's oracle.
    instructions: drawn from where neither plan nor reset gives one.
    reserve_bytes: free space below which no episode starts. silence_s: a node not heard for this
    long ends the episode. stall_s: no tick for this long, everybody alive, ends it too;
    operator_s: likewise while a person moves the robot, who may take a break.
    reset: how the robot gets to the start of an episode, or its JSON. ready_s: time for loading a
    checkpoint. retry_s: pause after an episode that never began. flush_s: wait for the messages
    of the last tick. breaker: faults in a row that stop the robot.
    failure_breaker: episodes of practice in a row without success that pause it; 0: never.
    All durations in s, by a steady clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    robot: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    fleet: str = ""
    data_dir: Path
    clock: Literal["lockstep", "real"] = "lockstep"
    cameras: tuple[str, ...] = ("front",)
    commands: tuple[str, ...] = ("arm",)
    camera_descriptions: tuple[CameraDescription, ...] = ()
    state_tolerance: Annotated[float, Field(gt=0.0)] = 0.1
    space: ActionSpace
    operator_source: Literal["person", "oracle"] = "person"
    instructions: tuple[str, ...] = ()
    reserve_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    silence_s: Annotated[float, Field(gt=0.0)] = 2.0
    stall_s: Annotated[float, Field(gt=0.0)] = 10.0
    operator_s: Annotated[float, Field(gt=0.0)] = 600.0
    ready_s: Annotated[float, Field(gt=0.0)] = 60.0
    reset: RobotReset = RobotReset()
    retry_s: Annotated[float, Field(ge=0.0)] = 1.0
    flush_s: Annotated[float, Field(ge=0.0)] = 0.3
    breaker: Annotated[int, Field(ge=1)] = 20
    failure_breaker: Annotated[int, Field(ge=0)] = 20
    still_ticks: Annotated[int, Field(ge=0)] = 4
    efm_version: str = ""
    ros_version: str = ""

    @field_validator("reset", mode="before")
    @classmethod
    def _read_reset(cls, value: Any) -> Any:
        return (json.loads(value) if value else {}) if isinstance(value, str) else value

    @field_validator("camera_descriptions", mode="before")
    @classmethod
    def _read_json(cls, value: Any) -> Any:
        return (json.loads(value) if value else ()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _describes_its_cameras(self) -> ManagerSettings:
        described = [camera.name for camera in self.camera_descriptions]
        if described and described != list(self.cameras):
            raise ValueError(
                f"camera_descriptions are of {described}, cameras are {list(self.cameras)}; "
                "describe these cameras in this order, or none"
            )
        return self

    @property
    def camera_topics(self) -> tuple[Topic, ...]:
        """The topics of the cameras' pictures, in order."""
        described = {camera.name: camera.topic for camera in self.camera_descriptions}
        return tuple(described.get(name) or topics.camera(name) for name in self.cameras)

    @property
    def lockstep(self) -> bool:
        """Whether stamps are virtual and the world waits for ticks."""
        return self.clock == "lockstep"
