"""A simulated robot with its whole fleet under the real runner, and an observer beside it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from efm_bringup.faults.observer import Observer
from efm_bringup.runner import Runner
from efm_bringup.signals import StopSignal
from efm_core.actions import ActionSpace
from efm_core.episode import Mode
from efm_core.fleet import FleetDescription, load_fleet, processes, save_fleet
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_core.registry import Registry
from efm_ros.qos import Clock

POLICY, REWARD = "fault-policy", "fault-reward"
STEADY_SECONDS = 2.0
"""The runner forgets a failure after this long: a round's back-off shall not grow with rounds."""
START_SECONDS = 120.0
_LOOK_SECONDS = 0.01


class StuckError(RuntimeError):
    """Something that had to happen did not, within its time."""


@dataclass(frozen=True, slots=True)
class Testbed:
    """A running fleet of one robot; see `testbed`."""

    fleet: FleetDescription
    runner: Runner
    observer: Observer
    interrupted: StopSignal

    @property
    def robot(self) -> str:
        """The robot's name."""
        return self.fleet.robots[0].name

    @property
    def space(self) -> ActionSpace:
        """The robot's action space."""
        return self.fleet.robots[0].space

    @property
    def phase(self) -> str:
        """The episode manager's newest phase, "" before the first."""
        return self.observer.status.get("phase", "")

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait, looking after the fleet.

        Raises StuckError after `seconds` s, KeyboardInterrupt after a signal, ValueError when a
        process refused its input.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if self.interrupted.received:
                raise KeyboardInterrupt
            self.runner.poll()
            if self.runner.refused:
                name = self.runner.refused[0]
                raise ValueError(f"{name} refused its input; see {self.runner.log_path(name)}")
            if time.monotonic() > deadline:
                raise StuckError(f"{what}: not within {seconds:g} s")
            self.interrupted.wait(_LOOK_SECONDS)

    def let_pass(self, seconds: float) -> None:
        """Look after the fleet for `seconds` s. Raises as `until`, but StuckError."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, seconds + 60.0, "the clock")

    def signal(self, name: str, number: signal.Signals) -> float:
        """Send a process of the fleet a signal; returns the steady time just before, s."""
        pid = self.runner.pids[name]
        at = time.monotonic()
        os.kill(pid, number)
        return at

    def plan(self, name: str, count: int, limit: int, seed: int) -> EpisodePlan:
        """Put a plan of `count` practice episodes of `limit` ticks in force."""
        episodes = tuple(
            PlannedEpisode(index=i, scene={"seed": 1000 + 10 * seed + i}, limit=limit)
            for i in range(count)
        )
        plan = EpisodePlan(
            plan_id=name, mode=Mode.PRACTICE, policy_version=POLICY, reward_version=REWARD,
            seed=seed, end_on_success=False, data_set=name, episodes={self.robot: episodes},
        )  # fmt: skip
        self.observer.publish(plan)
        return plan

    def done(self, plan: EpisodePlan) -> int:
        """How many of the plan's episodes are saved, as the manager says."""
        status = self.observer.status
        return int(status.get("plan_done", 0)) if status.get("plan") == plan.plan_id else 0


@contextmanager
def testbed(
    template: Path,
    folder: Path,
    clock: Clock,
    environment: Mapping[str, str],
    interrupted: StopSignal,
) -> Iterator[Testbed]:
    """Start the first robot of `template` with guard, manager, inference and fleet node.

    folder: logs, models and data. The checkpoints are the shipped backbone with fresh heads, so
    the robot moves at random. Yields when the manager has spoken. Raises ValueError for a robot
    that isn't simulated or whose camera is not called front.
    """
    fleet = prepare(template, folder, clock)
    wanted = [s for s in processes(fleet, folder) if s.executable != "efm_demonstrator"]
    robot = fleet.robots[0].name
    with Runner(wanted, folder, environment, steady_after=STEADY_SECONDS) as runner, Observer(
        robot, clock
    ) as observer:
        bed = Testbed(fleet, runner, observer, interrupted)
        bed.until(
            lambda: bed.phase and observer.services_ready, START_SECONDS, "the fleet starts"
        )
        yield bed


def prepare(template: Path, folder: Path, clock: Clock) -> FleetDescription:
    """The fleet's description and checkpoints below `folder`; see `testbed`."""
    fleet = _describe(template, folder, clock)
    _make_checkpoints(fleet)
    return fleet


def _describe(template: Path, folder: Path, clock: Clock) -> FleetDescription:
    first = load_fleet(template).robots[0]
    if first.kind != "sim" or first.cameras[0].name != "front":
        raise ValueError(
            f"{template}: robot '{first.name}' needs kind: sim and a camera called front; real "
            "robots are not for killing"
        )
    robot = first.model_copy(update={"demonstrator": False})
    fleet = FleetDescription(
        name="faults", clock=clock, data_dir=(folder / "data").absolute(),
        models_dir=(folder / "models").absolute(), reserve_mb=50.0, robots=(robot,),
    )  # fmt: skip
    return save_fleet(fleet, folder / "fleet.yaml")


def _make_checkpoints(fleet: FleetDescription) -> None:
    from efm_model.config import CameraSpec
    from efm_model.weights import pretrained_model
    from efm_trainer.versions import Making, save_version

    there = set(Registry(fleet.models_dir).versions())
    robot = fleet.robots[0]
    cameras = tuple(CameraSpec(name=c.name, width=c.width, height=c.height) for c in robot.cameras)
    for role, version in (("policy", POLICY), ("reward", REWARD)):
        if version not in there:
            model = pretrained_model(robot.space, cameras)
            making = Making(role=role, algorithm="none")  # type: ignore[arg-type]
            save_version(fleet.models_dir, version, model, making)
