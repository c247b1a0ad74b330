"""What an episode manager is told about its robot, and its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from efm_core.actions import ActionSpace


class ManagerSettings(BaseModel):
    """Settings of one robot's manager.

    robot, fleet: names. data_dir: where data sets are written. clock: lockstep or real.
    cameras: camera names; commands: command groups with a twist topic.
    space: the robot's action space; its rate (Hz) is the episode's.
    operator_source: who calls success and failure: a person, or a simulation's oracle.
    instructions: drawn from where neither plan nor reset gives one.
    reserve_bytes: free space below which no episode starts. silence_s: a node not heard for this
    long ends the episode. stall_s: no tick for this long, everybody alive, ends it too.
    ready_s: time for loading a checkpoint. reset_s: time for one reset. reset_tries: before help
    is called. retry_s: pause after an episode that never began. flush_s: wait for the messages
    of the last tick. breaker: faults in a row that stop the robot.
    All durations in s, by a steady clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    robot: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    fleet: str = ""
    data_dir: Path
    clock: Literal["lockstep", "real"] = "lockstep"
    cameras: tuple[str, ...] = ("front",)
    commands: tuple[str, ...] = ("arm",)
    space: ActionSpace
    operator_source: Literal["person", "oracle"] = "person"
    instructions: tuple[str, ...] = ()
    reserve_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000
    silence_s: Annotated[float, Field(gt=0.0)] = 2.0
    stall_s: Annotated[float, Field(gt=0.0)] = 10.0
    ready_s: Annotated[float, Field(gt=0.0)] = 60.0
    reset_s: Annotated[float, Field(gt=0.0)] = 30.0
    reset_tries: Annotated[int, Field(ge=1)] = 3
    retry_s: Annotated[float, Field(ge=0.0)] = 1.0
    flush_s: Annotated[float, Field(ge=0.0)] = 0.3
    breaker: Annotated[int, Field(ge=1)] = 20
    still_ticks: Annotated[int, Field(ge=0)] = 4
    efm_version: str = ""
    ros_version: str = ""

    @property
    def lockstep(self) -> bool:
        """Whether stamps are virtual and the world waits for ticks."""
        return self.clock == "lockstep"
