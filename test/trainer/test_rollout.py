from __future__ import annotations

import numpy as np
import pytest
from trainer.toy import GUARD, SPACE, ToyBrain, ToyPerson, ToyRobot, toy_model, toy_plan

from efm_core.actions import ActionSpace
from efm_core.detector import DetectorSettings
from efm_core.episode import Mode, Outcome
from efm_core.guard import GuardSettings
from efm_core.observation import StepsToGo, draws
from efm_trainer.progress import TrainingCancelledError
from efm_trainer.rollout import InProcessFleet


class CountingDown(ToyBrain):
    """A reward model that sees success at tick 6."""

    def infer(self, observations, draws, temperature):
        decisions, _ = super().infer(observations, draws, temperature)
        return decisions, [StepsToGo(max(6.0 - o.tick, 0.0), 0.0) for o in observations]


def fleet(robots: int = 2, **changes: object) -> InProcessFleet:
    return InProcessFleet([ToyRobot() for _ in range(robots)], GUARD, **changes)


def brain(kind: type[ToyBrain] = ToyBrain) -> ToyBrain:
    detector = DetectorSettings(threshold=0.5, hold=2, minimum_ticks=0)
    return kind(toy_model(1), toy_model(2), detector=detector)


def test_detector_ends_practice_and_still_frames_follow():
    episode = fleet().practise(toy_plan(Mode.PRACTICE, 1), brain(CountingDown))[0]
    record, data = episode.record, episode.data
    # d <= 0.5 at ticks 6 and 7: held for two ticks, so success at observation 7.
    assert (record.ticks, record.success_tick, record.outcome) == (7, 7, Outcome.SUCCESS)
    assert record.termination_reason == "detector"
    assert len(data) == 7 + 1 + 4
    assert (data.source[:7] == 1).all()
    assert (data.source[7:11] == 0).all()
    assert (data.executed[7:11] == 0.0).all()
    assert record.end_ns == data.stamps[7]
    images = data.images["front"]
    assert (images[8:] == images[7]).all()  # the arm is held


def test_time_limit_observes_the_last_state_without_acting():
    episode = fleet().practise(toy_plan(Mode.PRACTICE, 1, limit=5), brain())[0]
    assert (episode.record.ticks, episode.record.termination_reason) == (5, "timeout")
    assert episode.record.outcome is Outcome.FAILURE
    assert len(episode.data) == 6
    assert np.isfinite(episode.data.steps_to_go).all()
    assert episode.data.source.tolist() == [1] * 5 + [-1]


def test_detector_does_not_end_an_evaluation():
    episode = fleet().practise(toy_plan(Mode.EVALUATION, 1, limit=12), brain(CountingDown))[0]
    assert (episode.record.ticks, episode.record.success_tick) == (12, 7)
    assert len(episode.data) == 13
    assert episode.data.record.labels.truth is None
    assert episode.record.labels.truth == bool(episode.truth.any())


def test_an_evaluation_may_stop_once_everything_counted_is_known():
    plan = toy_plan(Mode.EVALUATION, 12, limit=20)
    whole = fleet().practise(plan, brain(CountingDown))
    short = fleet().practise(plan, brain(CountingDown), decided_stop=True)
    for a, b in zip(whole, short, strict=True):
        assert a.truth.any() == b.truth.any()
        assert a.detected_at == b.detected_at == 7
        assert a.truth[7] == b.truth[7]
    assert sum(e.record.ticks for e in short) < sum(e.record.ticks for e in whole)


def test_robots_and_batching_change_no_decision():
    plan = toy_plan(Mode.PRACTICE, 7)
    one = fleet(1).practise(plan, brain())
    many = fleet(5).practise(plan, brain())
    for a, b in zip(one, many, strict=True):
        assert a.record.episode_id == b.record.episode_id
        np.testing.assert_array_equal(a.data.bins, b.data.bins)
        np.testing.assert_allclose(a.data.steps_to_go, b.data.steps_to_go, atol=1e-4)


def test_decisions_come_from_the_seeded_draws():
    episode = fleet().practise(toy_plan(Mode.PRACTICE, 1, seed=3), brain())[0]
    model = toy_model(1)
    row = episode.rows[2]
    numbers = draws(3, episode.record.episode_id, 2, SPACE.tokens)[None]
    decisions, _ = ToyBrain(model, model).infer([row.observation], numbers, 0.8)
    np.testing.assert_array_equal(decisions[0].bins.reshape(-1), episode.data.bins[2])


def test_demonstrations_move_through_the_guard_and_end_by_the_operator():
    plan = toy_plan(Mode.DEMO, 3, policy_version="", reward_version="")
    for episode in fleet().demonstrate(plan, lambda _: ToyPerson()):
        end = episode.record.ticks
        assert (episode.data.source[:end] == 2).all()
        assert (episode.data.bins == -1).all()
        assert episode.record.labels.operator is True
        assert episode.record.labels.operator_source == "oracle"
        assert episode.record.outcome is Outcome.SUCCESS
        assert episode.truth[end]
        assert not episode.truth[:end].any()


def test_calibration_episodes_are_labelled_by_the_oracle():
    plan = toy_plan(Mode.CALIBRATION, 2, end_on_success=False)
    for episode in fleet().practise(plan, brain(), oracle=True):
        assert episode.data.record.labels.operator == bool(episode.truth.any())


def test_a_saved_state_can_be_the_scene():
    plan = toy_plan(Mode.PRACTICE, 1)
    planned = plan.episodes["toy"][0].model_copy(
        update={"scene": {"state": {"position": [0.1, 0.2]}}}
    )
    plan = plan.model_copy(update={"episodes": {"toy": (planned,)}})
    episode = fleet().practise(plan, brain())[0]
    assert episode.data.state["ee_x"][0] == 0.1


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="lockstep"):
        InProcessFleet([], GuardSettings(space=SPACE, clock="real"))
    other = ActionSpace(dims=SPACE.dims, rate=5.0)
    with pytest.raises(ValueError, match="action space differs"):
        InProcessFleet([], GuardSettings(space=other)).practise(
            toy_plan(Mode.PRACTICE, 1), brain()
        )
    with pytest.raises(ValueError, match="expected demo"):
        fleet().demonstrate(toy_plan(Mode.PRACTICE, 1), lambda _: ToyPerson())
    with pytest.raises(TrainingCancelledError):
        fleet().practise(toy_plan(Mode.PRACTICE, 1), brain(), cancelled=lambda: True)
