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


# Successes stay low; near misses dip for one tick; far failures stay high.
TRACES = [
    *[trace([9, 5, 2, 0.4, 0.3, 0.2], True, f"s{i}") for i in range(8)],
    *[trace([9, 5, 2, 0.4, 3.0, 4.0], False, f"n{i}") for i in range(4)],
    *[trace([9, 8, 8, 7, 8, 9], False, f"f{i}") for i in range(4)],
]


def test_holding_tells_a_success_from_a_near_miss():
    config = CalibrationConfig()
    found = calibrate(TRACES, config)
    assert found.reached
    assert found.settings.hold >= 2
    assert (found.quality.precision, found.quality.recall) == (1.0, 1.0)
    loose = quality_of(TRACES, DetectorSettings(threshold=0.7, hold=1))
    assert (loose.true_positives, loose.false_positives) == (8, 4)
    assert loose.precision == pytest.approx(8 / 12)
    low, high = loose.precision_interval
    assert low < 8 / 12 < high
    assert len(found.episode_ids) == 16
    assert found.metrics()["detector/episodes"] == 16.0


def test_recall_is_sought_only_among_the_precise():
    # At threshold 2 with hold 1 everything but the far failures fires: recall 1, precision 8/12.
    config = CalibrationConfig(thresholds=(0.25, 2.0), holds=(1,), precision=0.9)
    assert calibrate(TRACES, config).settings.threshold == 0.25
    config = CalibrationConfig(thresholds=(2.0,), holds=(1,), precision=0.9)
    assert not calibrate(TRACES, config).reached


def test_few_labels_are_not_taken_at_their_word():
    # 8 of 8 right expects (8 + 1) / (8 + 2) = 0.9; 4 of 4 expects 5 / 6 and is not enough.
    config = CalibrationConfig(thresholds=(0.5,), holds=(3,), minimum_labels=4)
    found = calibrate(TRACES, config)
    assert found.quality.expected_precision == pytest.approx(0.9)
    assert found.reached
    assert not calibrate(TRACES[4:], config).reached


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
