"""One episode in lockstep, in one process: the same order of events as over DDS.

Per tick k: observation k; decision and steps-to-go on it; the detector; then either the guard's
answer to the decision (or to the person's command) moves the robot to k + 1, or the episode ends
at observation T = k. After a success the arm is held for some still ticks, which are recorded.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from efm_core.actions import ActionSpace
from efm_core.detector import SuccessDetector
from efm_core.episode import EpisodeRecord, Labels, Mode, Outcome
from efm_core.guard import Guard, GuardReport
from efm_core.observation import Decision, Observation, StepsToGo
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_trainer.episode_data import EpisodeData, without_truth
from efm_trainer.lasting import LastingScene
from efm_trainer.robot import Demonstrator, Robot

_NAMESPACE = uuid.UUID("5bb0f0f2-2c9c-5f0e-9a51-6d8f2f3c8d11")


def planned_episode_id(plan: EpisodePlan, robot: str, index: int) -> str:
    """A UUID that is a function of plan, seed, robot and index: repeatable experiments."""
    return str(uuid.uuid5(_NAMESPACE, f"{plan.plan_id}/{plan.seed}/{robot}/{index}"))


@dataclass(slots=True)
class Row:
    """One observation and everything stamped with it."""

    observation: Observation
    truth: dict[str, float]
    decision: Decision | None = None
    steps: StepsToGo | None = None
    reward: float = 0.0
    success: bool = False
    command: NDArray[np.float64] | None = None
    report: GuardReport | None = None


@dataclass(frozen=True, slots=True)
class FinishedEpisode:
    """data: what may be learnt from. record: with labels.truth. rows: for the recorder.

    truth: bool (T + 1,), the simulator's success at every observation up to the end.
    """

    data: EpisodeData
    record: EpisodeRecord
    rows: list[Row]
    truth: NDArray[np.bool_]

    @property
    def detected_at(self) -> int | None:
        """The tick at which the detector first fired, None if never."""
        return self.record.success_tick


@dataclass(slots=True)
class EpisodeRun:
    """The state of a running episode.

    demonstrator: None in autonomous episodes. still_ticks: after a success. oracle: whether the
    simulator's truth plays the operator who ends a demonstration and labels episodes; written as
    such. decided_stop: an evaluation may stop once truth and detector have both said success,
    because nothing later can change what is counted. lasting: the scene to go on from, None for a
    drawn one; reset_reason: why it was drawn all the same.
    """

    robot: Robot
    guard: Guard
    detector: SuccessDetector
    plan: EpisodePlan
    planned: PlannedEpisode
    robot_name: str
    space: ActionSpace
    start_ns: int
    versions: tuple[str, str]
    demonstrator: Demonstrator | None = None
    still_ticks: int = 4
    oracle: bool = False
    decided_stop: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)
    lasting: LastingScene | None = None
    reset_reason: str = ""
    rows: list[Row] = field(default_factory=list)
    episode_id: str = ""
    end_tick: int | None = None
    reason: str = "timeout"
    detected_at: int | None = None
    scene_hash: str = ""
    clock_s: float = 0.0

    def begin(self) -> None:
        """Reset the robot into the planned scene and announce the episode to its guard."""
        self.episode_id = self.planned.repeats or planned_episode_id(
            self.plan, self.robot_name, self.planned.index
        )
        self._make_scene()
        self.scene_hash = self.robot.scene_hash
        self.detector.reset()
        mode = self.plan.mode.value
        self.guard.on_fleet_stopped(False, self.clock_s)
        self.guard.on_episode_status("ready", self.episode_id, self.clock_s, mode)
        self.guard.on_episode_status("running", self.episode_id, self.clock_s, mode)

    def _make_scene(self) -> None:
        scene = self.planned.scene
        if scene.get("present"):
            raise ValueError(
                f"plan {self.plan.plan_id}, episode {self.planned.index}: scene.present goes on "
                "from another episode's end, which one process can't; use `efm record`"
            )
        if "state" in scene:
            self.robot.restore_state(scene["state"])
            return
        wanted = scene.get("instruction", self.planned.instruction)
        seed = int(scene.get("seed", self.planned.index))
        if self.lasting is not None:
            self.reset_reason = self.lasting.begin(self.robot, self.plan, seed, wanted)
        else:
            self.robot.reset(seed, wanted)

    @property
    def _went_on(self) -> bool:
        return self.lasting is not None and not self.reset_reason

    def observe(self) -> Observation:
        """The next observation; its row is open until `act` closes it."""
        tick = len(self.rows)
        observation = self.robot.observe(tick, self.start_ns + round(tick * 1e9 / self.space.rate))
        self.rows.append(Row(observation, self.robot.truth()))
        return observation

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do (the last observation is recorded)."""
        if self.end_tick is None:
            return False
        still = self.still_ticks if self._held_after_success() else 0
        return len(self.rows) > self.end_tick + still

    def act(self, decision: Decision | None, steps: StepsToGo | None) -> None:
        """Close the open row with the model's answers, then move the robot one period on."""
        row, tick = self.rows[-1], len(self.rows) - 1
        row.decision, row.steps = decision, steps
        if steps is not None:
            before = self.rows[-2].steps if tick else None
            row.reward = before.mean - steps.mean if before is not None else 0.0
            if self.end_tick is None:
                row.success = self.detector.update(steps.mean, tick)
        if self.end_tick is None:
            self._judge(row, tick)
            if self.end_tick is not None:
                self.guard.on_episode_status("ending", self.episode_id, self._now(tick))
        if not self.finished:
            self._move(row, tick)

    def _judge(self, row: Row, tick: int) -> None:
        """Whether the episode ends at this observation."""
        true_success = row.truth["success"] > 0.5
        if row.success and self.detected_at is None:
            self.detected_at = tick
        ends = self.plan.end_on_success
        if self.demonstrator is not None:
            if self.oracle and true_success:
                self.end_tick, self.reason = tick, "operator"
        elif self.oracle and true_success and self.plan.mode is Mode.CALIBRATION:
            # The operator says so at the moment it happens: a detection before it is a false one.
            self.end_tick, self.reason = tick, "operator"
        elif row.success and ends:
            self.end_tick, self.reason = tick, "detector"
        elif self.decided_stop and not ends and self._decided():
            self.end_tick, self.reason = tick, "operator"
        if self.end_tick is None and tick >= self.planned.limit:
            self.end_tick, self.reason = tick, "timeout"

    def _decided(self) -> bool:
        """Whether detector and truth have both said success."""
        reached = any(row.truth["success"] > 0.5 for row in self.rows)
        return reached and self.detected_at is not None

    def _move(self, row: Row, tick: int) -> None:
        stamp, now = row.observation.stamp_ns, self._now(tick)
        report = self.guard.on_pose(stamp, self.robot.effector, now)
        if self.end_tick is not None:
            report = self.guard.on_tick(stamp, now) or report
        elif self.demonstrator is not None:
            row.command = self.demonstrator.command(self.robot)
            report = self.guard.on_teleop(stamp, row.command, now) or report
        elif row.decision is not None:
            values = self.space.decode(row.decision.bins)
            report = self.guard.on_chunk(stamp, self.episode_id, values, now) or report
        if report is None or report.stamp_ns != stamp:
            raise RuntimeError(
                f"robot '{self.robot_name}', tick {tick}: the guard gave no answer "
                f"(counts {dict(self.guard.counts)}); its settings must have clock lockstep"
            )
        row.report = report
        self.robot.step(report.velocity)

    def _now(self, tick: int) -> float:
        return self.clock_s + tick / self.space.rate

    def _held_after_success(self) -> bool:
        return self.reason in ("detector", "operator") and self.plan.mode in (
            Mode.PRACTICE, Mode.DEMO, Mode.CALIBRATION,
        )  # fmt: skip

    def result(self) -> FinishedEpisode:
        """The episode as data and record."""
        assert self.end_tick is not None  # only finished episodes are asked
        truth = np.array([row.truth["success"] > 0.5 for row in self.rows[: self.end_tick + 1]])
        record = self._record(truth)
        data = rows_to_data(self.rows, without_truth(record), self.space, self.versions)
        return FinishedEpisode(data, record, self.rows, truth)

    def _record(self, truth: NDArray[np.bool_]) -> EpisodeRecord:
        demo, reached = self.demonstrator is not None, bool(truth.any())
        success = self.reason == "operator" if demo else self.detected_at is not None
        otherwise = Outcome.UNKNOWN if demo else Outcome.FAILURE
        asked = self.oracle and (demo or self.plan.mode is Mode.CALIBRATION)
        labels = Labels(
            operator=reached if asked else None,
            operator_source="oracle" if asked else None,
            truth=reached,
        )
        planned, plan, end = self.planned, self.plan, self.end_tick or 0
        return EpisodeRecord(
            episode_id=self.episode_id, mode=plan.mode, split=planned.split, plan=plan.plan_id,
            index=planned.index, round=plan.round, robot=self.robot_name,
            fleet=self.facts.get("fleet", ""), instruction=self.rows[0].observation.instruction,
            task=self.facts.get("task", ""), transport="in_process", clock="lockstep",
            rate=self.space.rate, ticks=end,
            action_space=self.space.model_dump(mode="json"), action_space_hash=self.space.hash,
            policy_version=self.versions[0], reward_version=self.versions[1],
            efm_version=self.facts.get("efm_version", ""), scene_hash=self.scene_hash,
            scene_seed=None if self._went_on else planned.scene.get("seed"), start_ns=self.start_ns,
            end_ns=self.rows[end].observation.stamp_ns,
            reset_attempts=1, reset_asked=bool(self.reset_reason),
            reset_reason=self.reset_reason, saved=True,
            outcome=Outcome.SUCCESS if success else otherwise, termination_reason=self.reason,
            success_tick=self.detected_at, labels=labels,
        )  # fmt: skip


def rows_to_data(
    rows: list[Row], record: EpisodeRecord, space: ActionSpace, versions: tuple[str, str]
) -> EpisodeData:
    """Rows of an in-process episode -> the same arrays that `load_episode` reads from its bag."""
    count, nothing = len(rows), np.full(space.tokens, -1, dtype=np.int64)
    unknown = np.full(space.size, np.nan)
    images = {
        name: np.stack([r.observation.images[name] for r in rows])
        for name in rows[0].observation.images
    }
    state = {
        name: np.array([r.observation.state[name] for r in rows])
        for name in sorted(rows[0].observation.state)
    }
    decisions = [r.decision for r in rows]
    return EpisodeData(
        record=record,
        space=space,
        images=images,
        state=state,
        stamps=np.array([r.observation.stamp_ns for r in rows], dtype=np.int64),
        bins=np.stack([d.bins.reshape(space.tokens) if d else nothing for d in decisions]),
        log_prob=np.array([d.log_prob if d else np.nan for d in decisions]),
        temperature=np.array([d.temperature if d else np.nan for d in decisions]),
        policy_versions=tuple(versions[0] if d else "" for d in decisions),
        executed=np.stack([r.report.executed if r.report else unknown for r in rows]),
        source=np.array([int(r.report.source) if r.report else -1 for r in rows], dtype=np.int64),
        modified=np.array([bool(r.report and r.report.modified) for r in rows]),
        steps_to_go=np.array([r.steps.mean if r.steps else np.nan for r in rows]),
        reward_versions=tuple(versions[1] if r.steps else "" for r in rows),
        end_row=min(record.ticks, count - 1),
    )
