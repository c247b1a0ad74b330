"""The inference process with real checkpoints: tiny networks with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rclpy.parameter import Parameter
from ros.alone import ALONE
from safetensors.torch import save as save_tensors

from efm_bringup.inference_node import InferenceNode
from efm_bringup.model_loading import ModelLoader
from efm_bringup.model_shelf import BadCheckpointError, Versions
from efm_core import messages
from efm_core.actions import ActionDim, ActionSpace
from efm_core.checkpoint import Manifest, write_checkpoint
from efm_core.detector import DetectorSettings
from efm_core.observation import Observation, draws
from efm_core.topics import (
    ACTION_CHUNK,
    DECISION,
    EPISODE_STATUS,
    INSTRUCTION,
    POLICY_STATUS,
    REWARD_STATE,
    REWARD_STATUS,
    camera,
)
from efm_model.config import CameraSpec, ModelConfig, SmallBackboneConfig
from efm_model.inference import Engine
from efm_model.model import EmbodiedModel
from efm_model.preprocess import Preprocessor, PreprocessorConfig, build_vocabulary

FRONT = camera("front")
GOAL = "push the red star to the blue cube"
START, PERIOD = 5_000_000_000, 100_000_000
SMALL = SmallBackboneConfig(
    resolution=32, vocabulary=9, stem=4, fine=4, width=8, blocks=1, words=8, language=8,
    free_maps=1, features=64,
)  # fmt: skip


def make_checkpoint(fleet, version, role, space, camera_name="front", size=32) -> None:
    """Write models_dir/<version> with weights that depend on the role alone."""
    spec = CameraSpec(name=camera_name, width=size, height=size)
    words = PreprocessorConfig(cameras=(spec,), vocabulary=build_vocabulary([GOAL]))
    torch.manual_seed(0)
    config = ModelConfig(small=SMALL, cameras=(spec,), action_space=space)
    model = EmbodiedModel(config, Preprocessor(words)).eval()
    with torch.no_grad():
        for head in (model.action_head, model.steps_to_go_head):
            for parameter in head.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    files = {
        "config.json": config.model_dump_json().encode(),
        "model.safetensors": save_tensors(tensors),
        "preprocessor.json": model.preprocessor.to_json().encode(),
    }
    manifest = Manifest(role=role, detector=DetectorSettings() if role == "reward" else None)
    write_checkpoint(fleet.models_dir, version, files, manifest)


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    """Exported trunks of these networks do not belong in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def fleet(make_fleet, space):
    made = make_fleet()
    make_checkpoint(made, "policy_1", "policy", space)
    make_checkpoint(made, "reward_1", "reward", space)
    return made


@pytest.fixture
def inference(fleet, context, executor, probe, spin_until):
    node = InferenceNode(
        context=context,
        parameter_overrides=[Parameter("fleet", value=str(fleet.path)), ALONE],
    )
    for part in (node, *node.hosted):
        executor.add_node(part)
    probe.hear(ACTION_CHUNK, DECISION, POLICY_STATUS, REWARD_STATE, REWARD_STATUS)
    spin_until(lambda: all(probe.sender(t).subscribers for t in (FRONT, EPISODE_STATUS)))
    spin_until(lambda: probe.heard[POLICY_STATUS.name] and probe.heard[REWARD_STATUS.name])
    return node


def announce(probe, episode: str, policy: str, start_ns: int) -> None:
    pairs = {
        "phase": "running", "episode_id": episode, "mode": "practice", "start_ns": str(start_ns),
        "policy_version": policy, "reward_version": "reward_1", "temperature": "0.8", "seed": "7",
    }  # fmt: skip
    probe.send(EPISODE_STATUS, messages.status(0, "episode_manager", pairs))


def test_live_answers_equal_offline_ones(inference, fleet, probe, space, spin_until):
    probe.send(INSTRUCTION, messages.text(GOAL))
    announce(probe, "e1", "policy_1", START)
    pictures = np.random.default_rng(3).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for tick, picture in enumerate(pictures):
        stamp = START + tick * PERIOD
        probe.send(FRONT, messages.image(stamp, "front", picture))
        spin_until(
            lambda s=stamp: s in probe.stamps(DECISION) and s in probe.stamps(REWARD_STATE),
            timeout=30.0,  # the first answer waits for the export of the trunk
        )
    offline = Engine.load(
        fleet.models_dir / "policy_1", fleet.models_dir / "reward_1", fleet.backend
    )
    for tick, picture in enumerate(pictures):
        seen = [Observation({"front": picture}, GOAL, tick=tick)]
        numbers = draws(7, "e1", tick, space.tokens)[None]
        (decision,), (word,) = offline.infer(seen, numbers, 0.8)
        version, live = messages.read_decision(probe.heard[DECISION.name][tick], space)
        assert version == "policy_1"
        np.testing.assert_array_equal(live.bins, decision.bins)
        assert live.log_prob == pytest.approx(decision.log_prob, abs=1e-4)
        reward = probe.scalars(REWARD_STATE, START + tick * PERIOD)
        assert reward["steps_to_go"] == pytest.approx(word.mean, abs=1e-4)
        chunk = messages.read_action_chunk(probe.heard[ACTION_CHUNK.name][tick], space)
        np.testing.assert_allclose(chunk, space.decode(decision.bins), atol=1e-12)


def test_a_damaged_checkpoint_is_refused_over_the_wire(inference, fleet, probe, space, spin_until):
    make_checkpoint(fleet, "policy_2", "policy", space)
    weights = fleet.models_dir / "policy_2" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    probe.send(INSTRUCTION, messages.text(GOAL))
    announce(probe, "e1", "policy_1", START)
    spin_until(lambda: probe.status(POLICY_STATUS).get("state") == "ready", timeout=30.0)
    announce(probe, "e2", "policy_2", START)
    spin_until(lambda: probe.status(POLICY_STATUS).get("state") == "error")
    status = probe.status(POLICY_STATUS)
    assert status["version"] == "policy_1"
    assert "model.safetensors does not match its SHA-256" in status["reason"]


def other_space() -> ActionSpace:
    dims = tuple(ActionDim(name=n, unit="m", low=-0.05, high=0.05, bins=9) for n in ("x", "z"))
    return ActionSpace(dims=dims, rate=10.0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"space": other_space()}, "action_space.dims are"),
        ({"camera_name": "wrist"}, "camera 'wrist' is not among the robot's"),
        ({"size": 48}, r"camera 'front': image is uint8 \(32, 32, 3\)"),
        ({"role": "reward"}, "role is reward, needed is policy"),
    ],
    ids=["action space", "camera", "picture size", "role"],
)
def test_a_checkpoint_for_another_robot_is_refused(make_fleet, space, options, match):
    fleet = make_fleet()
    arguments = {"role": "policy", "space": space, **options}
    make_checkpoint(fleet, "policy_1", **arguments)
    with pytest.raises(BadCheckpointError, match=match):
        ModelLoader(fleet).load(Versions("policy_1", ""), "robot_1")


def test_a_version_that_is_not_there_is_named(fleet):
    with pytest.raises(BadCheckpointError, match=r"'policy_9' is not in .* there are: policy_1"):
        ModelLoader(fleet).load(Versions("policy_9", "reward_1"), "robot_1")


def test_an_unknown_robot_is_refused(make_fleet, context):
    fleet = make_fleet()
    overrides = [Parameter("fleet", value=str(fleet.path)), Parameter("robots", value=["r9"])]
    with pytest.raises(ValueError, match="robot 'r9' is not in"):
        InferenceNode(context=context, parameter_overrides=overrides)
