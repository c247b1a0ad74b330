"""Which rounds a command asks for, and running those that the run folder does not hold yet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from efm_bringup.environment import ros_environment, write_ros_env
from efm_bringup.faults.causes import KILLED, MANNERS, OTHERS
from efm_bringup.faults.results import Round, RoundLog, Trial, of_trial
from efm_bringup.signals import StopSignal
from efm_ros.qos import Clock

if TYPE_CHECKING:
    from efm_bringup.faults.testbed import Shape, Testbed


def trials(cause: str, clock: str, signal: str) -> list[Trial]:
    """The trials of a cause, or of "all": kills in both clocks, the others in their own.

    clock: real, lockstep or both; signal: KILL or STOP. Raises ValueError for a name unknown.
    """
    clocks = ("real", "lockstep") if clock == "both" else (clock,)
    names = [*KILLED, *OTHERS] if cause == "all" else [cause]
    found: list[Trial] = []
    for name in names:
        if name in KILLED:
            found += [Trial(name, each, signal) for each in clocks]
        elif name in ("stop", "resets"):
            found += [Trial(name, each) for each in clocks]
        elif name == "camera":
            found += [Trial(name, "real", manner.upper()) for manner in MANNERS]
        elif name in ("frames", "hang", "rollback", "teleop"):
            found.append(Trial(name, "real"))
        elif name == "endurance":
            found.append(Trial(name, "lockstep"))
        elif name == "message-loss":
            found.append(Trial(name, "lockstep", "STOP"))
        elif name in OTHERS:
            found.append(Trial(name))
        else:
            raise ValueError(f"cause '{name}' is unknown; use all, {', '.join([*KILLED, *OTHERS])}")
    # Stable: trials that use the same fleet follow each other.
    return sorted(found, key=lambda t: (t.clock, t.cause in ("hang", "rollback")), reverse=True)


@dataclass(slots=True)
class Series:
    """Runs rounds in `folder`; a fleet is started when a round needs one, and kept for the next.

    template: fleet file whose first robot is used. A context manager.
    """

    template: Path
    folder: Path
    seed: int
    stop: StopSignal
    _fleets: ExitStack = field(default_factory=ExitStack)
    _running: tuple[str, Shape] | None = None
    _bed: Testbed | None = None

    def __enter__(self) -> Series:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_fleet()

    @property
    def log(self) -> RoundLog:
        """The rounds of the folder."""
        return RoundLog(self.folder / "rounds.jsonl")

    def missing(
        self, wanted: Sequence[Trial], rounds: Mapping[str, int]
    ) -> list[tuple[Trial, int]]:
        """(trial, round number) still to be run; rounds: how many per cause."""
        there = self.log.read()
        left = []
        for trial in wanted:
            have = {r.number for r in of_trial(there, trial, self.seed)}
            left += [(trial, n) for n in range(rounds[trial.cause]) if n not in have]
        return left

    def run(self, left: Sequence[tuple[Trial, int]]) -> Iterator[Round]:
        """Run these rounds, each noted in the folder as soon as it is over.

        What hangs is a failed round and costs the fleet, which is started anew. Raises
        KeyboardInterrupt after a signal.
        """
        from efm_bringup.faults.testbed import StuckError

        for trial, number in left:
            try:
                done = self._round(trial, number)
            except StuckError as error:
                self._end_fleet()
                done = Round(trial, number, self.seed, problems=[str(error)])
            busy = {"load": os.getloadavg()[0]}  # runnable processes over the last minute
            done = replace(done, figures={**done.figures, **busy})
            self.log.add(done)
            yield done

    def _round(self, trial: Trial, number: int) -> Round:
        if self.stop.received:
            raise KeyboardInterrupt
        return self._alone(trial, number) or self._on_a_fleet(trial, number)

    def _alone(self, trial: Trial, number: int) -> Round | None:
        """A round that needs no fleet, or brings its own; None for another."""
        from efm_bringup.faults.checkpoint_rounds import checkpoint_round
        from efm_bringup.faults.reset_rounds import reset_round
        from efm_bringup.faults.testbed import prepare
        from efm_bringup.faults.training_rounds import training_round
        from efm_bringup.faults.writer_rounds import writer_round

        if trial.cause == "writer":
            return writer_round(self.folder, trial, number, self.seed, self.stop)
        if trial.cause == "training":
            return training_round(self.template, self.folder, trial, number, self.seed, self.stop)
        if trial.cause == "checkpoint":
            fleet = prepare(self.template, self.folder / "checkpoint", "lockstep")
            return checkpoint_round(fleet, trial, number, self.seed)
        if trial.cause == "resets":
            self._end_fleet()
            return reset_round(self.template, self.folder, trial, number, self.seed, self.stop)
        return None

    def _on_a_fleet(self, trial: Trial, number: int) -> Round:
        from efm_bringup.faults import (
            camera_rounds,
            endurance_rounds,
            frame_rounds,
            hang_rounds,
            rollback_rounds,
            teleop_rounds,
        )
        from efm_bringup.faults.fleet_rounds import kill_round, loss_round
        from efm_bringup.faults.stop_rounds import stop_round
        from efm_bringup.faults.testbed import Shape

        rounds = {
            "camera": (camera_rounds.camera_round, camera_rounds.SHAPE),
            "endurance": (endurance_rounds.endurance_round, endurance_rounds.SHAPE),
            "frames": (frame_rounds.frame_round, frame_rounds.SHAPE),
            "hang": (hang_rounds.hang_round, hang_rounds.SHAPE),
            "rollback": (rollback_rounds.rollback_round, rollback_rounds.SHAPE),
            "teleop": (teleop_rounds.teleop_round, teleop_rounds.SHAPE),
            "message-loss": (loss_round, Shape()),
            "stop": (stop_round, Shape()),
        }
        make, shape = rounds.get(trial.cause, (kill_round, Shape()))
        return make(self._need_fleet(trial.clock, shape), trial, number, self.seed)

    def _need_fleet(self, clock: str, shape: Shape) -> Testbed:
        from efm_bringup.faults.testbed import testbed

        if self._bed is not None and self._running == (clock, shape):
            return self._bed
        self._end_fleet()
        environment, lease = ros_environment()
        if lease is not None:
            os.environ.update(environment)  # the observer takes part in the fleet's domain
            self._fleets.callback(lease.close)
            self._fleets.callback(os.environ.pop, "ROS_DOMAIN_ID", None)
        folder = self.folder / f"{clock}{shape.name}"
        write_ros_env(folder / "ros.env", environment)
        bed = testbed(self.template, folder, cast(Clock, clock), environment, self.stop, shape)
        self._bed = self._fleets.enter_context(bed)
        self._running = (clock, shape)
        return self._bed

    def _end_fleet(self) -> None:
        self._fleets.close()
        self._running = self._bed = None
