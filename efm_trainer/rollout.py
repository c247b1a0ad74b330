"""Episodes in one process: many robots in lockstep, one batched model, no ROS.

Robots, model, guard, detector, decision draws, message contents and the writer of bags are the
same as over DDS; only the transport is missing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from efm_core.actions import ActionSpace
from efm_core.detector import DetectorSettings, SuccessDetector
from efm_core.episode import Mode
from efm_core.guard import Guard, GuardSettings
from efm_core.observation import draws
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_trainer.episode_run import EpisodeRun, FinishedEpisode
from efm_trainer.lasting import LastingScenes
from efm_trainer.progress import Cancelled, TrainingCancelledError, never
from efm_trainer.recording import record_episode
from efm_trainer.robot import Brain, Demonstrator, Robot

MakeDemonstrator = Callable[[PlannedEpisode], Demonstrator]
OnFinished = Callable[[FinishedEpisode], None]


class InProcessFleet:
    """Runs plans on a set of interchangeable robots.

    robots: any number; each serves one episode after another. guard: settings of every robot's
    guard (clock lockstep). data_dir: the data root to write bags below, None for memory alone.
    facts: fleet, task and efm_version for the records. scenes: of the robots that plans name,
    where episodes begin from where the last one left the blocks; whatever else the fleet runs in
    between leaves them as they are.
    """

    def __init__(
        self,
        robots: Sequence[Robot],
        guard: GuardSettings,
        data_dir: Path | None = None,
        facts: Mapping[str, str] | None = None,
        still_ticks: int = 4,
        scenes: LastingScenes | None = None,
    ) -> None:
        if guard.clock != "lockstep":
            raise ValueError("guard.clock must be 'lockstep' for roll-outs in one process")
        self._robots, self._settings = list(robots), guard
        self._data_dir, self._facts = data_dir, dict(facts or {})
        self._still = still_ticks
        self.scenes = scenes or LastingScenes()

    @property
    def space(self) -> ActionSpace:
        """The action space of every robot."""
        return self._settings.space

    def practise(
        self,
        plan: EpisodePlan,
        brain: Brain,
        oracle: bool = False,
        decided_stop: bool = False,
        on_finished: OnFinished | None = None,
        cancelled: Cancelled = never,
    ) -> list[FinishedEpisode]:
        """Run every episode of a plan with a model in charge; in the plan's order.

        oracle: let the simulator's truth play the operator's label in calibration episodes.
        Raises ValueError when the model's action space is not the robots'.
        """
        if brain.action_space.hash != self.space.hash:
            raise ValueError(
                "the policy's action space differs from the robots'; train for this robot or load "
                "the checkpoint that was"
            )
        return self._run(plan, brain, None, oracle, decided_stop, on_finished, cancelled)

    def demonstrate(
        self,
        plan: EpisodePlan,
        make_demonstrator: MakeDemonstrator,
        on_finished: OnFinished | None = None,
        cancelled: Cancelled = never,
    ) -> list[FinishedEpisode]:
        """Run every episode of a plan through the teleoperation input of the guard.

        The simulator's truth plays the person who sees the success and ends the episode.
        """
        if plan.mode is not Mode.DEMO:
            raise ValueError(f"plan '{plan.plan_id}': mode is {plan.mode.value}, expected demo")
        return self._run(plan, None, make_demonstrator, True, False, on_finished, cancelled)

    def _run(
        self,
        plan: EpisodePlan,
        brain: Brain | None,
        make_demonstrator: MakeDemonstrator | None,
        oracle: bool,
        decided_stop: bool,
        on_finished: OnFinished | None,
        cancelled: Cancelled,
    ) -> list[FinishedEpisode]:
        waiting = deque((name, e) for name, episodes in plan.episodes.items() for e in episodes)
        order = {(name, e.index): i for i, (name, e) in enumerate(waiting)}
        free = list(range(len(self._robots)))
        active: list[tuple[int, EpisodeRun]] = []
        finished: dict[int, FinishedEpisode] = {}
        settings = brain.detector if brain else DetectorSettings()
        versions = (brain.policy_version, brain.reward_version) if brain else ("", "")
        while waiting or active:
            if cancelled():
                raise TrainingCancelledError(f"plan '{plan.plan_id}' was cancelled")
            while free and (due := _due(waiting, active)) is not None:
                name, planned = due
                slot = free.pop()
                run = EpisodeRun(
                    self._robots[slot], Guard(self._settings), SuccessDetector(settings), plan,
                    planned, name, self.space, time.time_ns(), versions,
                    make_demonstrator(planned) if make_demonstrator else None,
                    self._still, oracle, decided_stop, self._facts,
                    self.scenes.of(name) if planned.lasting else None,
                )  # fmt: skip
                run.begin()
                active.append((slot, run))
            _tick([run for _, run in active], brain)
            for slot, run in [pair for pair in active if pair[1].finished]:
                episode = run.result()
                if run.lasting is not None:
                    run.lasting.end(run.robot, plan, episode.record)
                if self._data_dir is not None:
                    record_episode(self._data_dir / plan.data_set, episode)
                finished[order[run.robot_name, run.planned.index]] = episode
                if on_finished:
                    on_finished(episode)
                free.append(slot)
                active.remove((slot, run))
        return [finished[i] for i in sorted(finished)]


def _due(
    waiting: deque[tuple[str, PlannedEpisode]], active: Sequence[tuple[int, EpisodeRun]]
) -> tuple[str, PlannedEpisode] | None:
    """Take the first listed episode that can begin; where scenes last, a robot's one by one."""
    busy = {run.robot_name for _, run in active}
    for entry in waiting:
        if not (entry[1].lasting and entry[0] in busy):
            waiting.remove(entry)
            return entry
    return None


def _tick(runs: Sequence[EpisodeRun], brain: Brain | None) -> None:
    """One control period of all running episodes."""
    observations = [run.observe() for run in runs]
    if brain is None:
        for run in runs:
            run.act(None, None)
        return
    plan, tokens = runs[0].plan, brain.action_space.tokens
    numbers = np.stack(
        [
            draws(plan.seed, run.episode_id, observation.tick, tokens)
            for run, observation in zip(runs, observations, strict=True)
        ]
    )
    decisions, steps = brain.infer(observations, numbers, plan.temperature)
    for run, decision, left in zip(runs, decisions, steps, strict=True):
        run.act(decision, left)
