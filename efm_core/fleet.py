"""A fleet as data: robots, what they see and may do, and the processes that follow from it.

One file, `config/fleet.yaml`, is read by the embedded runner, by the launch file and by every
node; all of them get the same plain list of processes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from efm_core.actions import ActionSpace
from efm_core.limits import GuardSettings
from efm_core.topics import RESERVED_ROBOT_NAMES

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Clock = Literal["lockstep", "real"]


class FleetError(ValueError):
    """A fleet file that cannot be used; says which field and what to do."""


class CameraDescription(BaseModel):
    """One camera: topic `camera/<name>/image_raw`, size in pixels, rate in Hz."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = "front"
    width: Annotated[int, Field(ge=16, le=8192)] = 64
    height: Annotated[int, Field(ge=16, le=8192)] = 64
    rate: Annotated[float, Field(gt=0.0, le=1000.0)] = 10.0
    compressed: bool = False


class RobotDescription(BaseModel):
    """One robot of the fleet, in the namespace `/<name>`.

    kind: "sim" starts a simulated robot, "driver" expects the robot's own driver to run.
    guard: fields of `efm_core.limits.GuardSettings` other than space and clock.
    sim: fields of the simulator's world; picture size, rate and longest step follow from the
        camera and the action space. seed: of its first scene.
    commands: command groups with a twist topic. instructions: what it may be asked to do where
        neither plan nor reset says. operator: who labels its episodes.
    demonstrator: whether a scripted demonstrator teleoperates it in mode demo.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    kind: Literal["sim", "driver"] = "sim"
    cameras: Annotated[tuple[CameraDescription, ...], Field(min_length=1)]
    space: ActionSpace
    guard: Mapping[str, Any] = Field(default_factory=dict)
    sim: Mapping[str, Any] = Field(default_factory=dict)
    seed: int = 0
    commands: Annotated[tuple[Name, ...], Field(min_length=1)] = ("arm",)
    instructions: tuple[str, ...] = ()
    operator: Literal["person", "oracle"] = "person"
    demonstrator: bool = False

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
        self.guard_settings("lockstep")
        return self

    def guard_settings(self, clock: Clock) -> GuardSettings:
        """What this robot's guard enforces. Raises pydantic.ValidationError."""
        return GuardSettings(space=self.space, clock=clock, **self.guard)

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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = "fleet"
    clock: Clock = "lockstep"
    data_dir: Path = Path("data")
    models_dir: Path = Path("models")
    backend: Literal["auto", "torch", "onnx"] = "auto"
    reserve_mb: Annotated[float, Field(ge=0.0)] = 1000.0
    trainer: bool = False
    robots: Annotated[tuple[RobotDescription, ...], Field(min_length=1)]
    _path: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _robots_are_unique(self) -> FleetDescription:
        names = [robot.name for robot in self.robots]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"robot name '{repeated[0]}' appears twice; each must be unique")
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


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: a unique name, a console script, its arguments, its robot (None = fleet's)."""

    name: str
    executable: str
    args: tuple[str, ...]
    robot: str | None = None


def processes(fleet: FleetDescription, run_dir: Path | None = None) -> list[ProcessSpec]:
    """Everything that a fleet runs: one simulator, guard and manager per robot, one inference.

    run_dir: folder of the run (logs, state); default `runs/<fleet name>`. Raises FleetError for
    a fleet that was not read from a file.
    """
    folder = (run_dir or Path("runs") / fleet.name).absolute()
    common = {"fleet": str(fleet.path), "run_dir": str(folder)}
    specs = [ProcessSpec("fleet", "efm_fleet", _ros_args(common))]
    for robot in fleet.robots:
        specs += _robot_processes(fleet, robot, common)
    specs.append(ProcessSpec("inference", "efm_inference", _ros_args(common)))
    if fleet.trainer:
        specs.append(ProcessSpec("trainer", "efm_trainer", _ros_args(common)))
    return specs


def _robot_processes(
    fleet: FleetDescription, robot: RobotDescription, common: Mapping[str, str]
) -> list[ProcessSpec]:
    parameters: dict[str, Any] = {**common, "robot": robot.name}
    specs = []

    def add(role: str, executable: str, values: Mapping[str, Any]) -> None:
        args = _ros_args(values, namespace=f"/{robot.name}")
        specs.append(ProcessSpec(f"{robot.name}_{role}", executable, args, robot.name))

    if robot.kind == "sim":
        add("sim", "efm_sim_robot", _simulator_parameters(fleet, robot))
    add("guard", "efm_guard", parameters)
    add("manager", "efm_episode_manager", _manager_parameters(fleet, robot))
    if robot.demonstrator:
        add("demonstrator", "efm_demonstrator", _demonstrator_parameters(robot))
    return specs


def _simulator_parameters(fleet: FleetDescription, robot: RobotDescription) -> dict[str, Any]:
    return {
        "clock": fleet.clock,
        "world": json.dumps(robot.world_options()),
        "camera": robot.cameras[0].name,
        "command_group": robot.commands[0],
        "seed": robot.seed,
    }


def _manager_parameters(fleet: FleetDescription, robot: RobotDescription) -> dict[str, Any]:
    return {
        "fleet": fleet.name,
        "data_dir": str(fleet.data_dir.absolute()),
        "clock": fleet.clock,
        "cameras": [camera.name for camera in robot.cameras],
        "commands": list(robot.commands),
        "action_space": robot.space.model_dump_json(),
        "operator_source": robot.operator,
        # A parameter can't be an empty list: its type would be unknown.
        "instructions": list(robot.instructions) or [""],
        "reserve_mb": fleet.reserve_mb,
    }


def _demonstrator_parameters(robot: RobotDescription) -> dict[str, Any]:
    box = robot.guard_settings("lockstep").workspace
    corners = [[float(box[axis][side]) for axis in ("x", "y") if axis in box] for side in (0, 1)]
    values: dict[str, Any] = {
        "control_hz": robot.space.rate,
        "speed_limit": max(max(-d.low, d.high) for d in robot.space.dims) * robot.space.rate,
        "seed": robot.seed,
    }
    if len(corners[0]) == 2:
        values["workspace_low"], values["workspace_high"] = corners
    return values


def _ros_args(parameters: Mapping[str, Any], namespace: str = "") -> tuple[str, ...]:
    args = ["--ros-args"]
    if namespace:
        args += ["-r", f"__ns:={namespace}"]
    for name, value in parameters.items():
        # JSON is YAML: quoted, a path or a number stays the string that it is.
        args += ["-p", f"{name}:={json.dumps(value)}"]
    return tuple(args)
