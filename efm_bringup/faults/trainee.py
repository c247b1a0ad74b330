"""Fine-tuning and practice in a process that tells every step it takes, and may be killed at any.

What runs is what `efm train` runs; only `efm faults training` starts it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import torch

from efm_bringup.bench.material import demonstrations
from efm_bringup.practice_here import PracticeHere
from efm_bringup.workplace import workplace
from efm_core.fleet import FleetDescription, load_fleet
from efm_core.plan import EpisodePlan
from efm_trainer.episode_data import EpisodeData
from efm_trainer.episode_run import FinishedEpisode
from efm_trainer.improve import ImproveSettings
from efm_trainer.jobs import ImproveJob, SftJob, Workplace, fine_tune_job, improve_job
from efm_trainer.sft_config import SftConfig

Stage = Literal["demonstrations", "sft", "practice", "reset-free"]
DEMONSTRATIONS, DEMONSTRATED_TICKS = 10, 40
STEPS = 60
_SFT = SftConfig(steps=STEPS, batch=32, warmup=10, validate_every=10, save_every=8)
ROUNDS, EPISODES, TICKS = 3, 8, 10
"""Of practice: rounds, episodes of each, control ticks of each."""
UPDATE = "update"
"""In what is told between the last episode of a round and its version."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to run: `stage` of the run `run`, whose models and files are below `folder/<run>`.

    The demonstrations in `folder` are common to all runs, and so is the seed.
    """

    folder: Path
    run: str
    stage: Stage
    seed: int

    @property
    def fleet(self) -> FleetDescription:
        """Robots of all runs, models of this one, data of all."""
        own = {"models_dir": self.folder / self.run / "models"}
        return load_fleet(self.folder / "fleet.yaml").model_copy(update=own)

    @property
    def place(self) -> Workplace:
        """Where the trainer works."""
        return workplace(self.fleet, self.folder / self.run)


def work(task: Task, out: Connection) -> None:
    """Run the task from where an earlier process left it; tells (step, steady s) of each."""

    def say(step: str) -> None:
        out.send((step, time.monotonic()))

    torch.set_num_threads(1)
    os.environ["EFM_CACHE"] = str(task.folder / task.run / "cache")
    if task.stage == "demonstrations":
        demonstrations(task.fleet, DEMONSTRATIONS, DEMONSTRATED_TICKS, task.seed)
    elif task.stage == "sft":
        _fine_tune(task, say)
    else:
        _practise(task, say)
    say("end")


def _fine_tune(task: Task, say: Callable[[str], None]) -> None:
    numbers = count(1)

    def each_step() -> bool:
        say(f"step {next(numbers)}")
        return False

    config = _SFT.model_copy(update={"seed": task.seed})
    fine_tune_job(task.place, SftJob(config=config), lambda *_: None, each_step)


def _practise(task: Task, say: Callable[[str], None]) -> None:
    job = ImproveJob(
        policy="sft-policy", reward="sft-reward", name=task.stage, limit=TICKS,
        data_set=f"{task.stage}-{task.run}", rounds=ROUNDS, episodes_per_round=EPISODES,
        reset_free=task.stage == "reset-free", misses=2, seed=task.seed, entropy_floor=0.0,
        improve=ImproveSettings(minibatch=16),
    )  # fmt: skip
    place, numbers, now = task.place, count(1), ""

    def finished(_: FinishedEpisode) -> None:
        say(f"{now}, episode {next(numbers)}")

    here = PracticeHere(
        task.fleet, place.camera_names, place.run_dir / job.name, on_finished=finished
    )

    def collect(plan: EpisodePlan) -> list[EpisodeData]:
        nonlocal now, numbers
        now, numbers = f"round {plan.round + 1}", count(1)
        episodes = here(plan)
        say(f"{now}, {UPDATE}")
        return list(episodes)

    robots = tuple(robot.name for robot in task.fleet.robots)
    improve_job(place, job, robots, collect, lambda *_: None, lambda: False)
