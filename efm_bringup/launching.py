"""What the launch files start: processes of the fleet description, whole or in part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from efm_core.fleet import FleetDescription
from efm_core.fleet_processes import ProcessSpec, processes

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
_WORLD = ("efm_sim_robot", "efm_demonstrator")
_NARROWED = ("fleet", "inference")


def logging_at(specs: Sequence[ProcessSpec], level: str) -> list[ProcessSpec]:
    """The processes with that log level. Raises ValueError for an unknown one."""
    if level not in LOG_LEVELS:
        raise ValueError(f"log_level is '{level}'; use one of {', '.join(LOG_LEVELS)}")
    return [replace(spec, args=(*spec.args, "--log-level", level)) for spec in specs]


def one_robot(fleet: FleetDescription, robot: str) -> list[ProcessSpec]:
    """One robot of a fleet by itself: its processes, the inference and the fleet node for it.

    Raises FleetError listing the robots there are.
    """
    name = fleet.robot(robot).name
    alone = fleet.model_copy(update={"shared": ()})
    only = ("-p", f"robots:={json.dumps([name])}")
    return [
        replace(spec, args=spec.args + only) if spec.name in _NARROWED else spec
        for spec in processes(alone)
        if spec.robot == name or spec.name in _NARROWED
    ]


def worlds(fleet: FleetDescription) -> list[ProcessSpec]:
    """The simulated robots alone, and the scripted persons who drive them.

    Raises ValueError for a fleet without a simulated robot.
    """
    found = [spec for spec in processes(fleet) if spec.executable in _WORLD]
    if not found:
        raise ValueError(f"{fleet.path}: no robot has kind: sim; there is nothing to simulate")
    return found
