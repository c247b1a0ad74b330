from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from trainer.toy import SPACE

from efm_core.actions import ActionDim, ActionSpace
from efm_core.episode import EpisodeRecord, Mode, Outcome, new_episode_id
from efm_trainer.episode_data import EpisodeData
from efm_trainer.segments import decision_segments


def episode(
    rows: int = 7, outcome: Outcome = Outcome.SUCCESS, reason: str = "detector",
    space: ActionSpace = SPACE, mode: Mode = Mode.PRACTICE, **changes: object,
) -> EpisodeData:  # fmt: skip
    """`rows` observations, all but the last with a decision that was executed as sampled."""
    record = EpisodeRecord(
        episode_id=new_episode_id(), mode=mode, robot="toy", instruction="go", outcome=outcome,
        transport="in_process", clock="lockstep", rate=space.rate, ticks=rows - 1,
        termination_reason=reason,
    )  # fmt: skip
    bins = np.tile(np.array([1, 3] * space.chunk), (rows, 1))
    executed = space.decode(bins.reshape(rows, space.chunk, space.size))[:, 0]
    data = EpisodeData(
        record=record, space=space, images={}, state={},
        stamps=np.arange(rows, dtype=np.int64) * round(1e9 / space.rate), bins=bins,
        log_prob=np.full(rows, -1.0), temperature=np.full(rows, 0.8),
        policy_versions=("p0",) * rows, executed=executed, source=np.ones(rows, dtype=np.int64),
        modified=np.zeros(rows, dtype=bool), steps_to_go=np.arange(rows, 0, -1.0),
        reward_versions=("r0",) * rows, end_row=rows - 1,
    )  # fmt: skip
    return dataclasses.replace(data, **changes)


def only(segments):
    assert len(segments) == 1
    return segments[0]


D = np.arange(7, 0, -1.0)


def test_success_ends_for_good():
    segment = only(decision_segments(episode(), D))
    assert segment.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert segment.values.steps_to_go.tolist() == D.tolist()
    assert not segment.values.bootstrap
    assert segment.as_sampled.all()


@pytest.mark.parametrize("reason", ["timeout", "operator"])
def test_a_cut_episode_bootstraps(reason):
    segment = only(decision_segments(episode(outcome=Outcome.FAILURE, reason=reason), D))
    assert segment.values.bootstrap


def test_a_fault_drops_its_tail():
    broken = episode(outcome=Outcome.FAULT, reason="fault:policy")
    segment = only(decision_segments(broken, D, fault_tail=2))
    assert segment.last_row == 4
    assert segment.values.bootstrap


def test_a_takeover_cuts_and_its_ticks_give_nothing():
    source = np.array([1, 1, 2, 2, 1, 1, 1])
    first, second = decision_segments(episode(source=source), D)
    assert (first.rows.tolist(), first.last_row, first.values.bootstrap) == ([0, 1], 2, True)
    assert (second.rows.tolist(), second.last_row, second.values.bootstrap) == ([4, 5], 6, False)


def test_a_missing_frame_gives_no_transition():
    stamps = np.array([0, 1, 2, 4, 5, 6, 7]) * 100_000_000
    first, second = decision_segments(episode(stamps=stamps), D)
    # Decision 2 led from o_2 to an observation that is missing: it belongs to neither side.
    assert (first.rows.tolist(), first.last_row) == ([0, 1], 2)
    assert second.rows.tolist() == [3, 4, 5]


def test_what_the_guard_changed_is_no_sample_but_stays_in_the_return():
    modified = np.zeros(7, dtype=bool)
    modified[3] = True
    segment = only(decision_segments(episode(modified=modified), D))
    assert segment.as_sampled.tolist() == [True, True, True, False, True, True]
    assert len(segment.values.steps_to_go) == 7


def test_a_hold_and_another_command_are_no_samples():
    source = np.ones(7, dtype=np.int64)
    source[1] = 0
    other = episode()
    executed = other.executed.copy()
    executed[4, 0] += 0.01
    segment = only(decision_segments(episode(source=source, executed=executed), D))
    assert segment.as_sampled.tolist() == [True, False, True, True, False, True]


def test_an_absolute_target_is_a_sample_though_the_arm_is_still_on_its_way():
    there = episode()
    space = there.space.model_copy(update={"kind": "absolute"})
    late = {"space": space, "executed": there.executed * 0.5}
    assert only(decision_segments(dataclasses.replace(there, **late), D)).as_sampled.all()
    modified = np.arange(7) == 2  # but not one that the guard replaced
    segment = only(decision_segments(dataclasses.replace(there, modified=modified, **late), D))
    assert segment.as_sampled.tolist() == [True, True, False, True, True, True]


def test_rows_after_the_end_are_never_decisions():
    segment = only(decision_segments(episode(rows=7, end_row=3), D))
    assert segment.rows.tolist() == [0, 1, 2]


def test_chunks_count_as_one_decision():
    dims = tuple(ActionDim(name=n, unit="m", low=-1.0, high=1.0, bins=5) for n in "xy")
    space = ActionSpace(dims=dims, chunk=3)
    data = episode(space=space)
    bins = data.bins.copy()
    bins[[1, 2, 4, 5]] = -1
    segment = only(decision_segments(dataclasses.replace(data, bins=bins), D))
    assert segment.rows.tolist() == [0, 3]
    assert segment.values.steps_to_go.tolist() == [7.0, 4.0, 1.0]
    assert segment.as_sampled.all()
    source = data.source.copy()
    source[4] = 0  # one point of the second chunk was skipped
    segment = only(decision_segments(dataclasses.replace(data, bins=bins, source=source), D))
    assert segment.as_sampled.tolist() == [True, False]
