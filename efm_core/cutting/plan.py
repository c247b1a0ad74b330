"""One episode to be cut: its observations, its actions, its record, and where all of it lies."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efm_core.camera_ledger import excess_loss
from efm_core.cutting import commands
from efm_core.cutting.events import Wanted
from efm_core.cutting.frames import Transform
from efm_core.cutting.mapping import CutMapping, NextAction, action_dims
from efm_core.cutting.rows import Pairing, Row, counted
from efm_core.cutting.scan import Scan
from efm_core.cutting.tracks import Track
from efm_core.episode import EpisodeRecord, Labels, Mode, Outcome, TopicCounts
from efm_core.fleet import RobotDescription

_NAMESPACE = uuid.UUID("0c6a1f0e-7f6b-5f0b-8a53-3f4f5f0c9a77")


class CannotCutError(ValueError):
    """An episode that is left out, with the reason."""


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """An episode as it will be written.

    rows: its observations, the last ones behind record.end_ns at rest. states: pose and joints
    of each. actions: (N, D) in action-space units, NaN where nothing is known. commanded: (N,)
    whether somebody or something commanded it. gaps, missing: stretches without observations,
    and how many control periods they are. unpaired: pictures without those of other cameras.
    stateless: observations left out for want of joints or pose. beyond: actions outside the action
    space's limits.
    """

    record: EpisodeRecord
    rows: list[Row]
    states: list[commands.State]
    actions: NDArray[np.float64]
    commanded: NDArray[np.bool_]
    gaps: int
    missing: int
    unpaired: int
    stateless: int
    beyond: int


class Planner:
    """Makes plans from one recording."""

    def __init__(
        self, mapping: CutMapping, robot: RobotDescription, scan: Scan, fleet: str = ""
    ) -> None:
        self._mapping, self._robot, self._scan, self._fleet = mapping, robot, scan, fleet
        self._cameras = tuple(scan.cameras[camera.name] for camera in robot.cameras)
        tolerance = mapping.state_tolerance
        self._tolerance = robot.state_tolerance if tolerance is None else tolerance
        self._period_ns = 1e9 / robot.space.rate

    def plan(self, wanted: Wanted, spoilt: frozenset[tuple[str, int]] = frozenset()) -> EpisodePlan:
        """Raises CannotCutError with the reason. spoilt: as in `Pairing`."""
        if wanted.problem:
            raise CannotCutError(wanted.problem)
        space = self._robot.space
        pairing = Pairing(self._cameras, self._scan.pictures, space.rate, spoilt)
        still_ns = round(self._mapping.still * 1e9)
        paired, unpaired = pairing.rows(wanted.start_ns, wanted.end_ns + still_ns)
        rows = [row for row in paired if self._has_state(row.stamp_ns)]
        length = sum(row.stamp_ns <= wanted.end_ns for row in rows)
        if length < 2:
            raise CannotCutError(self._why_empty(wanted, length, unpaired, len(paired)))
        stateless, rows = len(paired) - len(rows), self._without_doubt(rows, length)
        states = [self._state(row.stamp_ns) for row in rows]
        record = self._record(wanted, rows, length, spoilt)
        actions, commanded = self._actions(rows, states, length)
        if not commanded.any():
            raise CannotCutError("nothing was commanded in it; check the mapping's action")
        steps = np.rint(np.diff([row.stamp_ns for row in rows]) / self._period_ns).astype(int)
        gone = np.diff([row.stamp_ns for row in rows]) > 1.5 * self._period_ns
        outside = (actions < space.low - 1e-9) | (actions > space.high + 1e-9)
        plan = EpisodePlan(
            record, rows, states, actions, commanded, int(gone.sum()),
            int((steps[gone] - 1).sum()), unpaired, stateless,
            int((outside.any(axis=1) & commanded).sum()),
        )  # fmt: skip
        named = record.model_copy(update={"episode_id": content_id(plan)})
        return replace(plan, record=named)

    def _why_empty(self, wanted: Wanted, length: int, unpaired: int, paired: int) -> str:
        for camera in self._cameras:
            pictures = self._scan.pictures[camera.name]
            within = [p for p in pictures if wanted.start_ns <= p.stamp_ns <= wanted.end_ns]
            texts = [p.frame.text for p in within if p.frame.text]
            if texts and len(texts) == len(within):
                return f"camera '{camera.name}': {texts[0]}"
        if paired >= 2:
            return (
                f"{paired - length} of its {paired} observations have no joints or no pose within "
                f"{self._tolerance:g} s before them; see state_tolerance and times"
            )
        text = f"it holds {length} observations, at least 2 are needed"
        return text + (f"; {unpaired} pictures found no partner, see tolerance" if unpaired else "")

    def _without_doubt(self, rows: list[Row], length: int) -> list[Row]:
        """Without those at rest that the trainer would count to the episode."""
        last = rows[0].stamp_ns + (self._ticks(rows, length) + 0.5) * self._period_ns
        return rows[:length] + [row for row in rows[length:] if row.stamp_ns >= last]

    def _ticks(self, rows: list[Row], length: int) -> int:
        return round((rows[length - 1].stamp_ns - rows[0].stamp_ns) / self._period_ns)

    def _state(self, stamp_ns: int) -> commands.State:
        """What was known of pose and joints at an instant: never anything later."""
        tolerance = self._tolerance * 1e9
        pose: Track[Transform] = self._scan.pose
        return pose.latest(stamp_ns, tolerance), self._scan.joints.latest(stamp_ns, tolerance)

    def _has_state(self, stamp_ns: int) -> bool:
        """Whether there is what the mapping promises; else the trainer would take a later one."""
        promised = (self._mapping.pose, self._mapping.joints)
        found = self._state(stamp_ns)
        return all(f is not None for p, f in zip(promised, found, strict=True) if p is not None)

    def _actions(
        self, rows: list[Row], states: list[commands.State], length: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        space, sources = self._robot.space, self._mapping.action
        columns = [[space.names.index(d) for d in action_dims(s, space)] for s in sources]
        actions = np.full((len(rows), space.size), np.nan)
        commanded = np.zeros(len(rows), dtype=bool)
        for k, row in enumerate(rows[: length - 1]):
            after = rows[k + 1].stamp_ns
            near = after - row.stamp_ns <= 1.5 * self._period_ns
            end_ns = after if near else row.stamp_ns + round(self._period_ns)
            for source, track, column in zip(sources, self._scan.actions, columns, strict=True):
                if isinstance(source, NextAction):
                    value = commands.moved(source, space, *states[k : k + 2]) if near else None
                else:
                    assert track is not None  # a track for each source but `next`
                    value = commands.commanded(source, track, space, row.stamp_ns, end_ns)
                if value is not None:
                    actions[k, column] = value
                    commanded[k] = True
        if space.kind == "delta":  # what nobody commands stands still
            actions[np.isnan(actions)] = 0.0
        commanded &= np.isfinite(actions).all(axis=1)
        return actions, commanded

    def _record(
        self,
        wanted: Wanted,
        rows: list[Row],
        length: int,
        spoilt: frozenset[tuple[str, int]],
    ) -> EpisodeRecord:
        mapping, robot, success = self._mapping, self._robot, wanted.success
        counts, until = {}, max(wanted.end_ns, rows[length - 1].stamp_ns)
        for camera in self._cameras:
            pictures = self._scan.pictures[camera.name]
            found = counted(camera, pictures, wanted.start_ns, until, spoilt)
            lost = excess_loss(camera, found)
            if lost:
                raise CannotCutError(f"{lost}; {_remedy(found)}")
            counts[f"/{robot.name}/{camera.topic.name}"] = found
        outcomes = {True: Outcome.SUCCESS, False: Outcome.FAILURE, None: Outcome.UNKNOWN}
        return EpisodeRecord(
            episode_id=str(_NAMESPACE), mode=Mode.DEMO, split=mapping.split, robot=robot.name,
            fleet=self._fleet, instruction=wanted.instruction, task=mapping.task, transport="dds",
            clock="real", rate=robot.space.rate, ticks=self._ticks(rows, length),
            action_space=robot.space.model_dump(mode="json"), action_space_hash=robot.space.hash,
            start_ns=rows[0].stamp_ns, end_ns=rows[length - 1].stamp_ns,
            outcome=outcomes[success], termination_reason="operator",
            labels=Labels(
                operator=success, operator_source=None if success is None else mapping.labelled_by
            ),
            topics=counts, cameras=self._cameras, state_tolerance=self._tolerance,
        )  # fmt: skip


def _remedy(found: TopicCounts) -> str:
    if found.late > found.dropped:
        return "if its clock is another than the recorder's, see times and max_age in the mapping"
    return "check the camera's rate in the mapping, or raise max_loss"


def content_id(plan: EpisodePlan) -> str:
    """A UUID of what an episode holds: the same however, and from whatever copy, it is cut."""
    hashed = hashlib.sha256()
    fields = plan.record.model_dump(mode="json", exclude={"episode_id", "fleet", "topics"})
    hashed.update(json.dumps(fields, sort_keys=True).encode())
    hashed.update(json.dumps(list(_fingerprints(plan)), sort_keys=True).encode())
    hashed.update(np.ascontiguousarray(plan.actions).tobytes() + plan.commanded.tobytes())
    return str(uuid.uuid5(_NAMESPACE, hashed.hexdigest()))


def _fingerprints(plan: EpisodePlan) -> Iterator[object]:
    for row, (pose, joints) in zip(plan.rows, plan.states, strict=True):
        yield row.stamp_ns
        yield {name: (p.stamp_ns, p.frame.digest) for name, p in row.pictures.items()}
        yield None if joints is None else (joints.stamp_ns, joints.digest)
        yield None if pose is None else (pose.stamp_ns, *map(list, pose.value))
