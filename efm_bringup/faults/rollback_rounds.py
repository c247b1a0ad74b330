"""Rounds of `efm models rollback` while four robots practise with the champion."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise

from efm_bringup.faults.fleet_rounds import Findings, free_name, judge_episodes, seed_of
from efm_bringup.faults.results import Round, Trial
from efm_bringup.faults.testbed import POLICY, Shape, Testbed, make_checkpoints
from efm_core.bags import list_episodes, read_episode, read_record
from efm_core.episode import EpisodeRecord
from efm_core.plan import EpisodePlan
from efm_core.registry import Registry
from efm_core.topics import DECISION
from efm_episode_manager import cdr

SHAPE = Shape(robots=4)
OTHER = "fault-policy-b"
"""The version that is rolled back from, or to: the two change places."""
TICKS, EPISODES, BEFORE_EPISODES = 10, 8, 2
WAIT_SECONDS = 0.0, 3.0
SWAP_SECONDS = 10.0
"""Beyond the length of an episode: verifying, loading and warming up the version."""
END_SECONDS = 120.0


def rollback_round(bed: Testbed, trial: Trial, number: int, seed: int) -> Round:
    """One rollback at a random moment; the plan leaves the policy's version to the champion."""
    found = Findings()
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    registry = _registry(bed)
    before, after = registry.alias("champion"), registry.alias("previous")
    assert before is not None
    assert after is not None
    exits = bed.runner.restarts
    name = free_name(bed.fleet.data_dir, f"{trial.name}-{seed_of(rng)}-{number}")
    limits = dict.fromkeys(bed.robots, (TICKS,) * EPISODES)
    plan = bed.plan_all(name, limits, number, policy="")
    bed.until(
        lambda: all(bed.watch.done(robot) >= BEFORE_EPISODES for robot in bed.robots),
        END_SECONDS, "the episodes before",
    )  # fmt: skip
    bed.let_pass(rng.uniform(*WAIT_SECONDS))
    asked_ns = time.time_ns()
    registry.rollback()  # what `efm models rollback` does
    found.figures["command_s"] = (time.time_ns() - asked_ns) / 1e9
    bed.finish_all(plan, END_SECONDS)
    records = judge_episodes(found, bed, plan)
    found.expect(bed.runner.restarts == exits, "a process was restarted")
    odd = [r.termination_reason for r in records.values() if r.termination_reason != "timeout"]
    found.expect(not odd, f"episodes ended by {', '.join(sorted(set(odd)))}")
    _judge_mixing(found, bed, plan)
    _judge_swap(found, records, bed.robots, (before, after), asked_ns)
    return Round(trial, number, seed, found.figures, found.problems, found.note)


def _registry(bed: Testbed) -> Registry:
    """The fleet's, in which the other version was promoted over the first."""
    registry = Registry(bed.fleet.models_dir)
    if registry.alias("previous") is None:
        make_checkpoints(bed.fleet, (POLICY, OTHER))
        registry.promote(POLICY)
        registry.promote(OTHER)
    return registry


def _judge_mixing(found: Findings, bed: Testbed, plan: EpisodePlan) -> None:
    """All decisions of an episode come from the version that its record names."""
    for path in list_episodes(bed.fleet.data_dir / plan.data_set):
        record = read_record(path)
        topic = f"/{record.robot}/{DECISION.name}"
        versions = {cdr.frame_id(raw) for _, _, _, raw in read_episode(path, [topic])}
        found.expect(
            versions == {record.policy_version},
            f"decisions by {sorted(versions)} where {record.policy_version!r} is named",
        )


def _judge_swap(
    found: Findings,
    records: Mapping[str, EpisodeRecord],
    robots: Sequence[str],
    versions: tuple[str, str],
    asked_ns: int,
) -> None:
    """Every robot is on the previous version within one episode + 10 s, and stays there."""
    worst = over = 0.0
    before, after = versions
    for robot in robots:
        own = sorted((r for r in records.values() if r.robot == robot), key=lambda r: r.start_ns)
        used = [r.policy_version for r in own]
        swap = used.index(after) if after in used else len(used)
        if used != [before] * swap + [after] * (len(used) - swap) or not 0 < swap < len(used):
            found.problems.append(f"{robot} used {used}")
            continue
        period = max((b.start_ns - a.start_ns) / 1e9 for a, b in pairwise(own[: swap + 1]))
        took = (own[swap].start_ns - asked_ns) / 1e9
        worst, over = max(worst, took), max(over, took - period)
    found.figures["swap_s"], found.figures["swap_over_s"] = worst, over
    found.expect(over <= SWAP_SECONDS, f"later than an episode + {SWAP_SECONDS:g} s")
