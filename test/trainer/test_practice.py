from __future__ import annotations

import copy

import pytest
import torch
from trainer.toy import GUARD, ToyBrain, ToyRobot, toy_model

from efm_core.episode import Mode
from efm_trainer.features import FeatureCache
from efm_trainer.improve import ImproveSettings, new_optimizer, trainable
from efm_trainer.optimizer_state import optimizer_tensors, restore_optimizer
from efm_trainer.practice import Practice, PracticeSettings, round_plan, window_means
from efm_trainer.progress import TrainingCancelledError
from efm_trainer.rollout import InProcessFleet

SETTINGS = PracticeSettings(
    name="toy", robots=("a", "b"), rounds=3, episodes_per_round=6, limit=10, entropy_floor=0.0,
    improve=ImproveSettings(minibatch=16),
)  # fmt: skip


def practice(settings=SETTINGS, published=None, **changes) -> Practice:
    policy, reward = toy_model(1), toy_model(2)
    fleet = InProcessFleet([ToyRobot() for _ in range(3)], GUARD)
    kept = published if published is not None else {}
    run = Practice(
        settings, policy, reward, "sft", "r0", lambda plan: (), lambda *_: None,
        FeatureCache(policy),
    )  # fmt: skip

    def collect(plan):
        return [e.data for e in fleet.practise(plan, ToyBrain(policy, reward, run.version, "r0"))]

    def publish(model, optimizer, version, number, metrics):
        kept[version] = (copy.deepcopy(model.state_dict()), optimizer_tensors(optimizer), number)

    run.collect, run.publish = collect, publish
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def test_rounds_publish_one_version_each():
    published, reports = {}, []
    practice(published=published).run(on_round=reports.append)
    assert list(published) == ["toy-r000", "toy-r001", "toy-r002"]
    assert [(r.acted, r.published) for r in reports] == [
        ("sft", "toy-r000"), ("toy-r000", "toy-r001"), ("toy-r001", "toy-r002"),
    ]  # fmt: skip
    assert all(r.metrics["episodes/count"] == 6.0 for r in reports)
    assert all(0.0 <= r.detected <= 1.0 for r in reports)


def test_a_resumed_practice_gives_the_same_weights():
    published = {}
    whole = practice(published=published)
    whole.run()
    weights, moments, number = published["toy-r001"]
    resumed = practice()
    resumed.policy.load_state_dict(weights)
    resumed.optimizer = new_optimizer(resumed.policy, SETTINGS.improve)
    restore_optimizer(resumed.optimizer, moments)
    resumed.version, resumed.round = "toy-r001", number + 1
    resumed.run()
    for a, b in zip(trainable(whole.policy), trainable(resumed.policy), strict=True):
        assert torch.equal(a, b)


def test_a_round_is_drawn_in_advance_and_dealt_out():
    plan = round_plan(SETTINGS, 2, "p", "r")
    assert plan == round_plan(SETTINGS, 2, "p", "r")
    assert plan != round_plan(SETTINGS, 1, "p", "r").model_copy(
        update={"plan_id": plan.plan_id, "round": 2}
    )
    assert plan.mode is Mode.PRACTICE
    assert plan.end_on_success
    assert [[e.index for e in robot] for robot in plan.episodes.values()] == [[0, 2, 4], [1, 3, 5]]
    real = SETTINGS.model_copy(update={"simulated": False, "instructions": ("go", "come")})
    for episode in round_plan(real, 0, "p", "r").episodes["a"]:
        assert episode.scene == {}
        assert episode.instruction in ("go", "come")


def test_practice_stops_when_nothing_is_explored_any_more():
    settings = SETTINGS.model_copy(update={"entropy_floor": 100.0})
    reports = practice(settings).run()
    assert len(reports) == 1
    assert "entropy" in reports[0].stop


def test_practice_stops_past_its_peak():
    settings = SETTINGS.model_copy(update={"window": 2, "drop": 0.2})
    run = practice(settings, detections=[0.9, 0.9, 0.3])
    assert "fell" in run.run()[0].stop
    assert window_means([1.0, 0.0, 0.5], 2) == [0.5, 0.25]


def test_practice_can_be_cancelled_between_rounds():
    with pytest.raises(TrainingCancelledError, match="before round 0"):
        practice().run(cancelled=lambda: True)
