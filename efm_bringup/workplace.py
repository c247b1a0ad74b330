"""Where the trainer's jobs work, from a fleet description; needs torch."""

from __future__ import annotations

from pathlib import Path

from efm_core.fleet import FleetDescription, FleetError
from efm_core.registry import Registry
from efm_model.config import CameraSpec
from efm_trainer.jobs import Workplace


def workplace(fleet: FleetDescription, run_dir: Path) -> Workplace:
    """Models, data and one kind of robot. Raises FleetError when the robots differ."""
    first = fleet.robots[0]
    for robot in fleet.robots[1:]:
        if robot.space != first.space or robot.cameras != first.cameras:
            raise FleetError(
                f"{fleet.path}: robots '{first.name}' and '{robot.name}' differ in space or "
                "cameras; describe each kind of robot in a fleet file of its own"
            )
    cameras = tuple(CameraSpec(name=c.name, width=c.width, height=c.height) for c in first.cameras)
    return Workplace(Registry(fleet.models_dir), fleet.data_dir, run_dir, first.space, cameras)
