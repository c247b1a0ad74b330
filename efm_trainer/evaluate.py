"""How often a robot gets there, by the simulator's truth, from the same start states each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efm_core.episode import Mode
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_trainer.episode_run import FinishedEpisode
from efm_trainer.intervals import paired_difference, wilson
from efm_trainer.progress import Cancelled, never
from efm_trainer.robot import Brain
from efm_trainer.rollout import InProcessFleet, OnFinished

TEMPERATURE = 0.5
LIMIT = 60


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """One evaluation episode from start state `seed`.

    success: truth was true at any tick within the limit. detected: the detector fired.
    autonomous: truth was true at the tick of the detector's first firing.
    """

    seed: int
    success: bool
    detected: bool
    autonomous: bool
    ticks: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of one policy, in the order of the start states."""

    policy_version: str
    results: tuple[EpisodeResult, ...]

    @property
    def successes(self) -> NDArray[np.bool_]:
        """Success by start state, bool (N,)."""
        return np.array([r.success for r in self.results], dtype=bool)

    def summary(self) -> dict[str, float | int | list[float]]:
        """success, autonomous_success, episodes and the 95 % interval of success."""
        count = len(self.results)
        low, high = wilson(int(self.successes.sum()), count)
        return {
            "success": float(self.successes.mean()) if count else 0.0,
            "autonomous_success": self._share("autonomous"),
            "episodes": count,
            "interval": [low, high],
        }

    def detector(self) -> dict[str, float]:
        """Episode precision (truth at the first firing) and recall (fired in true successes)."""
        detected = sum(r.detected for r in self.results)
        success = sum(r.success for r in self.results)
        return {
            "precision": sum(r.autonomous for r in self.results) / max(detected, 1),
            "recall": sum(r.detected and r.success for r in self.results) / max(success, 1),
            "detected": float(detected),
            "successes": float(success),
        }

    def _share(self, name: str) -> float:
        values = [bool(getattr(r, name)) for r in self.results]
        return float(np.mean(values)) if values else 0.0


def evaluation_plan(
    name: str,
    seeds: Sequence[int],
    policy_version: str,
    reward_version: str,
    limit: int = LIMIT,
    temperature: float = TEMPERATURE,
    draw_seed: int = 0,
    robots: Sequence[str] = ("robot1",),
    data_set: str = "evaluation",
) -> EpisodePlan:
    """A plan that starts from `seeds` one after the other, dealt out to `robots` in turn.

    The detector watches and does not end an episode.
    """
    dealt: dict[str, list[PlannedEpisode]] = {robot: [] for robot in robots}
    for index, seed in enumerate(seeds):
        planned = PlannedEpisode(index=index, scene={"seed": int(seed)}, limit=limit, split="none")
        dealt[robots[index % len(robots)]].append(planned)
    return EpisodePlan(
        plan_id=name, mode=Mode.EVALUATION, policy_version=policy_version,
        reward_version=reward_version, temperature=temperature, seed=draw_seed,
        end_on_success=False, data_set=data_set,
        episodes={robot: tuple(episodes) for robot, episodes in dealt.items()},
    )  # fmt: skip


def result_of(episode: FinishedEpisode) -> EpisodeResult:
    """What one finished evaluation episode counts as."""
    at = episode.detected_at
    return EpisodeResult(
        seed=int(episode.record.scene_seed or 0),
        success=bool(episode.truth.any()),
        detected=at is not None,
        autonomous=at is not None and bool(episode.truth[at]),
        ticks=episode.record.ticks,
    )


def evaluate(
    fleet: InProcessFleet,
    brain: Brain,
    plan: EpisodePlan,
    decided_stop: bool = True,
    on_finished: OnFinished | None = None,
    cancelled: Cancelled = never,
) -> Evaluation:
    """Run an evaluation plan in process.

    decided_stop: stop an episode once truth and detector have both said success, after which
    nothing that is counted can change; the numbers are those of the full limit.
    """
    if plan.mode is not Mode.EVALUATION or plan.end_on_success:
        raise ValueError(
            f"plan '{plan.plan_id}': evaluation needs mode evaluation and end_on_success false"
        )
    episodes = fleet.practise(
        plan, brain, decided_stop=decided_stop, on_finished=on_finished, cancelled=cancelled
    )
    ordered = sorted(episodes, key=lambda episode: episode.record.index)
    return Evaluation(plan.policy_version, tuple(result_of(episode) for episode in ordered))


def compare(
    before: Evaluation, after: Evaluation, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Difference of success after - before over the same start states, with its 95 % interval.

    Raises ValueError when the start states differ.
    """
    if [r.seed for r in before.results] != [r.seed for r in after.results]:
        raise ValueError("the two evaluations have different start states; use the same seeds")
    return paired_difference(before.successes, after.successes, seed)
