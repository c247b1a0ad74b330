"""Rounds of training that is killed and started again: the same weights come out, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from efm_bringup.faults.fleet_rounds import Findings
from efm_bringup.faults.results import Round, Trial
from efm_bringup.faults.testbed import Shape, StuckError, describe
from efm_bringup.faults.trainee import ROUNDS, STEPS, UPDATE, Stage, Task, work
from efm_bringup.signals import StopSignal
from efm_core.checkpoint import verify_checkpoint
from efm_core.registry import Registry
from efm_trainer.jobs import RESULT_FILE

SHAPE = Shape(robots=2)
END_SECONDS = 600.0
_WEIGHTS = ("model.safetensors", "training_state/optimizer.safetensors")
_VERSIONS: dict[Stage, tuple[str, ...]] = {
    "sft": ("sft-policy", "sft-reward"),
    "practice": (f"practice-r{ROUNDS - 1:03d}",),
    "reset-free": (f"reset-free-r{ROUNDS - 1:03d}",),
}


@dataclass(frozen=True, slots=True)
class Course:
    """What a process told: (step, steady s) of each, and its exit status (negative: signal)."""

    told: list[tuple[str, float]]
    status: int | None


def training_round(
    template: Path, folder: Path, trial: Trial, number: int, seed: int, stop: StopSignal
) -> Round:
    """Kill fine-tuning, then practice, each once; odd rounds practise without resets.

    Raises KeyboardInterrupt after a signal.
    """
    found, rng = Findings(), random.Random(f"{seed}/{trial.name}/{number}")
    base = (folder / "training" / f"seed-{seed}").absolute()
    _demonstrated(template, base, seed, stop)
    run, notes = f"round-{number}", []
    shutil.rmtree(base / run, ignore_errors=True)
    stages: tuple[Stage, ...] = ("sft", "reset-free" if number % 2 else "practice")
    for stage in stages:
        whole = _unbroken(Task(base, "whole", stage, seed), stop)
        task = Task(base, run, stage, seed)
        _forget(task)
        after, late = _moment(rng, whole)
        killed = _run(task, stop, after, late)
        _struck(found, task, killed)
        again = _run(task, stop)
        if again.status == 0:
            _judge(found, task, killed, again)
        else:
            found.problems.append(f"{stage}: started again, it ended with {again.status}")
        notes.append(f"{stage} after {killed.told[-1][0]}")
        if found.problems:  # practice would begin from other weights
            break
    if not found.problems:
        _forget(task)
        shutil.rmtree(base / run)
    return Round(trial, number, seed, found.figures, found.problems, "; ".join(notes))


def _demonstrated(template: Path, base: Path, seed: int, stop: StopSignal) -> None:
    """The fleet file and the demonstrations that all runs learn from."""
    task = Task(base, "whole", "demonstrations", seed)
    if not _told(task).exists():
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        describe(template, base, "lockstep", SHAPE)
        _unbroken(task, stop)


def _unbroken(task: Task, stop: StopSignal) -> list[tuple[str, float]]:
    """What the run without a kill told; it is run once, from its beginning to its end."""
    file = _told(task)
    if not file.exists():
        _forget(task)
        course = _run(task, stop)
        if course.status != 0:
            raise StuckError(f"{task.stage}, which nobody killed, ended with {course.status}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(course.told), encoding="utf-8")
    told: list[tuple[str, float]] = json.loads(file.read_text(encoding="utf-8"))
    return told


def _told(task: Task) -> Path:
    return task.folder / task.run / f"{task.stage}.told.json"


def _forget(task: Task) -> None:
    """Remove what an earlier process of the task made."""
    run = task.folder / task.run
    made = [run / task.stage, task.folder / "data" / f"{task.stage}-{task.run}"]
    for left in (*made, *(run / "models").glob(f"{task.stage}-*")):
        shutil.rmtree(left, ignore_errors=True)


def _moment(rng: random.Random, whole: list[tuple[str, float]]) -> tuple[int, float]:
    """How many steps a run shall tell, and how many s later it is killed.

    Every step is as likely as another, the time to the next one is drawn evenly; but half of the
    kills of practice fall on updates, which are few beside the episodes.
    """
    steps = range(len(whole) - 1)
    updates = [i for i in steps if UPDATE in whole[i][0]]
    chosen = rng.choice(updates if updates and rng.random() < 0.5 else steps)
    return chosen + 1, rng.random() * (whole[chosen + 1][1] - whole[chosen][1])


def _run(task: Task, stop: StopSignal, after: int = 0, late: float = 0.0) -> Course:
    """Run the task in a process; after > 0: kill it `late` s after it told so many steps."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(task, theirs), daemon=True)
    process.start()
    theirs.close()
    told: list[Any] = []
    deadline = time.monotonic() + END_SECONDS
    try:
        while _listen(ours, told) and not (after and len(told) >= after):
            if stop.received:
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                raise StuckError(f"{task.stage}: not done within {END_SECONDS:g} s")
        if after:
            stop.wait(late)
            process.kill()
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()
    while _listen(ours, told):
        pass
    return Course(told, process.exitcode)


def _listen(pipe: Connection, told: list[Any], seconds: float = 0.2) -> bool:
    """Note what comes within that time; False when the other side is gone."""
    try:
        if pipe.poll(seconds):
            told.append(tuple(pipe.recv()))
    except (EOFError, OSError):
        return False
    return True


def _struck(found: Findings, task: Task, killed: Course) -> None:
    """A process that was done before the signal came shows nothing."""
    hit = killed.status == -signal.SIGKILL
    found.figures["kills"] = found.figures.get("kills", 0) + hit
    found.expect(hit, f"{task.stage}: it ended with {killed.status} before it was killed")


def _judge(found: Findings, task: Task, killed: Course, again: Course) -> None:
    """Every version has the weights, and the optimizer's, of the run without a kill."""
    told = len([step for step, _ in again.told if step != "end"])
    if task.stage == "sft":
        found.figures["sft_step"] = len(killed.told)
        found.figures["sft_repeated_steps"] = len(killed.told) - (STEPS - told)
    else:
        found.figures["practice_repeated_steps"] = _repeated(killed, again)
        result = json.loads((task.folder / task.run / task.stage / RESULT_FILE).read_text())
        rounds = [entry["round"] for entry in result["rounds"]]
        found.expect(rounds == list(range(ROUNDS)), f"{task.stage}: result.json tells of {rounds}")
    kind = "sft" if task.stage == "sft" else "practice"
    found.figures[f"{kind}_resumed_s"] = again.told[-1][1] - again.told[0][1]
    for version in _VERSIONS[task.stage]:
        mine, theirs = (
            verify_checkpoint(Registry(task.folder / run / "models").path(version)).files
            for run in (task.run, "whole")
        )
        for name in _WEIGHTS:
            found.expect(mine.get(name) == theirs.get(name), f"{version}: another hash of {name}")


def _repeated(killed: Course, again: Course) -> int:
    """How many steps both of them told."""
    return len({step for step, _ in killed.told} & {step for step, _ in again.told})

