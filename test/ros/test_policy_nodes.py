"""Policy and reward nodes over real DDS, with an engine whose answers can be worked out.

The engine reads the first pixel: bin of x = its red value, of y = its green value, steps-to-go =
its blue value. So every published number has an expected value.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from rclpy.node import Node
from ros.alone import MODELS_ALONE

from efm_bringup.inference_host import InferenceHost
from efm_bringup.model_shelf import BadCheckpointError, Loaded, Versions
from efm_core import messages
from efm_core.detector import DetectorSettings
from efm_core.fleet import CameraDescription
from efm_core.observation import Decision, StepsToGo
from efm_core.topics import (
    ACTION_CHUNK,
    DECISION,
    EPISODE_STATUS,
    INSTRUCTION,
    JOINT_STATES,
    POLICY_STATUS,
    REWARD_REWARD,
    REWARD_STATE,
    REWARD_STATUS,
    camera,
)

FRONT = camera("front")
EPISODE = "0b5cc1a4-0000-4000-8000-000000000001"
OTHER = "0b5cc1a4-0000-4000-8000-000000000002"
START, PERIOD = 5_000_000_000, 100_000_000


class PixelEngine:
    """See the module."""

    detector = DetectorSettings(threshold=1.0, hold=2, release=0.5, minimum_ticks=1)

    def __init__(self) -> None:
        self.draws: list[np.ndarray] = []
        self.passes = 0

    def act(self, observations, draws, temperature):
        self.draws.append(draws)
        self.passes += 1
        return [
            Decision(o.images["front"][0, 0, None, :2].astype(np.int64), -1.5, 2.0, temperature)
            for o in observations
        ]

    def steps_to_go(self, observations):
        self.passes += 1
        return [StepsToGo(float(o.images["front"][0, 0, 2]), 0.5) for o in observations]

    def infer(self, observations, draws, temperature):
        self.passes -= 1  # one pass answers both
        return self.act(observations, draws, temperature), self.steps_to_go(observations)


@pytest.fixture
def engine() -> PixelEngine:
    return PixelEngine()


@pytest.fixture
def hold_loading() -> threading.Event:
    """Clear it to keep a checkpoint loading."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def champion() -> dict[str, Versions]:
    """What is in force where an episode names no version."""
    return {"now": Versions()}


@pytest.fixture
def host(context, executor, probe, space, engine, hold_loading, spin_until, champion):
    def load(versions, robot):
        hold_loading.wait(10.0)
        if versions.policy == "cut":
            raise BadCheckpointError("policy", "cut", "model.safetensors does not match its hash")
        return Loaded(engine, 0.001)

    node = Node("inference", context=context)
    made = InferenceHost(node, load, lambda: champion["now"])
    executor.add_node(node)
    cameras = [CameraDescription(name="front", width=32, height=32)]
    for hosted in made.add(
        "robot_1", cameras, space, "lockstep", context, parameters=MODELS_ALONE
    ):
        executor.add_node(hosted)
    probe.hear(ACTION_CHUNK, DECISION, POLICY_STATUS, REWARD_STATE, REWARD_STATUS, REWARD_REWARD)
    inputs = (FRONT, EPISODE_STATUS, INSTRUCTION, JOINT_STATES)
    spin_until(lambda: all(probe.sender(topic).subscribers for topic in inputs))
    spin_until(lambda: node.count_subscribers("/robot_1/policy/action_chunk"))
    spin_until(lambda: probe.heard[POLICY_STATUS.name] and probe.heard[REWARD_STATUS.name])
    yield made
    made.close()


def announce(probe, phase="ready", episode=EPISODE, start_ns=START, **values) -> None:
    pairs = {
        "phase": phase, "episode_id": episode, "mode": "practice", "start_ns": str(start_ns),
        "policy_version": "p1", "reward_version": "r1", "temperature": "0.8", "seed": "7",
        **values,
    }  # fmt: skip
    probe.send(EPISODE_STATUS, messages.status(0, "episode_manager", pairs))


def show(probe, tick: int, pixel=(4, 6, 30), start_ns=START) -> int:
    image = np.full((32, 32, 3), pixel, np.uint8)
    stamp_ns = start_ns + tick * PERIOD
    probe.send(FRONT, messages.image(stamp_ns, "front", image))
    return stamp_ns


def goal(probe, text="push the red star to the blue cube") -> None:
    probe.send(INSTRUCTION, messages.text(text))


def test_an_episode_without_a_version_gets_the_champion_of_its_beginning(
    host, champion, probe, spin_until
):
    def state() -> tuple[str, str]:
        values = messages.read_status(probe.heard[POLICY_STATUS.name][-1])
        return values["episode_id"], values["version"] if values["state"] == "ready" else ""

    champion["now"] = Versions("b", "r1")
    announce(probe, policy_version="")
    spin_until(lambda: state() == (EPISODE, "b"))
    champion["now"] = Versions("a", "r1")  # rolled back: the episode goes on with b
    announce(probe, "running", policy_version="")
    assert host.policy("robot_1") == ("b", False, "")
    announce(probe, episode=OTHER, policy_version="")
    spin_until(lambda: state() == (OTHER, "a"))


def test_an_observation_is_answered_with_chunk_decision_and_reward(
    host, probe, space, engine, spin_until
):
    probe.send(JOINT_STATES, messages.named_scalars(START - 10_000_000, "", {"joint_1": 0.3}))
    goal(probe)
    announce(probe)
    stamp = show(probe, 0)
    spin_until(lambda: stamp in probe.stamps(DECISION) and stamp in probe.stamps(REWARD_STATE))
    chunk = probe.heard[ACTION_CHUNK.name][0]
    assert chunk.header.frame_id == EPISODE
    # bins 4 and 6 of 9 over [-0.02, 0.02]: 0 m and 0.01 m per tick
    np.testing.assert_allclose(messages.read_action_chunk(chunk, space), [[0.0, 0.01]], atol=1e-12)
    version, decision = messages.read_decision(probe.heard[DECISION.name][0], space)
    assert version == "p1"
    assert decision.bins.tolist() == [[4, 6]]
    assert (decision.log_prob, decision.temperature) == (-1.5, 0.8)
    scalars = probe.scalars(DECISION, stamp)
    assert scalars["offset/front"] == 0.0
    assert scalars["offset/joint_states"] == pytest.approx(-0.01)
    assert 0.0 < scalars["latency"] < 1.0
    reward = probe.scalars(REWARD_STATE, stamp)
    assert (reward["steps_to_go"], reward["reward"], reward["success"]) == (30.0, 0.0, 0.0)
    assert engine.passes == 1  # one pass of the trunk for both


def test_echo_of_episode_and_versions(host, probe, spin_until):
    goal(probe)
    announce(probe)
    for topic, version in ((POLICY_STATUS, "p1"), (REWARD_STATUS, "r1")):
        spin_until(
            lambda t=topic, v=version: probe.status(t).get("state") == "ready"
            and probe.status(t)["episode_id"] == EPISODE
            and probe.status(t)["version"] == v
        )


def test_the_newest_picture_is_answered_when_the_episode_is_announced(host, probe, spin_until):
    stamp = show(probe, 0)
    goal(probe)
    announce(probe)
    spin_until(lambda: stamp in probe.stamps(DECISION) and stamp in probe.stamps(REWARD_STATE))


def test_a_picture_from_before_the_episode_is_not(host, probe, spin_until):
    show(probe, -3)
    goal(probe)
    announce(probe)
    spin_until(lambda: probe.status(POLICY_STATUS).get("state") == "ready")
    assert probe.heard[ACTION_CHUNK.name] == []


def test_a_repeated_stamp_gets_the_same_bytes_and_no_second_sample(
    host, probe, engine, spin_until
):
    goal(probe)
    announce(probe)
    stamp = show(probe, 0)
    spin_until(lambda: stamp in probe.stamps(DECISION))
    passes = engine.passes
    show(probe, 0)
    spin_until(lambda: len(probe.heard[DECISION.name]) == 2)
    spin_until(lambda: len(probe.heard[REWARD_STATE.name]) == 2)
    assert engine.passes == passes
    first, second = (messages.serialize(m, DECISION.type) for m in probe.heard[DECISION.name])
    assert first == second
    assert len(probe.heard[ACTION_CHUNK.name]) == 2


def test_rewards_and_success_over_an_episode(host, probe, spin_until):
    goal(probe)
    announce(probe)
    announce(probe, "running")
    expected = []
    d = [9, 7, 8, 1, 0]
    for tick, blue in enumerate(d):
        stamp = show(probe, tick, (4, 4, blue))
        spin_until(lambda s=stamp: s in probe.stamps(REWARD_STATE))
        expected.append(float(d[tick - 1] - blue) if tick else 0.0)
    found = [probe.scalars(REWARD_STATE, START + k * PERIOD) for k in range(5)]
    assert [f["reward"] for f in found] == expected
    assert [f["success"] for f in found] == [0.0, 0.0, 0.0, 0.0, 1.0]  # two agreeing ticks
    spin_until(lambda: len(probe.heard[REWARD_REWARD.name]) == 5)


def test_the_checkpoint_is_swapped_between_episodes(host, probe, hold_loading, spin_until):
    goal(probe)
    announce(probe)
    stamp = show(probe, 0)
    spin_until(lambda: stamp in probe.stamps(DECISION))
    announce(probe, "saving")
    hold_loading.clear()
    announce(probe, "resetting", "", 0, policy_version="p2")
    spin_until(lambda: probe.status(POLICY_STATUS).get("state") == "loading")
    later = START + 50 * PERIOD
    goal(probe, "push the green moon to the red star")
    announce(probe, "ready", OTHER, later, policy_version="p2")
    second = show(probe, 0, start_ns=later)
    spin_until(lambda: probe.status(POLICY_STATUS).get("episode_id") == OTHER)
    assert second not in probe.stamps(DECISION)  # heartbeats go on while it loads
    hold_loading.set()
    spin_until(lambda: second in probe.stamps(DECISION))
    assert messages.read_decision(probe.heard[DECISION.name][-1], _space(host))[0] == "p2"
    assert probe.status(POLICY_STATUS)["version"] == "p2"


def _space(host):
    return host._pairs["robot_1"][0]._space


def test_a_bad_checkpoint_is_refused_and_the_old_one_stays(host, probe, spin_until):
    goal(probe)
    announce(probe)
    stamp = show(probe, 0)
    spin_until(lambda: stamp in probe.stamps(DECISION))
    announce(probe, "ready", OTHER, START, policy_version="cut")
    spin_until(lambda: probe.status(POLICY_STATUS).get("state") == "error")
    status = probe.status(POLICY_STATUS)
    assert "does not match its hash" in status["reason"]
    assert status["version"] == "p1"
    announce(probe, "idle", "", 0)
    spin_until(lambda: probe.status(POLICY_STATUS).get("state") == "idle")
    announce(probe, "ready", EPISODE, START + 9 * PERIOD)
    goal(probe)
    stamp = show(probe, 9)
    spin_until(lambda: stamp in probe.stamps(DECISION))


def test_without_any_version_the_policy_says_so(host, probe, spin_until):
    goal(probe)
    announce(probe, policy_version="", reward_version="")
    spin_until(lambda: probe.status(POLICY_STATUS).get("state") == "error")
    assert "no policy version" in probe.status(POLICY_STATUS)["reason"]


def test_a_demonstration_is_left_to_the_person(host, probe, spin_until):
    goal(probe)
    announce(probe, mode="demo", policy_version="", reward_version="r1")
    stamp = show(probe, 0)
    spin_until(lambda: stamp in probe.stamps(REWARD_STATE))
    assert probe.status(POLICY_STATUS)["state"] == "idle"
    assert probe.heard[ACTION_CHUNK.name] == []


def test_a_picture_of_the_wrong_size_is_refused(host, probe, spin_until):
    goal(probe)
    announce(probe)
    small = np.zeros((16, 16, 3), np.uint8)
    probe.send(FRONT, messages.image(START, "front", small))
    stamp = show(probe, 1)
    spin_until(lambda: stamp in probe.stamps(DECISION))
    assert probe.stamps(DECISION) == [stamp]


def test_the_status_is_repeated_four_times_a_second(host, probe, spin_until):
    before = len(probe.heard[POLICY_STATUS.name])
    spin_until(lambda: len(probe.heard[POLICY_STATUS.name]) >= before + 9)
    stamps = probe.stamps(POLICY_STATUS)[-8:]
    # The median: a machine that is not run for a while delays one and hurries the next.
    assert np.median(np.diff(stamps)) / 1e9 == pytest.approx(0.25, abs=0.05)
