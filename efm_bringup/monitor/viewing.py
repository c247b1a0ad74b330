"""What RViz needs beside a running fleet: its configuration and, where none runs, a monitor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from efm_bringup.monitor.rviz import rviz_text
from efm_core.fleet import FleetDescription, RobotDescription
from efm_core.fleet_processes import ProcessSpec, monitor_process

RVIZ_FILE = "monitor.rviz"


@dataclass(frozen=True, slots=True)
class Viewing:
    """config: the RViz configuration. monitor: processes to start, one or none."""

    config: Path
    monitor: tuple[ProcessSpec, ...]


def viewing(fleet: FleetDescription, config: str = "", run_dir: Path | None = None) -> Viewing:
    """What to start in order to look at a fleet that runs or is about to.

    config: an RViz file of the user's; empty: one is made for the fleet, written anew every time
    to `monitor.rviz` in `run_dir` (default `runs/<fleet name>`). A monitor is asked for unless
    the fleet starts its own. Raises FileNotFoundError when `config` is not there.
    """
    monitor = () if fleet.monitor else (monitor_process(fleet),)
    if config:
        path = Path(config)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such RViz file; leave `config` empty for one")
        return Viewing(path, monitor)
    folder = (run_dir or Path("runs") / fleet.name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RVIZ_FILE
    path.write_text(rviz_text(fleet), encoding="utf-8")
    return Viewing(path, monitor)


def of_size(fleet: FleetDescription, count: int) -> FleetDescription:
    """A fleet of `count` robots like the first, called robot1, robot2, ... (in memory only).

    Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"{count} robots: a fleet needs at least one")
    robots: list[RobotDescription] = [
        fleet.robots[0].model_copy(update={"name": f"robot{i + 1}"}) for i in range(count)
    ]
    return fleet.model_copy(update={"robots": tuple(robots)})
