"""The network: its distributions add up, and nothing reaches a frozen trunk."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from model.conftest import make_model, pictures

from efm_model.losses import action_loss, steps_to_go_loss


def features_of(model, observations):
    return model.features(*model.preprocessor.batch(observations))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_probabilities_of_all_token_pairs_sum_to_one(model, temperature):
    features = features_of(model, pictures(1))
    pairs = torch.tensor(list(itertools.product(range(5), range(3))))
    log_prob, _ = model.log_prob(features.expand(len(pairs), -1), pairs, temperature)
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 3])
def test_log_probability_of_a_sample_is_that_of_its_tokens(chunk):
    model = make_model(chunk=chunk)
    features = features_of(model, pictures(20))
    draws = np.random.default_rng(1).random((20, 2 * chunk))
    bins, sampled, entropy = model.sample(features, draws, 0.8)
    again, entropy_again = model.log_prob(features, torch.from_numpy(bins), 0.8)
    np.testing.assert_allclose(sampled, again.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(entropy, entropy_again.detach().numpy(), atol=1e-5)


def test_samples_follow_the_distribution(model):
    features = features_of(model, pictures(1))
    count = 4000
    draws = np.random.default_rng(2).random((count, 2))
    bins, _, _ = model.sample(features.expand(count, -1), draws, 1.0)
    for x, y in itertools.product(range(5), range(3)):
        p = model.log_prob(features, torch.tensor([[x, y]]), 1.0)[0].exp().item()
        found = np.mean((bins[:, 0] == x) & (bins[:, 1] == y))
        assert found == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / count) + 1e-3)


def test_greedy_takes_the_most_probable_token_whatever_the_draw(model):
    features = features_of(model, pictures(1))
    one, sure, _ = model.sample(features, np.array([[0.01, 0.99]]), 0.0)
    other, _, _ = model.sample(features, np.array([[0.99, 0.01]]), 0.0)
    assert np.array_equal(one, other)
    assert sure[0] == 0.0


def test_lower_temperature_has_lower_entropy(model):
    features = features_of(model, pictures(5))
    bins = torch.zeros(5, 2, dtype=torch.int64)
    _, cold = model.log_prob(features, bins, 0.3)
    _, warm = model.log_prob(features, bins, 1.0)
    assert torch.all(cold < warm)


def test_no_gradient_reaches_a_frozen_trunk(model):
    model.freeze_trunk()
    model.train()
    features = features_of(model, pictures(4))
    log_prob, _ = model.log_prob(features, torch.zeros(4, 2, dtype=torch.int64), 1.0)
    (log_prob.sum() + model.steps_to_go_logits(features).sum()).backward()
    assert all(p.grad is None for p in model.trunk.parameters())
    assert all(p.grad is not None for p in model.steps_to_go_head.parameters())
    assert not model.trunk.training


def test_a_trunk_that_is_not_frozen_learns(model):
    features = features_of(model, pictures(4))
    model.steps_to_go_logits(features).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.trunk.parameters())


def test_sixteen_samples_are_learnt_by_heart(model):
    torch.manual_seed(0)
    observations = pictures(16)
    rng = np.random.default_rng(0)
    bins = torch.from_numpy(np.stack([rng.integers(0, 5, 16), rng.integers(0, 3, 16)], 1))
    steps = rng.integers(0, 8, 16)
    targets = torch.from_numpy(model.config.steps_to_go.soft_targets(steps, 0.0))
    features = features_of(model, observations).detach()
    optimizer = torch.optim.Adam(model.head_parameters(), lr=3e-3)
    for _ in range(300):
        loss = action_loss(model.action_logits(features, bins), bins)
        loss = loss + steps_to_go_loss(model.steps_to_go_logits(features), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    greedy, _, _ = model.sample(features, np.full((16, 2), 0.5), 0.0)
    assert np.array_equal(greedy, bins.numpy())
    probabilities = torch.softmax(model.steps_to_go_logits(features), -1).detach().numpy()
    np.testing.assert_allclose(
        model.config.steps_to_go.expectation(probabilities), steps, atol=0.5
    )


def test_wrong_sizes_are_named(model):
    with pytest.raises(ValueError, match=r"expected uint8 \(B"):
        model.features(np.zeros((1, 1, 8, 8, 3), np.uint8), np.zeros((1, 6), np.int64))
    observation = pictures(1)[0]
    with pytest.raises(ValueError, match="camera 'cam0' is missing"):
        model.preprocessor.images({"other": observation.images["cam0"]})
