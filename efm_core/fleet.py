"""A fleet as data: robots, what they see and may do, and the processes that follow from it.

One file, `config/fleet.yaml`, is read by the embedded runner, by the launch file and by every
node; all of them get the same plain list of processes (`efm_core.fleet_processes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from efm_core import topics
from efm_core.actions import ActionSpace
from efm_core.camera_description import CameraDescription as CameraDescription
from efm_core.command_groups import CommandGroup, check_groups, complete
from efm_core.limits import GuardSettings
from efm_core.reset_settings import (
    AnyReset,
    PersonReset,
    ResetMethod,
    SimulatorReset,
    check_reset,
    moves,
)
from efm_core.topics import RESERVED_ROBOT_NAMES

TopicName = Annotated[str, Field(pattern=r"^(/[A-Za-z_][A-Za-z0-9_]*)+$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Clock = Literal["lockstep", "real"]
SharedRole = Literal["sim", "guard", "manager"]


class FleetError(ValueError):
    """A fleet file that cannot be used; says which field and what to do."""


Parameters = Mapping[str, Any]


class RobotDescription(BaseModel):
    """One robot of the fleet, in the namespace `/<name>`.

    kind: "sim" starts a simulated robot, "driver" expects the robot's own driver to run.
    guard: fields of `efm_core.limits.GuardSettings` other than space and clock.
    sim: fields of the simulator's world; picture size, rate and longest step follow from the
        camera and the action space. seed: of its first scene.
    groups: what its drivers take (`efm_core.command_groups.CommandGroup`); none: one group with
        a twist, called as `commands` says. topics: the drivers' absolute names of the topics that
        efm knows by another, `joint_states: /joint_states`.
    instructions: what it may be asked to do where neither plan nor reset says. operator: who
        labels its episodes.
    demonstrator: whether a scripted demonstrator teleoperates it in mode demo.
    reset: how it gets to the start of the next episode (`efm_core.reset_settings`, docs/resets.md);
        default: a simulated robot makes a new scene, at any other a person is asked.
    state_tolerance: s, longest time between the stamps of joint states or pose and of the
        observation that they go into (clock "real"); what is further off is left out.
    parameters: of its own processes, as in docs/parameters.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    kind: Literal["sim", "driver"] = "sim"
    cameras: Annotated[tuple[CameraDescription, ...], Field(min_length=1)]
    space: ActionSpace
    guard: Mapping[str, Any] = Field(default_factory=dict)
    sim: Mapping[str, Any] = Field(default_factory=dict)
    seed: int = 0
    parameters: Mapping[Literal["sim", "guard", "manager", "demonstrator"], Parameters] = Field(
        default_factory=dict
    )
    commands: Annotated[tuple[Name, ...], Field(min_length=1)] = ("arm",)
    groups: tuple[CommandGroup, ...] = ()
    topics: Mapping[str, TopicName] = Field(default_factory=dict)
    instructions: tuple[str, ...] = ()
    operator: Literal["person", "oracle"] = "person"
    demonstrator: bool = False
    reset: ResetMethod | None = None
    state_tolerance: Annotated[float, Field(gt=0.0, le=10.0)] = 0.1

    @model_validator(mode="after")
    def _fits_together(self) -> RobotDescription:
        if self.name in RESERVED_ROBOT_NAMES:
            raise ValueError(f"robot name '{self.name}' is reserved; choose another")
        names = [camera.name for camera in self.cameras]
        if len(set(names)) != len(names):
            raise ValueError(f"camera names repeat: {names}; each must be unique")
        taken = {"space", "clock"} & set(self.guard)
        if taken:
            raise ValueError(f"guard.{sorted(taken)[0]} is set elsewhere in the file; remove it")
        self._check_topics()
        self._check_groups()
        cameras = [camera.name for camera in self.cameras]
        try:
            check_reset(
                self.reset_method, cameras, self.command_groups, self.guard_settings("real")
            )
        except ValueError as error:
            raise ValueError(f"robot '{self.name}': {error}") from error
        return self

    def _check_groups(self) -> None:
        settings = self.guard_settings("real" if self.groups else "lockstep")
        if not self.groups:
            return
        if self.commands != ("arm",):
            raise ValueError("commands names groups with a twist; leave it out beside groups")
        if self.kind == "sim" and [group.output for group in self.groups] != ["twist"]:
            raise ValueError(
                "groups: a simulated robot obeys one group with a twist; leave groups out, or set "
                "kind: driver"
            )
        try:
            check_groups(self.command_groups, settings)
        except ValueError as error:
            raise ValueError(f"robot '{self.name}': {error}") from error

    def _check_topics(self) -> None:
        known = [c.topic.name for c in self.cameras]
        known += [topic.name for topic in (*topics.ROBOT_TOPICS, topics.TELEOP_JOINTS)]
        for name in self.topics:
            if name not in known:
                raise ValueError(
                    f"topics.{name}: this robot has no such topic to be renamed; it has "
                    f"{', '.join(known[:4])}, ... (a command's name is its group's topic)"
                )

    @property
    def command_groups(self) -> tuple[CommandGroup, ...]:
        """The groups, every one with its dimensions; without `groups` a twist of them all."""
        groups = self.groups or tuple(CommandGroup(name=name) for name in self.commands)
        return complete(groups, self.space)

    @property
    def reset_method(self) -> AnyReset:
        """How it is reset, with the default filled in."""
        default = SimulatorReset() if self.kind == "sim" else PersonReset()
        return default if self.reset is None else self.reset

    @property
    def remaps(self) -> dict[str, str]:
        """Absolute topic name of efm -> the driver's, for every process that knows the robot."""
        renamed = dict(self.topics)
        for group in self.command_groups:
            if group.topic:
                renamed[topics.command(group.name, group.output).name] = group.topic
        return {f"/{self.name}/{name}": driver for name, driver in renamed.items()}

    def guard_settings(self, clock: Clock) -> GuardSettings:
        """What this robot's guard enforces. Raises pydantic.ValidationError.

        Without a `step_period` of its own the guard steps as often as its fastest group asks.
        """
        fields = dict(self.guard)
        rates = [group.rate for group in self.groups if group.rate is not None]
        if rates:
            fields.setdefault("step_period", min(1.0 / max(rates), 0.1))
        return GuardSettings(space=self.space, clock=clock, **fields)

    def world_options(self) -> dict[str, Any]:
        """Fields of the simulator's world (sim kind)."""
        camera = self.cameras[0]
        return {
            "image_width": camera.width,
            "image_height": camera.height,
            "control_hz": round(self.space.rate),
            "max_step_m": max(max(-d.low, d.high) for d in self.space.dims),
            **self.sim,
        }


class FleetDescription(BaseModel):
    """All robots and where their data and models are.

    clock: "lockstep" (the world waits for answers) or "real". data_dir, models_dir: relative
    paths are below the working directory. backend: what runs the network. reserve_mb: free disk
    space below which no episode starts, MB. trainer: whether a trainer process runs along.
    monitor: whether a process draws every robot's `monitor/markers`, viewer or not.
    shared: roles of which one process serves all robots, where the machine is short of cores; else
        every robot has a process of its own, and one that dies takes no other robot with it.
    parameters: of the processes that serve all robots, as in docs/parameters.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = "fleet"
    clock: Clock = "lockstep"
    data_dir: Path = Path("data")
    models_dir: Path = Path("models")
    backend: Literal["auto", "torch", "onnx"] = "auto"
    reserve_mb: Annotated[float, Field(ge=0.0)] = 1000.0
    trainer: bool = False
    monitor: bool = False
    parameters: Mapping[Literal["fleet", "inference", "trainer", "monitor"], Parameters] = Field(
        default_factory=dict
    )
    robots: Annotated[tuple[RobotDescription, ...], Field(min_length=1)]
    shared: tuple[SharedRole, ...] = ()
    _path: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _robots_are_unique(self) -> FleetDescription:
        names = [robot.name for robot in self.robots]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"robot name '{repeated[0]}' appears twice; each must be unique")
        if len(set(self.shared)) != len(self.shared):
            raise ValueError(f"shared: a role appears twice in {list(self.shared)}")
        for robot in self.robots:
            if self.clock == "lockstep" and moves(robot.reset_method):
                raise ValueError(
                    f"robot '{robot.name}': reset.kind pose and reverse move the arm by the clock; "
                    "set clock: real, or use simulator, policy, person or none"
                )
        return self

    @property
    def path(self) -> Path:
        """The file it was read from. Raises FleetError for a description made in memory."""
        if self._path is None:
            raise FleetError("this fleet was not read from a file; save it with `save_fleet` first")
        return self._path

    def robot(self, name: str) -> RobotDescription:
        """The robot called `name`. Raises FleetError listing those there are."""
        for robot in self.robots:
            if robot.name == name:
                return robot
        raise FleetError(
            f"robot '{name}' is not in {self._path or 'the fleet'}; "
            f"it has {', '.join(r.name for r in self.robots)}"
        )


def load_fleet(path: Path) -> FleetDescription:
    """Read a fleet file. Raises FleetError naming file, field and remedy."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FleetError(f"{path}: no such fleet file; copy config/fleet.yaml to begin") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FleetError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise FleetError(f"{path} holds no fields; copy config/fleet.yaml to begin")
    try:
        fleet = FleetDescription.model_validate(content)
    except ValidationError as error:
        raise FleetError(_explain(path, error)) from error
    fleet._path = path.absolute()
    return fleet


def save_fleet(fleet: FleetDescription, path: Path) -> FleetDescription:
    """Write a fleet file and return the fleet read back from it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(fleet.model_dump(mode="json"), sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return load_fleet(path)


def _explain(path: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    field = ""
    for part in first["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "no such field; remove it or mend its spelling"
    elif first["type"] == "missing":
        message = "is missing; add it (see config/fleet.yaml)"
    more = error.error_count() - 1
    others = f" (and {more} more)" if more else ""
    return f"{path}: {field or 'fleet'}: {message}{others}"
