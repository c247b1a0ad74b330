"""The record of one episode: `episode.json` beside its bag."""

from __future__ import annotations

import re
import uuid
from enum import Enum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from efm_core.camera_description import CameraDescription

SCHEMA_VERSION: Literal[1] = 1
_EPISODE_ID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")


class Mode(str, Enum):
    """Why an episode was run; training refuses EVALUATION."""

    DEMO = "demo"
    PRACTICE = "practice"
    EVALUATION = "evaluation"
    CALIBRATION = "calibration"


class Outcome(str, Enum):
    """What the robot's own side concluded; labels (people, simulator) stand apart."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"
    INTERRUPTED = "interrupted"
    FAULT = "fault"


class Intervention(BaseModel):
    """A stretch in which a person moved the robot: half-open [start_ns, end_ns) in stamps."""

    model_config = ConfigDict(extra="forbid")

    start_ns: int
    end_ns: int
    source: str = "teleop"


class TopicCounts(BaseModel):
    """Disjoint counts of one topic: expected = on_time + late + repeated + dropped.

    refused: of `dropped`, those that came and could not be used (size, encoding, cut, stamp in the
    future); they are in the bag. restamped: of `on_time`, those for which the receive time counts
    because their stamp is zero, frozen or ahead of the clock.
    """

    model_config = ConfigDict(extra="forbid")

    expected: int = 0
    on_time: int = 0
    late: int = 0
    repeated: int = 0
    dropped: int = 0
    refused: int = 0
    restamped: int = 0


class Labels(BaseModel):
    """Judgements from outside the robot; None where nobody judged."""

    model_config = ConfigDict(extra="forbid")

    operator: bool | None = None
    operator_source: Literal["person", "oracle"] | None = None
    truth: bool | None = None


class EpisodeRecord(BaseModel):
    """Everything about an episode that is not a message in its bag.

    Stamps are ns (virtual in lockstep, wall time in real). `termination_reason` is one of
    detector, timeout, operator, stop, crash or fault:<what>. `ticks` counts control decisions.
    `reset`: how the robot came to the start (`efm_core.reset_settings`), in `reset_attempts` tries;
    `reset_asked`: it practises without resets and this one was needed, an intervention;
    `reset_reason`: why, where the robot or its failures asked for it.
    `saved`, `outcome` and `termination_reason` are three separate facts. `cameras` and
    `state_tolerance` (s): by what pictures and state were paired, in real time. `unusable`: why
    nothing may learn from it (a camera lost too much), "" when something may.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    episode_id: Annotated[str, Field(pattern=_EPISODE_ID.pattern)]
    mode: Mode
    split: Literal["train", "validation", "none"] = "train"
    plan: str = ""
    index: int = -1
    round: int = -1
    robot: str
    fleet: str = ""
    instruction: str
    task: str = ""
    transport: Literal["dds", "in_process"]
    clock: Literal["lockstep", "real"]
    rate: Annotated[float, Field(gt=0.0)]
    ticks: Annotated[int, Field(ge=0)] = 0
    action_space: dict[str, object] = Field(default_factory=dict)
    action_space_hash: str = ""
    policy_version: str = ""
    reward_version: str = ""
    efm_version: str = ""
    ros_version: str = ""
    scene_hash: str = ""
    scene_seed: int | None = None
    start_ns: int = 0
    end_ns: int = 0
    phase_seconds: dict[str, float] = Field(default_factory=dict)
    reset_attempts: int = 0
    reset: str = ""
    reset_asked: bool = False
    reset_reason: str = ""
    saved: bool = False
    outcome: Outcome = Outcome.UNKNOWN
    termination_reason: Annotated[
        str, Field(pattern=r"^(detector|timeout|operator|stop|crash|fault:[a-z0-9_]+)$")
    ] = "timeout"
    success_tick: int | None = None
    labels: Labels = Field(default_factory=Labels)
    interventions: list[Intervention] = Field(default_factory=list)
    recovered: bool = False
    topics: dict[str, TopicCounts] = Field(default_factory=dict)
    cameras: tuple[CameraDescription, ...] = ()
    state_tolerance: float | None = None
    unusable: str = ""


def new_episode_id() -> str:
    """A fresh UUID (never reused)."""
    return str(uuid.uuid4())
