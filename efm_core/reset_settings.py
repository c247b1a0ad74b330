"""How a robot gets from the end of one episode to the start of the next, as data.

The field `reset` of a robot in the fleet file; `efm_episode_manager.resets` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from efm_core.actions import ActionSpace
from efm_core.command_groups import CommandGroup, group_limits
from efm_core.limits import GuardSettings, position_box
from efm_core.whereabouts import Whereabouts

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
_TOLERANCES = {"m": 0.01, "rad": 0.05}
_TOLERANCE_SHARE = 0.02


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoCheck(_Model):
    """The scene is taken as it is."""

    by: Literal["none"] = "none"


class RewardCheck(_Model):
    """The reward model judges the first picture: the goal must not be reached already.

    least_steps: steps-to-go of the coming instruction must be finite and above this, steps. An
    episode without a reward model (most demonstrations) is not checked.
    """

    by: Literal["reward"]
    least_steps: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0


class ImageCheck(_Model):
    """The first picture must look like a reference.

    reference: a picture file (PNG, JPEG), or the directory of a recorded episode, whose first
    picture it is. camera: which, "" for the robot's first. distance: largest mean absolute
    difference of brightness over a grid of 32 x 32 cells, in grey levels 0..255.
    """

    by: Literal["image"]
    reference: Path
    camera: str = ""
    distance: Annotated[float, Field(gt=0.0, le=255.0)] = 8.0


Check: TypeAlias = Annotated[NoCheck | RewardCheck | ImageCheck, Field(discriminator="by")]


class _Method(_Model):
    """attempts: failed tries before help is called. time_limit_s: of one try, s."""

    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    time_limit_s: Annotated[float, Field(gt=0.0, le=86400.0)] = 30.0
    check: Check = NoCheck()


class SimulatorReset(_Method):
    """The robot makes the planned scene itself, by its parameter `scene` and service `reset`."""

    kind: Literal["simulator"] = "simulator"


class PoseReset(_Method):
    """The arm goes to `poses` one after the other, in straight lines of the action space.

    poses: position by dimension, in its unit; dimensions left out stay where they are (absolute
    spaces name all). speed: share of the guard's limits. tolerance: by dimension; default 10 mm,
    0.05 rad, else 2 % of the range.
    """

    kind: Literal["pose"]
    poses: Annotated[tuple[Mapping[str, float], ...], Field(min_length=1)]
    speed: Share = 0.5
    tolerance: Mapping[str, Positive] = Field(default_factory=dict)


class ReverseReset(_Method):
    """The arm goes back the way that it came in the episode. speed: share of that of the way."""

    kind: Literal["reverse"]
    speed: Share = 0.5
    tolerance: Mapping[str, Positive] = Field(default_factory=dict)


class PolicyReset(_Method):
    """The policy undoes the task: it is given `instruction` and the reward model judges.

    ticks: longest such run, control ticks. Its time limit is of the scene that follows it. The
    runs are recorded in the data set `<data set>-resets`.
    """

    kind: Literal["policy"]
    instruction: Annotated[str, Field(min_length=1)]
    ticks: Annotated[int, Field(ge=1)] = 60


class PersonReset(_Method):
    """A person is asked by `request` and answers with the service `episode/reset_done`."""

    kind: Literal["person"] = "person"
    attempts: Annotated[int, Field(ge=1, le=100)] = 1
    time_limit_s: Annotated[float, Field(gt=0.0, le=86400.0)] = 600.0
    request: str = "put the scene back to a start"


Asked: TypeAlias = Annotated[
    SimulatorReset | PoseReset | PolicyReset | PersonReset, Field(discriminator="kind")
]


class NoReset(_Method):
    """Practice without resets: a new instruction begins where the last one ended.

    asked: what is done after `episode/ask_reset`, or when `attempts` instructions in a row could
    not begin; counted as an intervention.
    """

    kind: Literal["none"]
    asked: Asked = PersonReset()


ResetMethod: TypeAlias = Annotated[
    SimulatorReset | PoseReset | ReverseReset | PolicyReset | PersonReset | NoReset,
    Field(discriminator="kind"),
]
AnyReset: TypeAlias = (
    SimulatorReset | PoseReset | ReverseReset | PolicyReset | PersonReset | NoReset
)


class RobotReset(_Model):
    """What an episode manager is told about its robot's resets.

    simulated: the robot wants to be told of every episode by `scene` and `reset`. groups: all
    command groups with their dimensions, none = the tool's position by a twist. speed: the guard's
    limit of every dimension, unit/s.
    """

    method: ResetMethod = SimulatorReset()
    simulated: bool = True
    groups: tuple[CommandGroup, ...] = ()
    speed: tuple[float, ...] = ()


def robot_reset(
    method: AnyReset, simulated: bool, groups: Sequence[CommandGroup], guard: GuardSettings
) -> RobotReset:
    """All that the manager needs, from the parts of a robot's description."""
    speed, _ = group_limits(guard)
    if guard.space.kind == "delta":
        speed = np.minimum(speed, np.minimum(-guard.space.low, guard.space.high) * guard.space.rate)
    return RobotReset(
        method=method, simulated=simulated, groups=tuple(groups), speed=tuple(speed.tolist())
    )


def parts(method: AnyReset) -> tuple[AnyReset, ...]:
    """The method and what it falls back on."""
    return (method, method.asked) if isinstance(method, NoReset) else (method,)


def moves(method: AnyReset) -> bool:
    """Whether the reset itself moves the arm, through the guard and in real time."""
    return any(isinstance(part, PoseReset | ReverseReset) for part in parts(method))


def tolerances(given: Mapping[str, float], space: ActionSpace) -> NDArray[np.float64]:
    """How near to a pose is near enough, float64 (D,), in each dimension's unit."""
    found = []
    for dim in space.dims:
        share = _TOLERANCE_SHARE * (dim.high - dim.low)
        found.append(given.get(dim.name, _TOLERANCES.get(dim.unit, share)))
    return np.array(found)


def check_reset(
    method: AnyReset, cameras: Sequence[str], groups: Sequence[CommandGroup], guard: GuardSettings
) -> None:
    """Raise ValueError naming field and remedy when this robot can't be reset so."""
    for part, place in zip(parts(method), ("reset", "reset.asked"), strict=False):
        check = part.check
        if isinstance(check, ImageCheck) and check.camera not in ("", *cameras):
            raise ValueError(
                f"{place}.check.camera: '{check.camera}' is no camera of this robot; it has "
                f"{', '.join(cameras)}"
            )
        if isinstance(part, PoseReset | ReverseReset):
            _check_names(f"{place}.tolerance", part.tolerance, guard.space.names)
        if isinstance(part, PoseReset):
            for i, pose in enumerate(part.poses):
                _check_pose(f"{place}.poses[{i}]", pose, groups, guard)


def _check_names(place: str, named: Mapping[str, float], names: Sequence[str]) -> None:
    for name in named:
        if name not in names:
            raise ValueError(
                f"{place}: '{name}' is no action dimension; the space has {', '.join(names)}"
            )


def _check_pose(
    place: str, pose: Mapping[str, float], groups: Sequence[CommandGroup], guard: GuardSettings
) -> None:
    space = guard.space
    _check_names(place, pose, space.names)
    missing = [name for name in space.names if name not in pose]
    if space.kind == "absolute" and missing:
        raise ValueError(f"{place} lacks '{missing[0]}'; an absolute space needs every dimension")
    measured = Whereabouts(groups, space).measured
    low, high = position_box(space, guard.workspace)
    for name, value in pose.items():
        i = space.names.index(name)
        if name not in measured:
            raise ValueError(
                f"{place}: nobody measures '{name}', so it can't be driven to a value; leave it out"
            )
        if not low[i] <= value <= high[i]:
            raise ValueError(
                f"{place}: {name} = {value} lies outside of the guard's box, "
                f"{low[i]} to {high[i]}; move the pose or widen guard.workspace"
            )
