"""Rounds in which a camera's link fails again and again, and every picture is accounted for."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from efm_bringup.faults import trace
from efm_bringup.faults.blind_robot import begin
from efm_bringup.faults.fleet_rounds import Findings, free_name, judge_episodes, seed_of
from efm_bringup.faults.frame_faults import LATE_BEHIND, REFUSED
from efm_bringup.faults.frame_robot import RATE, told
from efm_bringup.faults.results import Round, Trial
from efm_bringup.faults.testbed import Shape, Testbed
from efm_core.bags import read_episode
from efm_core.camera_ledger import excess_loss
from efm_core.episode import EpisodeRecord, Outcome, TopicCounts
from efm_core.topics import camera
from efm_episode_manager import cdr

SHAPE = Shape(robot="frame")
FAULTS, REST = 45, 50
"""Scripted faults, of which each has a good picture behind it; ticks of the episode beside."""
CALM_SECONDS = 1.0
"""From the episode's beginning to the first fault."""
LIVE_SECONDS = 3.0
"""Until episode/status, which counts once a second, must tell of the last fault."""
END_SECONDS = 120.0
_PARTS = ("received", "dropped", "repeated", "late")
_TOPIC = camera("front")
Told = Sequence[tuple[int, str]]
"""(stamp in ns, deed) of pictures, as the camera took them."""


def frame_round(bed: Testbed, trial: Trial, number: int, seed: int) -> Round:
    """One episode with `FAULTS` faults; counts live and in its record against the proxy's."""
    found, live = Findings(), Live()
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    name = free_name(bed.fleet.data_dir, f"{trial.name}-{seed_of(rng)}-{number}")
    plan = bed.plan(name, 1, 2 * FAULTS + REST, number)
    bed.until(
        lambda: trace.announced(bed.observer.trace, name), END_SECONDS, "the episode begins"
    )
    bed.let_pass(CALM_SECONDS)
    before = len(_read(bed.camera_order))
    begin(bed.camera_order, json.dumps([rng.getrandbits(32), FAULTS]))
    wanted = before + 2 * FAULTS + max(LATE_BEHIND.values()) + 1
    bed.until(
        lambda: live.hear(bed.observer.status) and len(_read(bed.camera_order)) >= wanted,
        END_SECONDS, "the faults are over",
    )  # fmt: skip
    deeds = Counter(deed for _, deed in _read(bed.camera_order)[before:])
    shown = truth_of(deeds)
    live.wait_for(bed, shown)
    bed.until(
        lambda: live.hear(bed.observer.status) and bed.done(plan) >= 1, END_SECONDS, "the plan"
    )
    bed.camera_order.unlink()
    records = judge_episodes(found, bed, plan)
    for episode, record in records.items():
        found.note = record.termination_reason
        if record.outcome in (Outcome.INTERRUPTED, Outcome.FAULT):  # by the machine: no verdict
            found.problems.append(f"the episode was cut: {record.termination_reason}")
            continue
        live.judge(found, shown)
        path = bed.fleet.data_dir / plan.data_set / episode
        _judge_record(found, record, path, _read(bed.camera_order))
    found.figures["faults"] = sum(n for deed, n in deeds.items() if deed != "pass")
    return Round(trial, number, seed, found.figures, found.problems, found.note)


class Live:
    """What episode/status says of the camera while the episode goes on."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.readings = self.wrong = 0

    def hear(self, status: Mapping[str, str]) -> bool:
        """Take a status; a new count must add up. True."""
        counts = json.loads(status.get("frames", "{}")).get(_TOPIC.name)
        if status.get("phase") == "running" and counts and counts != self.counts:
            self.counts = counts
            self.readings += 1
            self.wrong += counts["expected"] != sum(counts[part] for part in _PARTS)
        return True

    def wait_for(self, bed: Testbed, truth: TopicCounts) -> None:
        """Until it tells of the last fault, at most `LIVE_SECONDS`."""
        for _ in range(round(LIVE_SECONDS / 0.1)):
            bed.let_pass(0.1)
            self.hear(bed.observer.status)
            if self._same(truth):
                return

    def judge(self, found: Findings, truth: TopicCounts) -> None:
        """Every reading added up, and the faults were told before the episode's end."""
        found.figures |= {"live_readings": self.readings, "live_wrong": self.wrong}
        found.expect(self.readings > 0, "episode/status said nothing of the pictures")
        found.expect(self.wrong == 0, "a live count did not add up")
        found.expect(self._same(truth), f"live {self.counts}, but the proxy did {_faults(truth)}")

    def _same(self, truth: TopicCounts) -> bool:
        return bool(self.counts) and all(
            self.counts[name] == count for name, count in _faults(truth).items()
        )


def truth_of(deeds: Mapping[str, int], skipped: int = 0) -> TopicCounts:
    """What the counts must be after these deeds; skipped: pictures that the camera never took."""
    refused = sum(deeds.get(deed, 0) for deed in REFUSED)
    late = sum(deeds.get(deed, 0) for deed in LATE_BEHIND)
    repeated, lost = deeds.get("repeat", 0), deeds.get("drop", 0) + skipped
    on_time = deeds.get("pass", 0) + repeated
    return TopicCounts(
        expected=on_time + late + repeated + lost + refused, on_time=on_time, late=late,
        repeated=repeated, dropped=lost + refused, refused=refused,
    )  # fmt: skip


def _judge_record(found: Findings, record: EpisodeRecord, path: Path, said: Told) -> None:
    """The record's counts are those of the pictures from the first that is stored to the last."""
    for name, counts in record.topics.items():
        parts = counts.on_time + counts.late + counts.repeated + counts.dropped
        problem = f"{name}: {parts} of {counts.expected} in the record"
        found.expect(parts == counts.expected, problem)
    topic = f"/{record.robot}/{_TOPIC.name}"
    counts, stored = record.topics[topic], _stored(path, topic)
    taken = between(said, stored)
    period_ns = 1e9 / RATE
    span = round((taken[-1][0] - taken[0][0]) / period_ns) + 1 if taken else 0
    truth = truth_of(Counter(deed for _, deed in taken), span - len(taken))
    found.figures |= {name: float(count) for name, count in counts.model_dump().items()}
    mine, theirs = (c.model_dump(exclude={"restamped"}) for c in (counts, truth))
    found.expect(mine == theirs, f"the record says {mine}, but the proxy did {theirs}")
    kept = counts.on_time + counts.late + counts.refused
    found.expect(len(stored) == kept, f"{len(stored)} pictures in the bag, {kept} in the record")
    unusable = excess_loss(next(c for c in record.cameras if c.topic == _TOPIC), counts)
    found.expect((record.unusable == "") is (unusable == ""), f"unusable: '{record.unusable}'")


def between(said: Told, stored: Sequence[int]) -> Told:
    """The pictures from the first to the last of those stored; stored: their stamps, ns."""
    known = set(stored)
    rows = [i for i, (stamp, _) in enumerate(said) if stamp in known]
    return said[rows[0] : rows[-1] + 1] if rows else []


def _stored(path: Path, topic: str) -> list[int]:
    return [cdr.stamp_ns(raw) for _, _, _, raw in read_episode(path, [topic])]


def _read(order: Path) -> list[tuple[int, str]]:
    path = told(order)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(int(stamp), str(deed)) for stamp, deed in map(json.loads, lines)]


def _faults(truth: TopicCounts) -> dict[str, int]:
    """The counts that only faults change; drops of the camera itself come on top of `dropped`."""
    return {"repeated": truth.repeated, "late": truth.late, "refused": truth.refused}
