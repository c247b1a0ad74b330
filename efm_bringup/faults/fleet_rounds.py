"""Rounds on a running fleet: a process is killed or stopped in the middle of an episode."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from efm_bringup.faults import trace
from efm_bringup.faults.causes import (
    INFERENCE,
    KILLED,
    LOST_TAIL_SECONDS,
    MANAGER,
    ROBOT,
    Cause,
)
from efm_bringup.faults.results import Round, Trial
from efm_bringup.faults.testbed import Testbed
from efm_bringup.runner import FIRST_DELAY
from efm_core.bags import check_episode, list_episodes, read_episode, read_record
from efm_core.episode import EpisodeRecord, Outcome
from efm_core.plan import EpisodePlan
from efm_core.topics import ACTION_CHUNK, DECISION, EPISODE_STATUS
from efm_episode_manager import cdr

TICKS = {"real": 50, "lockstep": 200}
"""Length of a round's episodes in control ticks."""
STRIKE_SHARES = 0.1, 0.5
"""Between these shares of the episode; the rest is longer than the manager's patience of 2 s."""
STOPPED_SECONDS = 3.0
"""How long a stopped process stays so: longer than the manager's patience of 2 s."""
LOSS_SECONDS, GUARD_SECONDS = 0.6, 1.5
"""s for which messages are lost, or the arm is watched after the guard's death."""
LOCKSTEP_SETTLED = 0.1, 0.6
"""s after the fault between which a lockstep world must not advance."""
END_SECONDS = 120.0
GRACE_SECONDS, LONGEST_SECONDS = 0.05, 0.6


@dataclass(slots=True)
class Findings:
    """What a round measured and what was wrong."""

    figures: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    note: str = ""

    def expect(self, good: bool, problem: str) -> None:
        """Note `problem` unless `good`."""
        if not good:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that was made: in which episode of which plan, and when (steady s)."""

    plan: EpisodePlan
    episode: str
    at: float


def kill_round(bed: Testbed, trial: Trial, number: int, seed: int) -> Round:
    """SIGKILL or SIGSTOP the cause's process in mid-episode; hold, recovery, nothing lost."""
    cause, found = KILLED[trial.cause], Findings()
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    fatal = trial.signal == "KILL"
    process = cause.process.format(robot=bed.robot)
    fault = _strike(bed, trial, number, rng, process, 1 if cause is MANAGER else 0)
    if not fatal:
        bed.let_pass(STOPPED_SECONDS)
        bed.signal(process, signal.SIGCONT)
    _finish(bed, fault.plan)
    heard = bed.observer.trace
    again = trace.running_again(heard, fault.at, fault.episode)
    found.figures["back_s"] = again - fault.at
    end = trace.back_at(heard, cause.sign, fault.at)
    if not fatal:
        end = min(end, fault.at + STOPPED_SECONDS)
    elif cause is ROBOT:
        # The policy may hear the new robot's pictures before this observer has discovered it.
        end = min(end, fault.at + FIRST_DELAY)
    if trial.clock == "real":
        _judge_hold(found, bed, cause, fault, end)
    else:
        begin, until = (fault.at + s for s in LOCKSTEP_SETTLED)
        steps = trace.new_observations(heard, begin, until)
        found.figures["steps_after"] = steps
        found.expect(steps == 0, "the lockstep world went on without the process")
    acknowledged = trace.acknowledged(heard, fault.plan.plan_id, fault.at)
    records = judge_episodes(found, bed, fault.plan, acknowledged)
    _judge_cut(found, bed, cause, fault, records.get(fault.episode), fatal)
    return Round(trial, number, seed, found.figures, found.problems, found.note)


def loss_round(bed: Testbed, trial: Trial, number: int, seed: int) -> Round:
    """Stop the inference for 0.6 s of a lockstep episode: it goes on, one answer per stamp."""
    found = Findings()
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    fault = _strike(bed, trial, number, rng, INFERENCE.process, 0)
    bed.let_pass(LOSS_SECONDS)
    woken = bed.signal(INFERENCE.process, signal.SIGCONT)
    _finish(bed, fault.plan)
    later = bed.observer.trace.of(ACTION_CHUNK.name, woken)
    found.figures["again_s"] = later[0].at - woken if later else END_SECONDS
    records = judge_episodes(found, bed, fault.plan, ())
    record = records.get(fault.episode)
    if record is not None:
        whole = record.termination_reason == "timeout" and record.ticks == TICKS["lockstep"]
        found.expect(whole, f"the episode ended by {record.termination_reason}")
        found.figures["repeated"] = sum(t.repeated for t in record.topics.values())
    return Round(trial, number, seed, found.figures, found.problems, found.note)


def _strike(
    bed: Testbed, trial: Trial, number: int, rng: random.Random, process: str, victim: int
) -> Fault:
    """Signal `process` at a random moment of the plan's episode `victim` (0, 1, ...)."""
    kind = signal.SIGKILL if trial.signal == "KILL" else signal.SIGSTOP
    limit = TICKS[trial.clock]
    while True:
        bed.observer.trace.heard.clear()
        name = free_name(bed.fleet.data_dir, f"{trial.name}-{seed_of(rng)}-{number}")
        plan = bed.plan(name, victim + 2, limit, number)
        bed.until(lambda name=name: _running(bed, name, victim), END_SECONDS, "the episode begins")
        _mid_episode(bed, rng, limit, name, victim)
        if not _running(bed, name, victim):
            _finish(bed, plan)  # it was over before: once more
            continue
        episode = bed.observer.status["episode_id"]
        return Fault(plan, episode, bed.signal(process, kind))


def seed_of(rng: random.Random) -> str:
    """Four hexadecimal digits that tell plans of different seeds apart."""
    return f"{rng.getrandbits(16):04x}"


def free_name(data_dir: Path, wanted: str) -> str:
    """`wanted` with a number: a round that was cut left its episodes under the name before."""
    attempt = 0
    while (data_dir / f"{wanted}-{attempt}").exists():
        attempt += 1
    return f"{wanted}-{attempt}"


def _running(bed: Testbed, plan: str, victim: int) -> bool:
    status = bed.observer.status
    ids = trace.announced(bed.observer.trace, plan)
    return (
        status.get("plan") == plan and status.get("phase") == "running" and len(ids) == victim + 1
    )


def _mid_episode(bed: Testbed, rng: random.Random, limit: int, plan: str, victim: int) -> None:
    """Wait for a random share of the episode, and in real time until the arm moves."""
    share = rng.uniform(*STRIKE_SHARES)
    heard, episode = bed.observer.trace, bed.observer.status["episode_id"]
    begin = next(
        h.at for h in heard.of(EPISODE_STATUS.name, 0.0)
        if h.plan == plan and h.phase == "running" and h.episode == episode
    )  # fmt: skip
    if bed.fleet.clock == "lockstep":
        ticks = round(share * limit)
        bed.until(
            lambda: len(heard.of(trace.CAMERA, begin)) >= ticks
            or not _running(bed, plan, victim),
            END_SECONDS, "the episode's ticks",
        )  # fmt: skip
        return
    bed.let_pass(share * limit / bed.space.rate)
    bed.until(
        lambda: not _running(bed, plan, victim) or _moving(heard), END_SECONDS, "the arm moves"
    )


def _moving(heard: trace.Trace) -> bool:
    newest = heard.last(trace.COMMAND, float("inf"))
    return newest is not None and newest.values[0] > trace.STILL_SPEED


def _finish(bed: Testbed, plan: EpisodePlan) -> None:
    total = len(plan.episodes[bed.robot])
    bed.until(lambda: bed.done(plan) >= total, END_SECONDS, "the plan's end")


def _judge_hold(found: Findings, bed: Testbed, cause: Cause, fault: Fault, end: float) -> None:
    """The arm holds in time, counted from the cause's last sign of life (real time)."""
    heard = bed.observer.trace
    chunk = bed.space.chunk / bed.space.rate
    limit = cause.limit_s or min(chunk + GRACE_SECONDS, LONGEST_SECONDS)
    sign = heard.last(cause.sign, fault.at + trace.IN_FLIGHT)
    since = fault.at if sign is None else sign.at
    if cause.name == "guard":
        # A reset after the manager's patience moves the arm too, maybe before it is heard of.
        hold: float | None = trace.arm_stood(heard, fault.at, min(end, fault.at + GUARD_SECONDS))
    else:
        # What answers the first new picture may be heard before that picture.
        until = end - trace.IN_FLIGHT
        hold = trace.guard_hold(heard, fault.at, until)
        found.figures["still_s"] = trace.last_motion(heard, fault.at, until) - since
    if hold is None:
        found.problems.append("the arm was never held")
        return
    found.figures["hold_s"] = hold - since
    found.figures["hold_after_fault_s"] = hold - fault.at
    found.expect(hold - since <= limit, f"held later than {limit:g} s after the last sign")


def judge_episodes(
    found: Findings, bed: Testbed, plan: EpisodePlan, acknowledged: Collection[str] = ()
) -> dict[str, EpisodeRecord]:
    """Every listed episode is there, whole, once; what was acknowledged is untouched."""
    folder = bed.fleet.data_dir / plan.data_set
    records = {read_record(path).episode_id: read_record(path) for path in list_episodes(folder)}
    for path in list_episodes(folder):
        found.problems += [f"damaged episode: {text}" for text in check_episode(path)]
        if bed.fleet.clock == "lockstep":
            twice = repeated_stamps(path, f"/{bed.robot}/{DECISION.name}")
            found.expect(twice == 0, "two decisions for one stamp")
    indices = Counter((r.robot, r.index) for r in records.values())
    expected = Counter((robot, p.index) for robot, own in plan.episodes.items() for p in own)
    wrong = {f"{r}/{i}": n for (r, i), n in indices.items() if n != expected[r, i]}
    missing = sorted(expected.keys() - indices.keys())
    found.expect(indices == expected, f"episodes not there once: {wrong or missing}")
    for episode in acknowledged:
        record = records.get(episode)
        kept = record is not None and record.saved and not record.recovered
        found.expect(kept, "an acknowledged episode is lost or changed")
    if acknowledged:
        found.figures["acknowledged"] = len(acknowledged)
    left = list(folder.glob("*.partial"))
    found.expect(not left, "a partial episode was left behind")
    return records


def repeated_stamps(path: Path, topic: str) -> int:
    """How many messages of a topic in a bag carry a stamp that an earlier one carried."""
    stamps = Counter(cdr.stamp_ns(raw) for _, _, _, raw in read_episode(path, [topic]))
    return sum(count - 1 for count in stamps.values())


def _judge_cut(
    found: Findings,
    bed: Testbed,
    cause: Cause,
    fault: Fault,
    record: EpisodeRecord | None,
    fatal: bool,
) -> None:
    """The cut episode is kept and marked, and its lost tail is short."""
    if record is None:
        found.problems.append("the cut episode is lost")
        return
    found.note = f"{record.outcome.value} {record.termination_reason}"
    if not fatal:
        return
    marked = record.outcome in (Outcome.INTERRUPTED, Outcome.FAULT)
    marked = marked and record.termination_reason.startswith(cause.marks)
    found.expect(marked, f"the cut episode is marked {found.note}")
    if cause is MANAGER:
        found.expect(record.recovered, "the cut episode is not marked recovered")
        folder = bed.fleet.data_dir / fault.plan.data_set / record.episode_id
        kept = [
            (topic.removeprefix(f"/{bed.robot}/"), cdr.stamp_ns(raw))
            for topic, kind, _, raw in read_episode(folder)
            if cdr.has_stamp(kind) and topic != f"/{bed.robot}/{EPISODE_STATUS.name}"
        ]
        begin = next(
            h.at for h in bed.observer.trace.of(EPISODE_STATUS.name, 0.0)
            if h.episode == record.episode_id
        )  # fmt: skip
        tail = trace.lost_tail(bed.observer.trace, begin, fault.at, kept)
        found.figures["lost_tail_s"] = tail
        found.expect(tail <= LOST_TAIL_SECONDS, f"lost more than {LOST_TAIL_SECONDS:g} s")
