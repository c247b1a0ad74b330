"""Truth in copied bags is replaced by noise: no weight and no threshold may change by a bit."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from mcap.reader import make_reader
from mcap.writer import Writer
from trainer.toy import GUARD, ToyBrain, ToyPerson, ToyRobot, toy_model, toy_plan

from efm_core import messages
from efm_core.bags import EpisodeReader, list_episodes
from efm_core.episode import Mode
from efm_core.registry import Registry
from efm_trainer.calibrate import CalibrationConfig
from efm_trainer.calibrate_run import run_calibration
from efm_trainer.features import FeatureCache
from efm_trainer.improve import ImproveSettings, new_optimizer, update
from efm_trainer.improve_run import saved_episodes
from efm_trainer.rollout import InProcessFleet
from efm_trainer.round_batch import build_round
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_run import run_sft
from efm_trainer.sft_state import head_weights

QUICK = SftConfig(steps=30, batch=16, validate_every=10, validation_share=0.3)
PRACTICE = toy_plan(Mode.PRACTICE, 12, name="practice", limit=12, temperature=1.0)
CALIBRATION = toy_plan(
    Mode.CALIBRATION, 12, name="calibration", limit=12, end_on_success=False, temperature=1.0
)


def brain() -> ToyBrain:
    return ToyBrain(toy_model(1), toy_model(2))


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> tuple[Path, Path]:
    """Two data roots of the same episodes; in the second one truth is noise."""
    true, noisy = (tmp_path_factory.mktemp(name) for name in ("true", "noisy"))
    robots = InProcessFleet([ToyRobot(), ToyRobot()], GUARD, data_dir=true)
    demonstrations = toy_plan(Mode.DEMO, 12, policy_version="", reward_version="")
    robots.demonstrate(demonstrations, lambda _: ToyPerson())
    robots.practise(PRACTICE, brain())
    robots.practise(CALIBRATION, brain(), oracle=True)
    shutil.copytree(true, noisy, dirs_exist_ok=True)
    chance = random.Random(5)
    for path in sorted(noisy.glob("*/*/episode.json")):
        _falsify(path.parent, chance)
    return true, noisy


def _falsify(episode: Path, chance: random.Random) -> None:
    record = json.loads((episode / "episode.json").read_text())
    record["labels"]["truth"] = not record["labels"]["truth"]
    (episode / "episode.json").write_text(json.dumps(record))
    (bag,) = episode.glob("*.mcap")
    copy = bag.with_suffix(".copy")
    with bag.open("rb") as source, copy.open("wb") as target:
        reader, writer = make_reader(source), Writer(target)
        summary = reader.get_summary()
        writer.start(reader.get_header().profile, reader.get_header().library)
        schemas = {
            i: writer.register_schema(s.name, s.encoding, s.data)
            for i, s in summary.schemas.items()
        }
        channels = {
            i: writer.register_channel(
                c.topic, c.message_encoding, schemas[c.schema_id], c.metadata
            )
            for i, c in summary.channels.items()
        }
        for _, channel, message in reader.iter_messages(log_time_order=False):
            data = _noise(channel.topic, message.data, chance)
            writer.add_message(
                channels[channel.id], message.log_time, data, message.publish_time,
                message.sequence,
            )  # fmt: skip
        writer.finish()
    copy.replace(bag)


def _noise(topic: str, data: bytes, chance: random.Random) -> bytes:
    if topic.endswith("truth/success"):
        kind, made = "std_msgs/msg/Bool", messages.boolean(chance.random() < 0.5)
    elif topic.endswith("truth/state"):
        kind = "sensor_msgs/msg/JointState"
        heard = messages.deserialize(data, kind)
        scalars = {name: chance.uniform(-9.0, 9.0) for name in heard.name}
        made = messages.named_scalars(messages.stamp_of(heard), "base", scalars)
    else:
        return data
    return messages.serialize(made, kind)


def test_the_copies_differ_in_truth_alone(roots):
    for left, right in zip(*(list_episodes(root / "practice") for root in roots), strict=True):
        pairs = list(
            zip(EpisodeReader(left).messages(), EpisodeReader(right).messages(), strict=True)
        )
        changed = {a[0] for a, b in pairs if a != b}
        assert changed == {"/toy/truth/state", "/toy/truth/success"}


def test_fine_tuned_weights_are_the_same(roots, tmp_path):
    files = []
    for number, root in enumerate(roots):
        registry = Registry(tmp_path / str(number))
        found = run_sft(
            registry, root / "demo", lambda _: toy_model(), QUICK, tmp_path / f"run{number}"
        )
        files.append([
            (registry.path(v) / "model.safetensors").read_bytes()
            for v in (found.policy, found.reward)
        ])
    assert files[0] == files[1]


def test_threshold_is_the_same(roots, tmp_path):
    found = []
    for number, root in enumerate(roots):
        registry = Registry(tmp_path / str(number))
        run_sft(registry, root / "demo", lambda _: toy_model(), QUICK, tmp_path / f"run{number}")
        config = CalibrationConfig(
            thresholds=tuple(float(t) for t in range(1, 24)), start=9.0, hold=2, minimum_labels=1
        )
        _, calibration, skipped = run_calibration(
            registry, root / "calibration", "sft-reward", config
        )
        assert not skipped
        found.append(calibration)
    assert found[0] == found[1]


def test_practised_weights_are_the_same(roots):
    weights = []
    for root in roots:
        policy, reward = toy_model(1), toy_model(2)
        settings = ImproveSettings()
        episodes, skipped = saved_episodes(root / "practice", PRACTICE, ("front",))
        assert (len(episodes), skipped) == (12, [])
        batch = build_round(episodes, policy, reward, FeatureCache(policy), settings, "p0", "r0")
        before = head_weights(policy)
        update(policy, new_optimizer(policy, settings), batch, settings, 0)
        after = head_weights(policy)
        assert any(not before[name].equal(after[name]) for name in before)
        weights.append(after)
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
