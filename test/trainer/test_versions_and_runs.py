from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from trainer.toy import GUARD, ToyBrain, ToyPerson, ToyRobot, toy_model, toy_plan

from efm_core.checkpoint import CheckpointError, verify_checkpoint
from efm_core.detector import DetectorSettings
from efm_core.episode import Labels, Mode
from efm_core.registry import Registry
from efm_model.inference import Engine
from efm_trainer.calibrate import CalibrationConfig
from efm_trainer.calibrate_run import run_calibration
from efm_trainer.features import FeatureCache
from efm_trainer.improve import ImproveSettings, trainable
from efm_trainer.improve_run import PracticeStart, open_practice, saved_episodes
from efm_trainer.practice import PracticeSettings, round_plan
from efm_trainer.recording import record_episode
from efm_trainer.rollout import InProcessFleet
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_run import horizon, run_sft
from efm_trainer.versions import Making, free_name, load_version, save_version

QUICK = SftConfig(steps=20, batch=16, validate_every=10, validation_share=0.3)


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "models")


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    root = tmp_path_factory.mktemp("demonstrations")
    plan = toy_plan(Mode.DEMO, 12, policy_version="", reward_version="")
    fleet = InProcessFleet([ToyRobot(), ToyRobot()], GUARD, data_dir=root)
    fleet.demonstrate(plan, lambda _: ToyPerson())
    return root / "demo"


def test_a_version_is_written_verified_and_read_back(registry):
    model = toy_model(3)
    making = Making(role="reward", algorithm="sft", detector=DetectorSettings(threshold=0.9))
    path = save_version(registry.root, "r0", model, making)
    assert verify_checkpoint(path).detector == DetectorSettings(threshold=0.9)
    loaded, manifest = load_version(registry, "r0", "reward")
    assert manifest.trunk_hash
    assert all(torch.equal(a, b) for a, b in zip(
        model.state_dict().values(), loaded.state_dict().values(), strict=True
    ))  # fmt: skip
    with pytest.raises(CheckpointError, match="role is reward"):
        load_version(registry, "r0", "policy")
    assert free_name(registry, "r0") == "r0-2"
    assert free_name(registry, "r1") == "r1"


def test_fine_tuning_reads_bags_and_publishes_two_roles(registry, demonstrations, tmp_path):
    wanted = []

    def make(steps):
        wanted.append(steps)
        return toy_model()

    outcome = run_sft(registry, demonstrations, make, QUICK, tmp_path / "run")
    assert (outcome.policy, outcome.reward) == ("sft-policy", "sft-reward")
    assert wanted[0] >= 5
    policy, reward = (verify_checkpoint(registry.path(v)) for v in registry.versions())
    assert (policy.role, reward.role) == ("policy", "reward")
    assert policy.trunk_hash == reward.trunk_hash
    assert len(policy.data_ids) == 12
    assert json.dumps(outcome.figures())
    engine = Engine.load(
        registry.path("sft-policy"), registry.path("sft-reward"), backend="torch"
    )
    fleet = InProcessFleet([ToyRobot()], GUARD)
    assert fleet.practise(toy_plan(Mode.PRACTICE, 1), engine)[0].record.policy_version


def test_nothing_to_learn_from_is_said(registry, tmp_path):
    with pytest.raises(ValueError, match="no usable episode"):
        run_sft(registry, tmp_path, lambda _: toy_model(), QUICK, tmp_path / "run")


def test_horizon_is_an_upper_percentile_of_successes(demonstrations):
    fleet = InProcessFleet([ToyRobot()], GUARD)
    plan = toy_plan(Mode.DEMO, 10, policy_version="", reward_version="")
    episodes = [e.data for e in fleet.demonstrate(plan, lambda _: ToyPerson())]
    lengths = sorted(e.record.ticks for e in episodes)
    assert lengths[-2] <= horizon(episodes) <= lengths[-1]
    failed = {"labels": Labels(operator=False)}
    silent = [dataclasses.replace(e, record=e.record.model_copy(update=failed)) for e in episodes]
    with pytest.raises(ValueError, match="no episode is labelled"):
        horizon(silent)


def test_calibration_writes_a_reward_version_that_says_on_what(registry, tmp_path):
    model = toy_model(2)
    save_version(registry.root, "r0", model, Making(role="reward", algorithm="sft"))
    fleet = InProcessFleet([ToyRobot(), ToyRobot()], GUARD, data_dir=tmp_path)
    plan = toy_plan(Mode.CALIBRATION, 10, end_on_success=False)
    episodes = fleet.practise(plan, ToyBrain(toy_model(1), model), oracle=True)
    labels = [e.record.labels.operator for e in episodes]
    assert True in labels
    assert False in labels
    version, found, skipped = run_calibration(
        registry, tmp_path / "calibration", "r0", CalibrationConfig(minimum_labels=1)
    )
    assert not skipped
    manifest = verify_checkpoint(registry.path(version))
    assert version == "r0-calibrated"
    assert (manifest.role, manifest.parent) == ("reward", "r0")
    assert manifest.detector == found.settings
    assert sorted(manifest.calibrated_on) == sorted(e.record.episode_id for e in episodes)
    assert manifest.metrics["detector/episodes"] == 10.0
    assert found.label_sources == ("oracle",)


SETTINGS = PracticeSettings(
    name="toy", robots=("toy",), rounds=3, episodes_per_round=5, limit=8, entropy_floor=0.0,
    improve=ImproveSettings(minibatch=16),
)  # fmt: skip


def start(registry):
    for version, role, seed in (("p0", "policy", 1), ("r0", "reward", 2)):
        save_version(registry.root, version, toy_model(seed), Making(role=role, algorithm="sft"))
    return PracticeStart("p0", "r0")


def collector(registry, data_dir):
    fleet = InProcessFleet([ToyRobot(), ToyRobot()], GUARD, data_dir=data_dir)

    def collect(plan):
        brain = Engine.load(
            registry.path(plan.policy_version), registry.path("r0"), backend="torch"
        )
        fleet.practise(plan, brain)
        return saved_episodes(data_dir / plan.data_set, plan)[0]

    return collect


def test_practice_from_bags_goes_on_exactly_after_a_kill(registry, tmp_path):
    begin = start(registry)
    whole = open_practice(registry, SETTINGS, begin, collector(registry, tmp_path / "a"))
    assert len(whole.run()) == 3
    assert registry.versions() == ["p0", "r0", "toy-r000", "toy-r001", "toy-r002"]
    manifest = verify_checkpoint(registry.path("toy-r002"))
    assert (manifest.parent, manifest.round) == ("toy-r001", 2)
    assert manifest.reward_version == "r0"
    assert manifest.reward_hash == verify_checkpoint(registry.path("r0")).files["model.safetensors"]

    other = Registry(tmp_path / "killed")
    begin = start(other)
    first = open_practice(other, SETTINGS, begin, collector(other, tmp_path / "b"))
    first.one_round()  # killed after this
    second = open_practice(other, SETTINGS, begin, collector(other, tmp_path / "b"))
    assert second.round == 1
    second.run()
    for a, b in zip(trainable(whole.policy), trainable(second.policy), strict=True):
        assert torch.equal(a, b)


def test_another_run_under_the_same_name_is_refused(registry, tmp_path):
    begin = start(registry)
    open_practice(registry, SETTINGS, begin, collector(registry, tmp_path)).one_round()
    other = SETTINGS.model_copy(update={"temperature": 0.6})
    with pytest.raises(ValueError, match="another name"):
        open_practice(registry, other, begin, collector(registry, tmp_path))
    more = SETTINGS.model_copy(update={"rounds": 5})
    assert open_practice(registry, more, begin, collector(registry, tmp_path)).round == 1


def test_a_plans_episodes_count_once(registry, tmp_path):
    plan = round_plan(SETTINGS, 0, "p0", "r0")
    fleet = InProcessFleet([ToyRobot()], GUARD, data_dir=tmp_path)
    episodes = fleet.practise(plan, ToyBrain(toy_model(1), toy_model(2)))
    twin = dataclasses.replace(
        episodes[0],
        record=episodes[0].record.model_copy(
            update={"episode_id": "00000000-0000-4000-8000-000000000000",
                    "start_ns": episodes[0].record.start_ns + 1}
        ),
    )  # fmt: skip
    record_episode(tmp_path / plan.data_set, twin)
    found, skipped = saved_episodes(tmp_path / plan.data_set, plan)
    assert not skipped
    assert sorted(e.record.index for e in found) == [0, 1, 2, 3, 4]
    assert twin.record.episode_id not in {e.record.episode_id for e in found}
    FeatureCache(toy_model(1)).features(found[0])
