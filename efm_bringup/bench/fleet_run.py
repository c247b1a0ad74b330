"""A whole fleet at work for a benchmark: started, given a plan, watched, ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from efm_bringup.bench.withheld import Withheld, watched
from efm_bringup.environment import ros_environment
from efm_bringup.plan_client import FleetProgress, PlanClient
from efm_bringup.runner import Runner
from efm_core.bags import read_record
from efm_core.bags.reader import list_episodes
from efm_core.episode import EpisodeRecord
from efm_core.fleet import FleetDescription
from efm_core.fleet_processes import processes
from efm_core.plan import EpisodePlan

Watcher = Callable[[FleetProgress], None]
PATIENCE_SECONDS = 120.0
_NEEDED = frozenset(
    {"efm_fleet", "efm_sim_robot", "efm_guard", "efm_episode_manager", "efm_inference"}
)


@dataclass(frozen=True, slots=True)
class FleetRun:
    """What happened. cpu: CPU seconds by role (sim, guard, ...), while the plan ran.

    wall: s from the plan's publication to its last saved episode. restarts: of processes.
    withheld: what the host of a virtual machine gave to others, and when.
    """

    episodes: list[Path]
    records: list[EpisodeRecord]
    cpu: dict[str, float]
    wall: float
    restarts: int
    withheld: Withheld

    @property
    def cores_withheld(self) -> float:
        """CPU seconds per second that the machine was not given."""
        return self.withheld.seconds / self.wall

    @property
    def cores_used(self) -> float:
        """CPU seconds of all processes per second."""
        return sum(self.cpu.values()) / self.wall


def run_fleet(
    fleet: FleetDescription,
    plan: EpisodePlan,
    run_dir: Path,
    watch: Watcher,
) -> FleetRun:
    """Start every process of the fleet, run the plan to its end, stop all of them.

    watch: told a few times per second how far the plan is, and at its end.

    Raises TimeoutError when nothing moves any more, ValueError when a process refused its input.
    """
    environment, lease = ros_environment()
    before = dict(os.environ)
    os.environ.update(environment)
    specs = [spec for spec in processes(fleet, run_dir) if spec.executable in _NEEDED]
    robots = [robot.name for robot in fleet.robots]
    try:
        with Runner(specs, run_dir, environment) as runner, PlanClient(robots) as client:
            _wait_for_all(runner, client, robots)
            cpu, begin = _cpu_seconds(runner), time.monotonic()

            def idle(progress: FleetProgress) -> None:
                _look_after(runner)
                watch(progress)

            with watched() as withheld:
                watch(client.run(plan, idle, PATIENCE_SECONDS))
            wall = time.monotonic() - begin
            used = {role: s - cpu.get(role, 0.0) for role, s in _cpu_seconds(runner).items()}
            restarts = runner.restarts
    finally:
        os.environ.clear()
        os.environ.update(before)
        if lease is not None:
            lease.close()
    paths = list_episodes(fleet.data_dir / plan.data_set)
    records = [read_record(path) for path in paths]
    return FleetRun(paths, records, used, wall, restarts, withheld)


def _wait_for_all(runner: Runner, client: PlanClient, robots: list[str]) -> None:
    """Until every manager was heard; the plan waits for the rest by itself."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while set(client.status) < set(robots):
        _look_after(runner)
        if time.monotonic() > deadline:
            silent = ", ".join(sorted(set(robots) - set(client.status)))
            raise TimeoutError(
                f"the episode managers of {silent} were not heard for {PATIENCE_SECONDS:g} s; "
                "is the machine busy with something else?"
            )
        client.spin(0.2)


def _look_after(runner: Runner) -> None:
    runner.poll()
    if runner.refused:
        name = runner.refused[0]
        raise ValueError(f"{name} refused its input; see {runner.log_path(name)}")


def _cpu_seconds(runner: Runner) -> dict[str, float]:
    """CPU seconds so far by role; `robot3_guard` counts as guard."""
    tick = os.sysconf("SC_CLK_TCK")
    totals: dict[str, float] = {}
    for name, pid in runner.pids.items():
        # Behind the command in parentheses, utime and stime are fields 14 and 15 (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        role = name.rpartition("_")[2]
        totals[role] = totals.get(role, 0.0) + (int(fields[11]) + int(fields[12])) / tick
    return totals
