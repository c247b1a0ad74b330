"""Practice on simulated robots in this process: a round's episodes, through bags as over ROS."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from efm_bringup.rollouts import drop_plan, in_process, load_engine
from efm_core.fleet import FleetDescription
from efm_core.plan import EpisodePlan
from efm_trainer.data import SkippedEpisode
from efm_trainer.episode_data import EpisodeData
from efm_trainer.improve_run import saved_episodes
from efm_trainer.lasting import LastingScenes
from efm_trainer.progress import Cancelled, never
from efm_trainer.rollout import OnFinished

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class PracticeHere:
    """`collect` of a practice run; an instance serves one run.

    folder: of the run. Where scenes last (`--reset-free`), what every round left is kept below it,
    so that a run that was killed goes on from the very scenes. skipped: episodes not learnt from.
    """

    fleet: FleetDescription
    cameras: tuple[str, ...]
    folder: Path
    cancelled: Cancelled = never
    on_finished: OnFinished | None = None
    skipped: list[SkippedEpisode] = field(default_factory=list)
    _scenes: LastingScenes | None = None

    def __call__(self, plan: EpisodePlan) -> Sequence[EpisodeData]:
        """Run a round's plan; episodes of it that an interrupted run left are made anew.

        Raises TrainingCancelledError when `cancelled()` turns true.
        """
        data_set = self.fleet.data_dir / plan.data_set
        drop_plan(data_set, plan)
        if self._scenes is None:
            self._scenes = self._taken_up(plan)
        engine = load_engine(self.fleet, plan.policy_version, plan.reward_version)
        with in_process(self.fleet) as robots:
            robots.scenes = self._scenes  # the worlds of one round are gone in the next
            robots.practise(
                plan, engine, on_finished=self.on_finished, cancelled=self.cancelled
            )
        if any(planned.lasting for own in plan.episodes.values() for planned in own):
            self._keep(plan, self._scenes)
        episodes, skipped = saved_episodes(data_set, plan, self.cameras)
        self.skipped += skipped
        return episodes

    def _taken_up(self, plan: EpisodePlan) -> LastingScenes:
        """The scenes that the round before left; it published the version that acts in this one."""
        path = self._path(plan.policy_version)
        if plan.round < 1 or not path.exists():
            return LastingScenes()
        _log.info("going on from the scenes in %s", path)
        return LastingScenes(json.loads(path.read_text(encoding="utf-8")))

    def _keep(self, plan: EpisodePlan, scenes: LastingScenes) -> None:
        path = self._path(plan.plan_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(scenes.saved()), encoding="utf-8")
        temporary.replace(path)

    def _path(self, plan_id: str) -> Path:
        return self.folder / "scenes" / f"{plan_id}.json"
