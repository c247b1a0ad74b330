from __future__ import annotations

import numpy as np
import pytest
from trainer.toy import GUARD, ToyBrain, ToyRobot, toy_model, toy_plan

from efm_core.detector import DetectorSettings
from efm_core.episode import Mode
from efm_trainer.calibrate import (
    CalibrationConfig,
    Trace,
    calibrate,
    first_detection,
    quality_of,
    trace_of,
)  # fmt: skip
from efm_trainer.evaluate import (
    EpisodeResult,
    Evaluation,
    compare,
    evaluate,
    evaluation_plan,
)  # fmt: skip
from efm_trainer.rollout import InProcessFleet


def trace(d, label, name="e"):
    return Trace(name, np.array(d, dtype=np.float64), label, "person")


def dip(depth, ticks):
    """An approach to `depth` steps, there for `ticks`."""
    return [9, 5, 2, *[depth] * ticks]


# Successes stay low; near misses dip for one tick; far failures stay high.
TRACES = [
    *[trace(dip(0.4, 4), True, f"s{i}") for i in range(8)],
    *[trace([*dip(0.4, 1), 3.0, 4.0], False, f"n{i}") for i in range(4)],
    *[trace([9, 8, 8, 7, 8, 9], False, f"f{i}") for i in range(4)],
]
THREE = CalibrationConfig(thresholds=(0.25, 0.5, 2.0), start=0.5, hold=3)


def test_holding_tells_a_success_from_a_near_miss():
    found = calibrate(TRACES, CalibrationConfig())
    assert found.reached
    assert (found.settings.threshold, found.settings.hold) == (0.5, 4)
    assert (found.quality.precision, found.quality.recall) == (1.0, 1.0)
    loose = quality_of(TRACES, DetectorSettings(threshold=0.7, hold=1))
    assert (loose.true_positives, loose.false_positives) == (8, 4)
    assert loose.precision == pytest.approx(8 / 12)
    low, high = loose.precision_interval
    assert low < 8 / 12 < high
    assert len(found.episode_ids) == 16
    assert found.metrics()["detector/episodes"] == 16.0


def several(right, wrong, missed, depth=0.4):
    """Labelled episodes that the detector of 0.5 gets right, takes for successes, misses."""
    return [
        *[trace(dip(depth, 4), True) for _ in range(right)],
        *[trace(dip(depth, 4), False) for _ in range(wrong)],
        *[trace(dip(8.0, 4), True) for _ in range(missed)],
        *[trace(dip(8.0, 4), False) for _ in range(6)],
    ]


@pytest.mark.parametrize(("right", "wrong", "threshold"), [(15, 3, 0.5), (15, 6, 0.25)])
def test_the_start_stays_until_the_labels_contradict_its_precision(right, wrong, threshold):
    # Wilson, 95 %: 15 of 18 reach up to 0.94, 15 of 21 to 0.86.
    deep = several(8, 0, 0, depth=0.2)
    assert calibrate(several(right, wrong, 0), THREE).settings.threshold == 0.5
    found = calibrate([*several(right - 8, wrong, 0), *deep], THREE)
    assert found.settings.threshold == threshold
    assert found.reached


@pytest.mark.parametrize(("seen", "missed", "threshold"), [(5, 5, 0.5), (5, 9, 2.0)])
def test_a_looser_one_is_taken_when_too_little_is_found(seen, missed, threshold):
    # 5 of 10 reach up to 0.76, 5 of 14 to 0.61; at threshold 2 all are found, all rightly.
    far = [trace(dip(1.5, 4), True) for _ in range(missed)]
    found = calibrate([*several(seen, 0, 0), *far], THREE)
    assert found.settings.threshold == threshold


def test_no_looser_one_that_is_less_precise_than_wanted():
    far = [trace(dip(1.5, 4), label) for label in (True, False) for _ in range(9)]
    assert calibrate([*several(5, 0, 0), *far], THREE).settings.threshold == 0.5


def test_what_never_fires_is_not_reached():
    silent = [trace(dip(8.0, 4), i % 2 == 0) for i in range(12)]
    found = calibrate(silent, THREE)
    assert not found.reached
    assert found.quality.expected_precision == pytest.approx(1 / 2)


def test_thresholds_out_of_order_are_refused():
    with pytest.raises(ValueError, match="rising thresholds"):
        CalibrationConfig(thresholds=(0.5, 0.3))
    with pytest.raises(ValueError, match="one of them as start"):
        CalibrationConfig(thresholds=(0.3, 0.4))


def test_firing_before_the_success_is_false():
    # The operator said success at row 3; threshold 2 fires at row 2, threshold 0.7 at row 3.
    early = Trace("e", np.array([9.0, 5.0, 1.5, 0.5, 0.4]), True, "oracle", reached=3)
    hasty = quality_of([early], DetectorSettings(threshold=2.0, hold=1))
    assert (hasty.true_positives, hasty.false_positives, hasty.false_negatives) == (0, 1, 1)
    exact = quality_of([early], DetectorSettings(threshold=0.7, hold=1))
    assert (exact.true_positives, exact.false_positives, exact.false_negatives) == (1, 0, 0)


def test_first_detection_counts_ticks():
    settings = DetectorSettings(threshold=0.5, hold=2, minimum_ticks=0)
    assert first_detection(np.array([3.0, 0.4, 0.4, 0.4]), settings) == 2
    assert first_detection(np.array([3.0, 0.4, 3.0, 0.4]), settings) is None


def test_too_few_labels_are_refused():
    with pytest.raises(ValueError, match="8 successes and 0 failures"):
        calibrate(TRACES[:8], CalibrationConfig())


def test_traces_use_the_operators_label_alone():
    fleet = InProcessFleet([ToyRobot()], GUARD)
    brain = ToyBrain(toy_model(1), toy_model(2))
    plan = toy_plan(Mode.CALIBRATION, 1, end_on_success=False)
    labelled = fleet.practise(plan, brain, oracle=True)[0].data
    silent = fleet.practise(toy_plan(Mode.PRACTICE, 1), brain)[0].data
    assert trace_of(silent, silent.steps_to_go) is None
    found = trace_of(labelled, labelled.steps_to_go)
    assert found is not None
    assert found.source == "oracle"
    assert len(found.steps_to_go) == labelled.end_row + 1


def result(seed, success, detected=False, autonomous=False):
    return EpisodeResult(seed, success, detected, autonomous, 10)


def test_summary_counts_by_truth():
    results = (
        result(0, True, True, True), result(1, True, True, False), result(2, True),
        result(3, False, True), result(4, False),
    )  # fmt: skip
    evaluation = Evaluation("p0", results)
    summary = evaluation.summary()
    assert summary["success"] == pytest.approx(0.6)
    assert summary["autonomous_success"] == pytest.approx(0.2)
    assert summary["episodes"] == 5
    # Fired three times, once at a true moment; of three successes two were noticed.
    assert evaluation.detector()["precision"] == pytest.approx(1 / 3)
    assert evaluation.detector()["recall"] == pytest.approx(2 / 3)


def test_comparison_needs_the_same_start_states():
    before = Evaluation("p0", tuple(result(i, i % 2 == 0) for i in range(40)))
    after = Evaluation("p1", tuple(result(i, True) for i in range(40)))
    mean, (low, high) = compare(before, after)
    assert mean == pytest.approx(0.5)
    assert 0.0 < low < 0.5 < high
    with pytest.raises(ValueError, match="different start states"):
        compare(before, Evaluation("p1", after.results[1:]))


def test_evaluation_runs_the_listed_starts():
    fleet = InProcessFleet([ToyRobot(), ToyRobot()], GUARD)
    plan = evaluation_plan("e", [5, 6, 7], "p0", "r0", limit=8, robots=("a", "b"))
    assert [len(e) for e in plan.episodes.values()] == [2, 1]
    assert not plan.end_on_success
    found = evaluate(fleet, ToyBrain(toy_model(1), toy_model(2)), plan)
    assert [r.seed for r in found.results] == [5, 6, 7]
    with pytest.raises(ValueError, match="needs mode evaluation"):
        evaluate(fleet, ToyBrain(toy_model(1), toy_model(2)), toy_plan(Mode.PRACTICE, 1))
