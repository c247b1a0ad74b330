"""A simulated robot with its whole fleet under the real runner, and an observer beside it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from efm_bringup.faults import blind_robot
from efm_bringup.faults.observer import Observer
from efm_bringup.faults.reset_watch import ResetWatch
from efm_bringup.runner import Runner, child_command
from efm_bringup.signals import StopSignal
from efm_core.actions import ActionSpace
from efm_core.episode import Mode
from efm_core.fleet import FleetDescription, load_fleet, save_fleet
from efm_core.fleet_processes import ProcessSpec, processes
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
class Shape:
    """What a fleet for faults looks like.

    robots: how many, alike. robot: "blind" or "frame", whose cameras obey `camera_order` (see the
    modules of that name), "" for the real one. chunk: actions per chunk.
    """

    robots: int = 1
    robot: str = ""
    chunk: int = 1

    @property
    def name(self) -> str:
        """Ending of its folder, "" for the plain one."""
        several = f"-{self.robots}" if self.robots > 1 else ""
        return several + (f"-{self.robot}" if self.robot else "")


@dataclass(frozen=True, slots=True)
class Testbed:
    """A running fleet; see `testbed`.

    observer: hears the first robot, `robot`. watch: hears all managers. environment: of the
    processes. folder: logs, models, data.
    """

    fleet: FleetDescription
    runner: Runner
    observer: Observer
    watch: ResetWatch
    interrupted: StopSignal
    environment: Mapping[str, str]
    folder: Path

    @property
    def robot(self) -> str:
        """The first robot's name."""
        return self.fleet.robots[0].name

    @property
    def robots(self) -> tuple[str, ...]:
        """All names."""
        return tuple(robot.name for robot in self.fleet.robots)

    @property
    def camera_order(self) -> Path:
        """File that says what the cameras of stand-ins do wrong; see `Shape.robot`."""
        return self.folder / "camera"

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
        """Put a plan of `count` practice episodes of `limit` ticks of `robot` in force."""
        return self.plan_all(name, {self.robot: (limit,) * count}, seed)

    def plan_all(
        self, name: str, limits: Mapping[str, Sequence[int]], seed: int, policy: str = POLICY
    ) -> EpisodePlan:
        """Put a plan of practice episodes in force; limits: robot -> ticks of each of its own."""
        episodes = {
            robot: tuple(
                PlannedEpisode(index=i, scene={"seed": 1000 + 10 * seed + i}, limit=limit)
                for i, limit in enumerate(own)
            )
            for robot, own in limits.items()
        }
        plan = EpisodePlan(
            plan_id=name, mode=Mode.PRACTICE, policy_version=policy, reward_version=REWARD,
            seed=seed, end_on_success=False, data_set=name, episodes=episodes,
        )  # fmt: skip
        self.watch.plan_id = name
        self.watch.said.clear()
        self.observer.publish(plan)
        return plan

    def finish_all(self, plan: EpisodePlan, seconds: float) -> None:
        """Wait until every robot's list is saved. Raises as `until`."""
        self.until(
            lambda: all(self.watch.done(r) >= len(own) for r, own in plan.episodes.items()),
            seconds, "the plan's end",
        )  # fmt: skip

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
    shape: Shape,
) -> Iterator[Testbed]:
    """Start robots like the first of `template` with guards, managers, inference and fleet node.

    folder: logs, models and data. The checkpoints are the shipped backbone with fresh heads, so
    the robots move at random. Yields when every manager has spoken. Raises ValueError for a robot
    that isn't simulated or whose camera is not called front.
    """
    fleet = prepare(template, folder, clock, shape)
    wanted = [s for s in processes(fleet, folder) if s.executable != "efm_demonstrator"]
    names = [robot.name for robot in fleet.robots]
    order = folder / "camera"
    order.unlink(missing_ok=True)  # of a run that was cut
    own = {**environment, blind_robot.VARIABLE: str(order.absolute())}
    with (
        Runner(
            wanted, folder, own, command=partial(_command, shape.robot),
            steady_after=STEADY_SECONDS,
        ) as runner,
        Observer(names[0], clock) as observer,
        ResetWatch(names, "") as watch,
    ):  # fmt: skip
        bed = Testbed(fleet, runner, observer, watch, interrupted, own, folder)
        bed.until(
            lambda: bed.phase and observer.services_ready and watch.ready,
            START_SECONDS, "the fleet starts",
        )  # fmt: skip
        yield bed


def _command(robot: str, spec: ProcessSpec) -> list[str]:
    if robot and spec.executable == "efm_sim_robot":
        return [sys.executable, "-m", f"efm_bringup.faults.{robot}_robot", *spec.args]
    return child_command(spec)


def prepare(
    template: Path, folder: Path, clock: Clock, shape: Shape | None = None
) -> FleetDescription:
    """The fleet's description and checkpoints below `folder`; see `testbed`."""
    fleet = describe(template, folder, clock, shape or Shape())
    make_checkpoints(fleet)
    return fleet


def describe(template: Path, folder: Path, clock: Clock, shape: Shape) -> FleetDescription:
    """The fleet's description alone; see `testbed`."""
    first = load_fleet(template).robots[0]
    if first.kind != "sim" or first.cameras[0].name != "front":
        raise ValueError(
            f"{template}: robot '{first.name}' needs kind: sim and a camera called front; real "
            "robots are not for killing"
        )
    space = first.space.model_copy(update={"chunk": shape.chunk})
    own = {"demonstrator": False, "space": space}
    robots = tuple(
        first.model_copy(update={**own, "name": f"robot{i + 1}", "seed": 1000 * i})
        for i in range(shape.robots)
    )
    fleet = FleetDescription(
        name="faults", clock=clock, data_dir=(folder / "data").absolute(),
        models_dir=(folder / "models").absolute(), reserve_mb=50.0, robots=robots,
    )  # fmt: skip
    return save_fleet(fleet, folder / "fleet.yaml")


def make_checkpoints(fleet: FleetDescription, policies: tuple[str, ...] = (POLICY,)) -> None:
    """Policies and a reward model for the fleet's first robot: shipped backbone, fresh heads."""
    from efm_model.config import CameraSpec
    from efm_model.weights import pretrained_model
    from efm_trainer.versions import Making, save_version

    there = set(Registry(fleet.models_dir).versions())
    robot = fleet.robots[0]
    cameras = tuple(CameraSpec(name=c.name, width=c.width, height=c.height) for c in robot.cameras)
    wanted = [*(("policy", policy) for policy in policies), ("reward", REWARD)]
    for seed, (role, version) in enumerate(wanted):
        if version not in there:
            model = pretrained_model(robot.space, cameras, seed=seed)
            making = Making(role=role, algorithm="none")  # type: ignore[arg-type]
            save_version(fleet.models_dir, version, model, making)
