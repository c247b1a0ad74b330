"""Real time: stale and frozen pictures are reported for the guard to hold on."""

from __future__ import annotations

import time

import numpy as np
import pytest
from rclpy.node import Node
from ros.alone import MODELS_ALONE

from efm_bringup.inference_host import InferenceHost
from efm_bringup.model_shelf import Loaded
from efm_core import messages
from efm_core.detector import DetectorSettings
from efm_core.fleet import CameraDescription
from efm_core.observation import Decision, StepsToGo
from efm_core.topics import ACTION_CHUNK, EPISODE_STATUS, INSTRUCTION, POLICY_STATUS, camera

FRONT = camera("front")
EPISODE = "0b5cc1a4-0000-4000-8000-000000000001"


class MovingEngine:
    """Always moves right."""

    detector = DetectorSettings()

    def act(self, observations, draws, temperature):
        return [Decision(np.array([[8, 4]]), -1.0, 1.0, temperature) for _ in observations]

    def steps_to_go(self, observations):
        return [StepsToGo(9.0, 1.0) for _ in observations]

    def infer(self, observations, draws, temperature):
        return self.act(observations, draws, temperature), self.steps_to_go(observations)


class FakeCamera:
    """Sends a picture each 0.1 s when polled; the same one again while `frozen`."""

    def __init__(self, probe) -> None:
        self._probe = probe
        self._next = time.monotonic()
        self._value = 0
        self.frozen = False

    def poll(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next += 0.1
        self._value += not self.frozen
        image = np.full((32, 32, 3), self._value % 256, np.uint8)
        self._probe.send(FRONT, messages.image(time.time_ns(), "front", image))


@pytest.fixture
def fake_camera(context, executor, probe, space, spin_until):
    node = Node("inference", context=context)
    host = InferenceHost(node, lambda versions, robot: Loaded(MovingEngine(), 0.001))
    executor.add_node(node)
    cameras = [CameraDescription(name="front", width=32, height=32)]
    for hosted in host.add("robot_1", cameras, space, "real", context, parameters=MODELS_ALONE):
        executor.add_node(hosted)
    probe.hear(ACTION_CHUNK, POLICY_STATUS)
    spin_until(lambda: all(probe.sender(t).subscribers for t in (FRONT, EPISODE_STATUS)))
    probe.send(INSTRUCTION, messages.text("push a to b"))
    values = {
        "phase": "running", "episode_id": EPISODE, "mode": "practice",
        "start_ns": str(time.time_ns()), "policy_version": "p1", "reward_version": "r1",
        "temperature": "0.8", "seed": "1",
    }  # fmt: skip
    probe.send(EPISODE_STATUS, messages.status(0, "episode_manager", values))
    yield FakeCamera(probe)
    host.close()


def flag(probe, name: str) -> bool:
    return probe.status(POLICY_STATUS).get(name) == "1"


def test_a_frozen_camera_is_noticed_within_a_second(fake_camera, probe, spin_until):
    def chunks() -> int:
        fake_camera.poll()
        return len(probe.heard[ACTION_CHUNK.name])

    spin_until(lambda: chunks() >= 3)
    assert not flag(probe, "frozen")
    fake_camera.frozen = True
    begun = time.monotonic()
    spin_until(lambda: chunks() and flag(probe, "frozen"))
    assert 0.4 < time.monotonic() - begun < 1.0
    fake_camera.frozen = False
    spin_until(lambda: chunks() and not flag(probe, "frozen"))


def test_a_dead_camera_is_noticed(fake_camera, probe, spin_until):
    def chunks() -> int:
        fake_camera.poll()
        return len(probe.heard[ACTION_CHUNK.name])

    spin_until(lambda: chunks() >= 2 and not flag(probe, "stale"))
    last = time.monotonic()
    spin_until(lambda: flag(probe, "stale"))
    assert time.monotonic() - last < 0.45  # 0.25 s and two timers
