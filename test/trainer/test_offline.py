"""Improvement from bags alone: what a decision weighs, what it does to the policy, versions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from trainer.test_versions_and_runs import start
from trainer.toy import GUARD, SIDE, SPACE, ToyBrain, ToyRobot, toy_model, toy_plan

from efm_core.bags import list_episodes
from efm_core.checkpoint import verify_checkpoint
from efm_core.episode import Mode
from efm_core.registry import Registry
from efm_model.config import CameraSpec
from efm_trainer.data import load_episodes
from efm_trainer.features import FeatureCache
from efm_trainer.improve import trainable, weights_of
from efm_trainer.jobs import Workplace
from efm_trainer.offline import OfflineSettings, _weight, improve_offline
from efm_trainer.offline_run import OfflineJob, improve_offline_job
from efm_trainer.rollout import InProcessFleet
from efm_trainer.round_batch import RoundRefusedError, behaviour_log_prob, gather, join
from efm_trainer.versions import Making, save_version

SETTINGS = OfflineSettings(minibatch=32, passes=3)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Practice bags of two policy versions under one reward."""
    root = tmp_path_factory.mktemp("offline")
    fleet = InProcessFleet([ToyRobot() for _ in range(2)], GUARD, data_dir=root)
    for version, seed in (("p0", 1), ("p1", 5)):
        brain = ToyBrain(toy_model(seed), toy_model(2), version, "r0")
        plan = toy_plan(Mode.PRACTICE, 8, version, limit=12, policy_version=version)
        fleet.practise(plan, brain)
    return root


def decisions(data_dir, policy):
    episodes, skipped = load_episodes(list_episodes(data_dir / "practice"))
    assert (len(episodes), skipped) == (16, [])
    gathered = gather(episodes, toy_model(2), FeatureCache(policy), SETTINGS, None, "r0")
    return join(gathered, policy, SETTINGS)


def test_an_importance_weight_is_clipped_on_one_side_and_by_length():
    settings = OfflineSettings(method="importance", limit=1.0)
    log_prob = torch.log(torch.tensor([[0.5, 0.5], [0.1, 0.1], [0.9, 0.9]]))
    recorded = torch.log(torch.full((3,), 0.25))
    weight = _weight(log_prob, recorded, torch.zeros(3), settings)
    # The geometric mean of two tokens: 0.5 / 0.5, 0.1 / 0.5, and 0.9 / 0.5 cut to 1.
    assert weight.tolist() == pytest.approx([1.0, 0.2, 1.0])
    tapered = settings.model_copy(update={"method": "tapered"})
    weight = _weight(log_prob, recorded, torch.tensor([-1.0, 1.0, 1.0]), tapered)
    assert weight.tolist() == pytest.approx([1.0, 1.0, 1.0])
    weight = _weight(log_prob, recorded, torch.full((3,), -1.0), tapered)
    assert weight.tolist() == pytest.approx([1.0, 0.2, 1.0])


def test_a_preferred_decision_is_cloned_more_up_to_the_limit():
    settings = OfflineSettings(method="weighted", beta=2.0, heaviest=3.0)
    weight = _weight(torch.zeros(3, 2), torch.zeros(3), torch.tensor([-2.0, 0.0, 9.0]), settings)
    assert weight.tolist() == pytest.approx([np.exp(-1.0), 1.0, 3.0])


def test_recorded_log_probabilities_are_those_of_who_acted(data_dir):
    batch, recorded = decisions(data_dir, toy_model(1))
    mine = batch.log_prob.sum(axis=1)
    other = behaviour_log_prob(toy_model(5), batch.features, batch.bins, batch.temperature)
    same = np.isclose(mine, recorded, atol=1e-4)
    theirs = np.isclose(other.sum(axis=1), recorded, atol=1e-4)
    assert same.any()
    assert theirs.any()
    assert (same | theirs).all()


@pytest.mark.parametrize("method", ["importance", "tapered", "weighted"])
def test_what_went_better_than_expected_becomes_likelier(data_dir, method):
    policy = toy_model(1)
    batch, recorded = decisions(data_dir, policy)
    settings = SETTINGS.model_copy(update={"method": method, "heaviest": 3.0, "passes": 20})
    reports = []
    improve_offline(policy, batch, recorded, settings, 0, lambda _, report: reports.append(report))
    after = behaviour_log_prob(policy, batch.features, batch.bins, batch.temperature)
    change = (after - batch.log_prob).sum(axis=1)
    advantage = weights_of(batch, settings)
    assert change[advantage > 1].mean() > change[advantage < -1].mean() + 0.05
    assert len(reports) == 20
    # Of the importance-weighted losses the gradient is wanted, not the value.
    assert method != "weighted" or reports[-1].loss < reports[0].loss
    trunk = dict(toy_model(1).trunk.state_dict())
    assert all(torch.equal(v, trunk[k]) for k, v in policy.trunk.state_dict().items())


def test_the_same_seed_gives_the_same_weights(data_dir):
    ends = []
    for _ in range(2):
        policy = toy_model(1)
        improve_offline(policy, *decisions(data_dir, policy), SETTINGS, 4)
        ends.append([p.detach().clone() for p in trainable(policy)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_too_few_decisions_are_refused(data_dir):
    policy = toy_model(1)
    many = SETTINGS.model_copy(update={"minibatch": 10_000})
    with pytest.raises(ValueError, match="fewer than minibatch"):
        improve_offline(policy, *decisions(data_dir, policy), many, 0)


def test_a_version_comes_out_of_a_folder_of_bags(data_dir, tmp_path):
    registry = Registry(tmp_path / "models")
    start(registry)
    camera = CameraSpec(width=SIDE, height=SIDE)
    place = Workplace(registry, data_dir, tmp_path / "run", SPACE, (camera,))
    job = OfflineJob(policy="p0", reward="r0", settings=SETTINGS)
    found = improve_offline_job(place, job, lambda *_: None, lambda: False)
    assert found["acted"] == {"p0": 8, "p1": 8}
    manifest = verify_checkpoint(registry.path(found["policy"]))
    assert (manifest.role, manifest.parent) == ("policy", "p0")
    assert manifest.algorithm == "offline_tapered"
    assert len(manifest.data_ids) == 16
    assert registry.alias("candidate") == found["policy"] == "offline"
    assert json.loads((tmp_path / "run" / "offline" / "result.json").read_text()) == found
    assert len((tmp_path / "run" / "offline" / "metrics.jsonl").read_text().splitlines()) == 3
    again = improve_offline_job(place, job, lambda *_: None, lambda: False)
    assert again["policy"] == "offline-2"


def test_bags_of_another_reward_version_are_refused(data_dir, tmp_path):
    registry = Registry(tmp_path / "models")
    start(registry)
    place = Workplace(
        registry, data_dir, tmp_path / "run", SPACE, (CameraSpec(width=SIDE, height=SIDE),)
    )
    save_version(registry.root, "r1", toy_model(2), Making(role="reward", algorithm="sft"))
    with pytest.raises(RoundRefusedError, match="reward version"):
        improve_offline_job(
            place, OfflineJob(policy="p0", reward="r1", settings=SETTINGS),
            lambda *_: None, lambda: False,
        )  # fmt: skip
