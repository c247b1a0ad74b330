"""The fleet's simulated robots in this process: the worlds behind `efm_trainer.robot.Robot`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import numpy as np
from numpy.typing import NDArray

from efm_core.fleet import FleetDescription, FleetError
from efm_core.limits import GuardSettings
from efm_sim.config import WorldConfig
from efm_sim.demonstrator import Demonstrator, TruthState
from efm_sim.world import World
from efm_trainer.robot import Robot


@contextmanager
def worlds(fleet: FleetDescription, count: int) -> Iterator[list[World]]:
    """`count` worlds like the fleet's first robot, freed at the end.

    Raises FleetError unless all robots are simulated and alike: a policy is evaluated for one
    kind of robot.
    """
    first = fleet.robots[0]
    for robot in fleet.robots:
        if robot.kind != "sim":
            raise FleetError(
                f"{fleet.path}: robot '{robot.name}' has kind {robot.kind}; only simulated robots "
                "run in this process, use `efm fleet` and `efm record` for it"
            )
        if robot.world_options() != first.world_options() or robot.space != first.space:
            raise FleetError(
                f"{fleet.path}: robots '{first.name}' and '{robot.name}' differ in space or sim; "
                "describe each kind of robot in a fleet file of its own"
            )
    config = WorldConfig.model_validate(first.world_options())
    with ExitStack() as stack:
        yield [stack.enter_context(closing(World(config))) for _ in range(count)]


def guard_settings(fleet: FleetDescription) -> GuardSettings:
    """What the guard of such a robot enforces, in lockstep."""
    return fleet.robots[0].guard_settings("lockstep")


class ScriptedPerson:
    """The scripted demonstrator at the stick of a world; seed: of its style."""

    def __init__(self, seed: int) -> None:
        self._person = Demonstrator(seed)

    def command(self, robot: Robot) -> NDArray[np.float64]:
        """The velocity it wants now, m/s in the base frame, float64 (2,)."""
        state = TruthState.from_scalars(robot.truth(), robot.instruction)
        return np.asarray(self._person.act(state), dtype=np.float64)
