"""Several simulated robots with their whole fleet, some of whose resets fail."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from efm_bringup.environment import ros_environment, write_ros_env
from efm_bringup.faults.failing_robot import VARIABLE, Failure, as_text
from efm_bringup.faults.reset_watch import ResetWatch
from efm_bringup.faults.results import Trial
from efm_bringup.faults.testbed import POLICY, REWARD, StuckError, make_checkpoints
from efm_bringup.runner import Runner, child_command
from efm_bringup.signals import StopSignal
from efm_core.episode import Mode
from efm_core.fleet import FleetDescription, load_fleet, save_fleet
from efm_core.fleet_processes import ProcessSpec, processes
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_core.reset_settings import SimulatorReset

TICKS = 10
ATTEMPTS, TRY_SECONDS = 3, 5.0
"""Tries before help is called, and s after which one without an answer has failed."""
START_SECONDS = 120.0
_LOOK_SECONDS = 0.02

Where = tuple[str, int]
"""A robot and the index of its episode."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How many robots, episodes of each, and failing resets of them all."""

    robots: int = 4
    episodes: int = 25
    failing: int = 5


@dataclass(frozen=True, slots=True)
class Crowd:
    """A running fleet, and what is to happen to it."""

    extent: Extent
    fleet: FleetDescription
    plan: EpisodePlan
    failures: Mapping[Where, Failure]
    watch: ResetWatch
    runner: Runner
    interrupted: StopSignal

    @property
    def robots(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(robot.name for robot in self.fleet.robots)

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait, looking after the fleet. Raises StuckError, KeyboardInterrupt, ValueError."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.interrupted.received:
                raise KeyboardInterrupt
            self.runner.poll()
            if self.runner.refused:
                name = self.runner.refused[0]
                raise ValueError(f"{name} refused its input; see {self.runner.log_path(name)}")
            if time.monotonic() > deadline:
                raise StuckError(f"{what}: not within {seconds:g} s; {self.state()}")
            self.interrupted.wait(_LOOK_SECONDS)

    def state(self) -> str:
        """Where everybody is, for people."""
        total = self.extent.episodes
        return ", ".join(
            f"{robot} {self.watch.phase(robot) or 'silent'} {self.watch.done(robot)}/{total}"
            for robot in self.robots
        )

    def finished(self, robot: str) -> bool:
        """Whether all its episodes are saved."""
        return self.watch.done(robot) >= self.extent.episodes

    def calls(self, robot: str) -> bool:
        """Whether it calls for help."""
        return self.watch.phase(robot) == "needs_help"


def draw_failures(
    rng: random.Random, robots: Sequence[str], extent: Extent
) -> dict[Where, Failure]:
    """Which resets fail: for one try, or for all of one reset's; refused, or unanswered."""
    every = [(robot, index) for robot in robots for index in range(extent.episodes)]
    return {
        where: Failure(rng.choice((1, ATTEMPTS)), rng.choice(("refuse", "silence")))
        for where in sorted(rng.sample(every, extent.failing))
    }


@contextmanager
def crowd(
    template: Path,
    folder: Path,
    trial: Trial,
    number: int,
    seed: int,
    stop: StopSignal,
    extent: Extent,
) -> Iterator[Crowd]:
    """Robots like the first of `template`, with every process of a fleet, and no plan yet.

    Raises ValueError for a robot that is not simulated.
    """
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    run = folder / f"{trial.name}-{seed}-{number}-{time.strftime('%H%M%S')}"
    fleet = _describe(template, run, trial.clock, extent)
    make_checkpoints(fleet)
    robots = [robot.name for robot in fleet.robots]
    failures = draw_failures(rng, robots, extent)
    plan = _plan(f"resets-{seed}-{number}", robots, extent, rng.randrange(1 << 20))
    seeds = {
        (robot, p.index): int(p.scene["seed"]) for robot in robots for p in plan.episodes[robot]
    }
    failing = as_text({seeds[where]: failure for where, failure in failures.items()})
    specs = [s for s in processes(fleet, run) if s.executable != "efm_demonstrator"]
    with (
        _domain(run) as environment,
        Runner(specs, run, {**environment, VARIABLE: failing}, command=_command) as runner,
        ResetWatch(robots, plan.plan_id) as watch,
    ):
        made = Crowd(extent, fleet, plan, failures, watch, runner, stop)
        made.until(lambda: watch.ready, START_SECONDS, "the fleet starts")
        yield made


def _describe(template: Path, run: Path, clock: str, extent: Extent) -> FleetDescription:
    first = load_fleet(template).robots[0]
    if first.kind != "sim":
        raise ValueError(f"{template}: robot '{first.name}' needs kind: sim for resets that fail")
    reset = SimulatorReset(attempts=ATTEMPTS, time_limit_s=TRY_SECONDS)
    own = {"demonstrator": False, "reset": reset}
    robots = tuple(
        first.model_copy(update={**own, "name": f"robot{i + 1}", "seed": 1000 * i})
        for i in range(extent.robots)
    )
    fleet = FleetDescription.model_validate(
        {
            "name": "resets", "clock": clock, "data_dir": (run / "data").absolute(),
            "models_dir": (run.parent / "models").absolute(), "reserve_mb": 50.0,
            "robots": [robot.model_dump() for robot in robots],
        }
    )  # fmt: skip
    return save_fleet(fleet, run / "fleet.yaml")


def _plan(name: str, robots: Sequence[str], extent: Extent, first_seed: int) -> EpisodePlan:
    def episodes(nth: int) -> tuple[PlannedEpisode, ...]:
        base = first_seed + nth * extent.episodes
        return tuple(
            PlannedEpisode(index=i, scene={"seed": base + i}, limit=TICKS)
            for i in range(extent.episodes)
        )

    return EpisodePlan(
        plan_id=name, mode=Mode.PRACTICE, policy_version=POLICY, reward_version=REWARD,
        end_on_success=False, data_set=name,
        episodes={robot: episodes(nth) for nth, robot in enumerate(robots)},
    )  # fmt: skip


def _command(spec: ProcessSpec) -> list[str]:
    if spec.executable == "efm_sim_robot":
        return [sys.executable, "-m", "efm_bringup.faults.failing_robot", *spec.args]
    return child_command(spec)


@contextmanager
def _domain(run: Path) -> Iterator[dict[str, str]]:
    """The environment of a ROS domain of its own, in force for this process too."""
    environment, lease = ros_environment()
    before = dict(os.environ)
    if lease is not None:
        os.environ.update(environment)  # the watch takes part in the fleet's domain
    write_ros_env(run / "ros.env", environment)
    try:
        yield environment
    finally:
        if lease is not None:
            lease.close()
            os.environ.clear()
            os.environ.update(before)
