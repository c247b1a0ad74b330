"""What in somebody else's recording is what: the mapping file of `efm bags cut`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from efm_core.actions import ActionSpace
from efm_core.camera_description import CameraDescription
from efm_core.fleet import RobotDescription

TopicName = Annotated[str, Field(pattern=r"^(/[A-Za-z_][A-Za-z0-9_]*)+$")]
Seconds = Annotated[float, Field(gt=0.0, le=10.0)]
Value = bool | int | float | str
TWIST_DIMS = ("x", "y", "z", "rx", "ry", "rz")


class MappingError(ValueError):
    """A mapping that cannot be used; says which field and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CameraSource(_Part):
    """Where a camera's pictures are; the rest replaces what the fleet file says of it.

    rate: Hz, as recorded: what is missing is counted by it. tolerance, max_age: s.
    """

    topic: TopicName
    rate: Annotated[float, Field(gt=0.0, le=1000.0)] | None = None
    tolerance: Seconds | None = None
    max_age: Seconds | None = None
    max_loss: Annotated[float, Field(ge=0.0, le=1.0)] | None = None

    def described(self, camera: CameraDescription) -> CameraDescription:
        """The fleet's description with what was recorded otherwise."""
        return camera.model_copy(update=self.model_dump(exclude={"topic"}, exclude_none=True))


class PoseSource(_Part):
    """The end effector's pose: a topic (PoseStamped, TransformStamped), or two frames of tf.

    frames: (base, tool), by /tf and /tf_static. frame: the frame_id that the messages of `topic`
    bear where it is another name for the action space's frame.
    """

    topic: TopicName | None = None
    frames: tuple[str, str] | None = None
    frame: str | None = None
    tf: TopicName = "/tf"
    tf_static: TopicName = "/tf_static"

    @model_validator(mode="after")
    def _one_source(self) -> PoseSource:
        if (self.topic is None) == (self.frames is None):
            raise ValueError("give either topic or frames: [base, tool]")
        return self


class TwistAction(_Part):
    """Commanded velocities: a TwistStamped in unit/s.

    dims: those it commands; default: all that a twist has. frame: its frame_id where that is
    another name for the action space's frame. hold: s for which a command stays in force.
    """

    source: Literal["twist"]
    topic: TopicName
    dims: tuple[str, ...] = ()
    frame: str | None = None
    hold: Seconds = 0.3


class ArrayAction(_Part):
    """A Float64MultiArray: one number for each of `dims`.

    values: "rate" in unit/s, "step" in unit per control period, "target" in units.
    """

    source: Literal["array"]
    topic: TopicName
    dims: Annotated[tuple[str, ...], Field(min_length=1)]
    values: Literal["rate", "step", "target"]
    hold: Seconds = 0.3


class TrajectoryAction(_Part):
    """A JointTrajectory: first velocities ("rate") or last positions ("target").

    dims: dimension -> joint; default: the dimensions' own names.
    """

    source: Literal["trajectory"]
    topic: TopicName
    dims: Mapping[str, str] = Field(default_factory=dict)
    values: Literal["rate", "target"] = "target"
    hold: Seconds = 0.3


class NextAction(_Part):
    """What the robot did: the state of the next observation, or the way to it.

    dims: dimension -> "x" ... "rz" of the pose, else a joint; default: all, by their own names.
    """

    source: Literal["next"]
    dims: Mapping[str, str] = Field(default_factory=dict)


ActionSource = Annotated[
    TwistAction | ArrayAction | TrajectoryAction | NextAction, Field(discriminator="source")
]


class TextTopic(_Part):
    """A String topic; the newest before the episode's start counts, else the first within."""

    topic: TopicName


class LabelTopic(_Part):
    """A Bool, String or number that judges: the last of one of the two values decides.

    within: s after the episode's end in which a judgement still counts; of a whole bag all count.
    """

    topic: TopicName
    success: Value = True
    failure: Value = False
    within: Annotated[float, Field(ge=0.0, le=600.0)] = 0.0


class Marker(_Part):
    """A moment: `topic` turns to the value `equals`; without it every message is one."""

    topic: TopicName
    equals: Value | None = None


class MarkedEpisodes(_Part):
    """From each start to the next end; a discard in between drops the take.

    Without `start` an episode begins at the bag's beginning and at every end, without `end` it
    ends at the next start and at the bag's end.
    """

    start: Marker | None = None
    end: Marker | None = None
    discard: Marker | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> MarkedEpisodes:
        if self.start is None and self.end is None:
            raise ValueError("give start, end or both; for the bag as one episode: whole")
        return self


class Interval(_Part):
    """An episode by times, s since the bag's beginning.

    bag: name of the folder that it belongs to, "" = every bag.
    """

    start: Annotated[float, Field(ge=0.0)]
    end: float
    bag: str = ""
    instruction: str = ""
    success: bool | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Interval:
        if self.end <= self.start:
            raise ValueError(f"end {self.end:g} s is not after start {self.start:g} s")
        return self


class CutMapping(_Part):
    """Topics of a recording -> what an episode needs.

    robot: its description in the fleet file gives action space, camera sizes and tolerances.
    cameras: camera of that robot -> its topic. joints: JointState topic. action: one source or
    several that share the dimensions. times: "stamps" of the messages, judged against the
    recorder's times as a robot judges them; "received": the recorder's times alone;
    "simulated": stamps that have nothing to do with the recorder's times. still: s recorded
    behind each end, in which the robot rests. labelled_by: who judged success.
    """

    robot: str
    cameras: Mapping[str, CameraSource] = Field(min_length=1)
    joints: TopicName | None = None
    pose: PoseSource | None = None
    action: Annotated[tuple[ActionSource, ...], Field(min_length=1)]
    instruction: str | tuple[str, ...] | TextTopic = ""
    success: bool | tuple[bool | None, ...] | LabelTopic | None = None
    episodes: Literal["whole"] | MarkedEpisodes | tuple[Interval, ...] = "whole"
    times: Literal["stamps", "received", "simulated"] = "stamps"
    state_tolerance: Seconds | None = None
    still: Annotated[float, Field(ge=0.0, le=60.0)] = 0.0
    split: Literal["train", "validation", "none"] = "train"
    task: str = ""
    labelled_by: Literal["person", "oracle"] = "person"


def load_mapping(path: Path) -> CutMapping:
    """Read a mapping file. Raises MappingError naming file, field and remedy."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MappingError(f"{path}: no such file; docs/cutting.md has one to copy") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MappingError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise MappingError(f"{path} holds no fields; docs/cutting.md has a mapping to copy")
    try:
        return CutMapping.model_validate(content)
    except ValidationError as error:
        raise MappingError(f"{path}, {_explained(error)}; see docs/cutting.md") from error


def _explained(error: ValidationError) -> str:
    """Field and fault of the first field that is wrong, in the variant that it comes nearest to."""
    details = error.errors()
    same = [d for d in details if d["loc"][:1] == details[0]["loc"][:1]]
    nearest = max(same, key=lambda detail: len(detail["loc"]))
    fields = [str(p) for p in nearest["loc"] if re.fullmatch(r"[a-z_]+|\d+", str(p))]
    where = ".".join(field for field in fields if field not in ("str", "bool")) or "file"
    return f"field '{where}': {nearest['msg'].removeprefix('Value error, ')}"


def check_mapping(mapping: CutMapping, robot: RobotDescription) -> None:
    """Whether the mapping gives this robot all it needs. Raises MappingError."""
    known = [camera.name for camera in robot.cameras]
    if set(known) != set(mapping.cameras):
        raise MappingError(
            f"cameras: the mapping has {', '.join(mapping.cameras)}, robot '{robot.name}' has "
            f"{', '.join(known)}; give each camera of the fleet file a topic"
        )
    given = [dim for source in mapping.action for dim in action_dims(source, robot.space)]
    wrong = [d for d in robot.space.names if given.count(d) != 1] + sorted(
        set(given) - set(robot.space.names)
    )
    if wrong:
        raise MappingError(
            f"action: dimension '{wrong[0]}' is given by {given.count(wrong[0])} sources; the "
            f"action space has {', '.join(robot.space.names)}, each needs exactly one"
        )
    for source in mapping.action:
        _check_source(source, mapping, robot.space)


def _check_source(source: Any, mapping: CutMapping, space: ActionSpace) -> None:
    if isinstance(source, NextAction):
        parts = [source.dims.get(d, d) for d in action_dims(source, space)]
        of_pose = [part for part in parts if part in TWIST_DIMS]
        if of_pose and mapping.pose is None:
            raise MappingError(f"action: '{of_pose[0]}' is a part of the pose; give pose a source")
        if len(of_pose) < len(parts) and mapping.joints is None:
            raise MappingError("action: source next needs joints; give joints a topic")
        if space.kind == "absolute" and set(of_pose) & set(TWIST_DIMS[3:]):
            raise MappingError("action: a rotation has no absolute value as rx, ry, rz; use joints")
    elif space.kind == "absolute" and getattr(source, "values", "rate") != "target":
        raise MappingError(
            f"action: {source.topic} gives rates, the action space is absolute; use source next "
            "or a topic with targets (values: target)"
        )


def action_dims(source: Any, space: ActionSpace) -> tuple[str, ...]:
    """The dimensions of an action space that a source gives, in the source's order."""
    if source.dims:
        return tuple(source.dims)
    if isinstance(source, TwistAction):
        return tuple(name for name in space.names if name in TWIST_DIMS)
    return space.names
