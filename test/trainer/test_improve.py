from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from trainer.toy import GUARD, ToyBrain, ToyRobot, toy_model, toy_plan

from efm_core.episode import Mode, Outcome
from efm_trainer.features import FeatureCache
from efm_trainer.improve import ImproveSettings, new_optimizer, trainable, update, weights_of
from efm_trainer.rollout import InProcessFleet
from efm_trainer.round_batch import RoundRefusedError, behaviour_log_prob, build_round


@pytest.fixture(scope="module")
def practised():
    """Twelve practice episodes of a random policy with a random reward model."""
    policy, reward = toy_model(1), toy_model(2)
    fleet = InProcessFleet([ToyRobot() for _ in range(4)], GUARD)
    plan = toy_plan(Mode.PRACTICE, 12, temperature=0.8)
    episodes = fleet.practise(plan, ToyBrain(policy, reward))
    return policy, reward, [e.data for e in episodes]


def build(practised, settings=None, episodes=None, policy=None, versions=("p0", "r0")):
    acted, reward, data = practised
    policy = policy or acted
    settings = settings or ImproveSettings()
    cache = FeatureCache(policy)
    return build_round(
        episodes if episodes is not None else data, policy, reward, cache, settings, *versions
    )


def replaced(practised, index, **changes):
    data = list(practised[2])
    data[index] = dataclasses.replace(data[index], **changes)
    return data


def test_round_recomputes_what_the_robot_published(practised):
    batch = build(practised)
    decisions = sum(episode.end_row for episode in practised[2])
    assert batch.report["decisions"] == decisions
    assert batch.report["log_prob_difference"] < 1e-5
    assert batch.report["steps_to_go_difference"] < 1e-5
    assert len(batch) == batch.report["decisions_used"] <= decisions


def test_weights_of_another_policy_are_refused(practised):
    other = copy.deepcopy(practised[0])
    with torch.no_grad():
        for parameter in other.action_head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    with pytest.raises(RoundRefusedError, match="log-probabilities"):
        build(practised, policy=other)


def test_another_temperature_is_refused(practised):
    data = [dataclasses.replace(e, temperature=e.temperature * 2) for e in practised[2]]
    with pytest.raises(RoundRefusedError, match="log-probabilities"):
        build(practised, episodes=data)
    mixed = replaced(practised, 0, temperature=practised[2][0].temperature * 2)
    with pytest.raises(RoundRefusedError, match="mixed"):
        build(practised, episodes=mixed)


def test_steps_to_go_that_were_not_the_live_ones_are_refused(practised):
    live = practised[2][3].steps_to_go.copy()
    live[1] += 2e-3
    with pytest.raises(RoundRefusedError, match="steps-to-go recomputed"):
        build(practised, episodes=replaced(practised, 3, steps_to_go=live))


def test_another_version_is_refused(practised):
    with pytest.raises(RoundRefusedError, match="policy version"):
        build(practised, versions=("p1", "r0"))
    with pytest.raises(RoundRefusedError, match="reward version"):
        build(practised, versions=("p0", "r1"))


def test_interrupted_episodes_are_counted_and_left_out(practised):
    record = practised[2][2].record.model_copy(
        update={"outcome": Outcome.INTERRUPTED, "termination_reason": "crash"}
    )
    batch = build(practised, episodes=replaced(practised, 2, record=record))
    assert batch.report["episodes_dropped/interrupted"] == 1.0
    assert batch.report["decisions"] == sum(
        e.end_row for i, e in enumerate(practised[2]) if i != 2
    )


def test_modified_ticks_have_no_loss(practised):
    modified = practised[2][0].modified.copy()
    modified[:] = True
    batch = build(practised, episodes=replaced(practised, 0, modified=modified))
    whole = build(practised)
    lost = practised[2][0].end_row - int(practised[2][0].modified[: practised[2][0].end_row].sum())
    assert len(batch) == len(whole) - lost


def test_reinforce_is_the_papers_gradient(practised):
    """One minibatch step of plain descent equals -lr * d/dw mean(-c R_t log pi)."""
    settings = ImproveSettings.paper()
    batch = build(practised, settings)
    settings = settings.model_copy(update={"minibatch": len(batch)})
    model = copy.deepcopy(practised[0])
    optimizer = torch.optim.SGD(trainable(model), lr=0.1)
    manual = copy.deepcopy(model)
    log_prob, _ = manual.log_prob(
        torch.from_numpy(batch.features), torch.from_numpy(batch.bins), batch.temperature
    )
    loss = -(0.05 * torch.from_numpy(batch.returns).float() * log_prob).mean()
    gradients = torch.autograd.grad(loss, trainable(manual))
    update(model, optimizer, batch, settings, seed=0)
    for after, before, gradient in zip(trainable(model), trainable(manual), gradients, strict=True):
        torch.testing.assert_close(after, before - 0.1 * gradient, atol=1e-6, rtol=1e-4)


def test_paper_returns_are_zero_past_the_end(practised):
    batch = build(practised, ImproveSettings.paper())
    episode = practised[2][0]
    d = episode.steps_to_go[: episode.end_row + 1]
    used = ~episode.modified[: episode.end_row]
    expected = sum(0.9**k * (d[k] - d[k + 1]) for k in range(len(d) - 1))
    assert used[0]
    assert batch.returns[0] == pytest.approx(expected, abs=1e-4)


def test_weights_are_standardised_and_clipped(practised):
    batch = build(practised)
    weights = weights_of(batch, ImproveSettings(clip_advantage=1.5))
    free = weights_of(batch, ImproveSettings(clip_advantage=1e9))
    assert np.abs(weights).max() <= 1.5
    assert free.mean() == pytest.approx(0.0, abs=1e-9)
    assert free.std() == pytest.approx(1.0)


def test_first_clipped_step_is_the_policy_gradient_and_later_ones_are_bounded(practised):
    batch = build(practised)
    one = ImproveSettings(
        algorithm="clipped_ratio", minibatch=len(batch), entropy_bonus=0.0, gradient_norm=1e9
    )
    plain = one.model_copy(update={"algorithm": "reinforce_baseline"})
    models = [copy.deepcopy(practised[0]) for _ in range(2)]
    for model, settings in zip(models, (one, plain), strict=True):
        update(model, torch.optim.SGD(trainable(model), lr=1e-3), batch, settings, seed=0)
    for a, b in zip(trainable(models[0]), trainable(models[1]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)  # the ratio is 1 at first
    many = one.model_copy(update={"minibatch": 32, "passes": 30, "learning_rate": 1e-2})
    model = copy.deepcopy(practised[0])
    update(model, new_optimizer(model, many), batch, many, seed=0)
    after = behaviour_log_prob(model, batch.features, batch.bins, batch.temperature)
    ratio = np.exp(after - batch.log_prob)
    assert np.median(np.abs(ratio - 1.0)) < 1.0


def test_update_raises_the_probability_of_good_decisions(practised):
    batch = build(practised)
    settings = ImproveSettings(minibatch=32, learning_rate=1e-3, passes=2)
    model = copy.deepcopy(practised[0])
    update(model, new_optimizer(model, settings), batch, settings, seed=0)
    after = behaviour_log_prob(model, batch.features, batch.bins, batch.temperature)
    change = (after - batch.log_prob).sum(axis=1)
    weights = weights_of(batch, settings)
    assert (change * weights).mean() > 0.0
    for name, value in model.state_dict().items():
        if not name.startswith("action_head."):
            torch.testing.assert_close(value, practised[0].state_dict()[name], rtol=0, atol=0)


def test_update_is_repeatable(practised):
    batch = build(practised)
    settings = ImproveSettings(minibatch=32)
    models = [copy.deepcopy(practised[0]) for _ in range(2)]
    for model in models:
        update(model, new_optimizer(model, settings), batch, settings, seed=5)
    for a, b in zip(trainable(models[0]), trainable(models[1]), strict=True):
        assert torch.equal(a, b)


def test_too_few_decisions_are_refused(practised):
    batch = build(practised)
    with pytest.raises(ValueError, match="fewer than minibatch"):
        update(
            practised[0], new_optimizer(practised[0], ImproveSettings()), batch,
            ImproveSettings(minibatch=10_000), 0,
        )  # fmt: skip
