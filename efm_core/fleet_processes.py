"""The plain list of processes that a fleet description stands for.

The embedded runner starts them as children, the launch files as nodes: the same executables with
the same arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from efm_core import topics
from efm_core.fleet import FleetDescription, FleetError, Parameters, RobotDescription
from efm_core.reset_settings import robot_reset

NODE_FLAG = "--node"
"""Begins the command line of one of several nodes of a process (`efm_ros.entrypoint.each`)."""

_Role = Literal["sim", "guard", "manager", "demonstrator"]


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: a unique name, a console script, its arguments, its robot (None = fleet's)."""

    name: str
    executable: str
    args: tuple[str, ...]
    robot: str | None = None


def processes(fleet: FleetDescription, run_dir: Path | None = None) -> list[ProcessSpec]:
    """Everything that a fleet runs: one simulator, guard and manager per robot, one inference.

    Of a role in `fleet.shared` there is one for all robots, named in the plural.

    run_dir: folder of the run (logs, state); default `runs/<fleet name>`. Raises FleetError for
    a fleet that was not read from a file.
    """
    folder = (run_dir or Path("runs") / fleet.name).absolute()
    common = {"fleet": str(fleet.path), "run_dir": str(folder)}
    specs = [_fleet_process(fleet, "fleet", common)]
    robots = [_robot_processes(fleet, robot, common) for robot in fleet.robots]
    specs += [spec for own in robots for role, spec in own.items() if role not in fleet.shared]
    specs += [
        _shared_process(role, members)
        for role in fleet.shared
        if (members := [own[role] for own in robots if role in own])
    ]
    # Its nodes take their robots' remaps from the fleet file: each has a name of its own.
    specs.append(_fleet_process(fleet, "inference", common))
    if fleet.trainer:
        specs.append(_fleet_process(fleet, "trainer", common))
    if fleet.monitor:
        specs.append(monitor_process(fleet))
    return specs


def _shared_process(role: str, members: Sequence[ProcessSpec]) -> ProcessSpec:
    """One process with the nodes of all `members`."""
    args: list[str] = []
    for member in members:
        args += [*(["--"] if args else []), NODE_FLAG, *member.args]
    return ProcessSpec(f"{role}s", members[0].executable, tuple(args))


def monitor_process(fleet: FleetDescription) -> ProcessSpec:
    """The one process that draws a fleet's robots. Raises FleetError as `processes` does."""
    return _fleet_process(fleet, "monitor", {"fleet": str(fleet.path)}, fleet_remaps(fleet))


def _fleet_process(
    fleet: FleetDescription,
    name: Literal["fleet", "inference", "trainer", "monitor"],
    values: Parameters,
    remaps: Mapping[str, str] | None = None,
) -> ProcessSpec:
    given = _joined(values, fleet.parameters.get(name, {}), f"parameters.{name}")
    return ProcessSpec(name, f"efm_{name}", _ros_args(given, remaps=remaps))


def _joined(values: Parameters, own: Parameters, where: str) -> dict[str, Any]:
    """`values` that follow from the file's other fields, and those that stand there as such."""
    taken = sorted(set(values) & set(own))
    if taken:
        raise FleetError(f"{where}.{taken[0]} follows from other fields of the file; remove it")
    return {**values, **own}


def fleet_remaps(fleet: FleetDescription) -> dict[str, str]:
    """The remaps of all robots: absolute names, so that one process can serve several robots."""
    return {name: driver for robot in fleet.robots for name, driver in robot.remaps.items()}


def _robot_processes(
    fleet: FleetDescription, robot: RobotDescription, common: Mapping[str, str]
) -> dict[_Role, ProcessSpec]:
    parameters: dict[str, Any] = {**common, "robot": robot.name}
    specs: dict[_Role, ProcessSpec] = {}

    def add(role: _Role, executable: str, values: Parameters) -> None:
        where = f"robot '{robot.name}': parameters.{role}"
        values = _joined(values, robot.parameters.get(role, {}), where)
        args = _ros_args(values, f"/{robot.name}", robot.remaps)
        specs[role] = ProcessSpec(f"{robot.name}_{role}", executable, args, robot.name)

    if robot.kind == "sim":
        add("sim", "efm_sim_robot", _simulator_parameters(fleet, robot))
    add("guard", "efm_guard", parameters)
    add("manager", "efm_episode_manager", _manager_parameters(fleet, robot))
    if robot.demonstrator:
        add("demonstrator", "efm_demonstrator", _demonstrator_parameters(robot))
    return specs


def _simulator_parameters(fleet: FleetDescription, robot: RobotDescription) -> dict[str, Any]:
    if len(robot.cameras) > 1 or robot.cameras[0].compressed:
        raise FleetError(
            f"robot '{robot.name}': a simulated robot has one camera, uncompressed; leave out the "
            "others, or set kind: driver"
        )
    return {
        "clock": fleet.clock,
        "world": json.dumps(robot.world_options()),
        "camera": robot.cameras[0].name,
        "command_group": robot.command_groups[0].name,
        "seed": robot.seed,
    }


def _manager_parameters(fleet: FleetDescription, robot: RobotDescription) -> dict[str, Any]:
    return {
        "fleet": fleet.name,
        "data_dir": str(fleet.data_dir.absolute()),
        "clock": fleet.clock,
        "cameras": [camera.name for camera in robot.cameras],
        "camera_descriptions": json.dumps([c.model_dump(mode="json") for c in robot.cameras]),
        "state_tolerance": robot.state_tolerance,
        "commands": [group.entry for group in robot.command_groups],
        "action_space": robot.space.model_dump_json(),
        "operator_source": robot.operator,
        "reset": robot_reset(
            robot.reset_method,
            robot.kind == "sim",
            robot.command_groups,
            robot.guard_settings(fleet.clock),
        ).model_dump_json(),
        # A parameter can't be an empty list: its type would be unknown.
        "instructions": list(robot.instructions) or [""],
        "reserve_mb": fleet.reserve_mb,
        # Nothing breaks in a simulation, and a weak policy is what it is often for.
        **({"failure_breaker": 0} if robot.kind == "sim" else {}),
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


def _ros_args(
    parameters: Mapping[str, Any], namespace: str = "", remaps: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    args = ["--ros-args"]
    if namespace:
        args += ["-r", f"__ns:={namespace}"]
    args += topics.remap_rules(remaps or {})
    for name, value in parameters.items():
        # JSON is YAML: quoted, a path or a number stays the string that it is.
        args += ["-p", f"{name}:={json.dumps(value)}"]
    return tuple(args)
