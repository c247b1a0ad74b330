"""The monitor over real DDS: what robots say comes out as markers, for who comes late too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from rclpy.parameter import Parameter
from ros.conftest import Probe

from efm_bringup.monitor.node import MonitorNode
from efm_core import messages, topics

TALK = (topics.EPISODE_STATUS, topics.INSTRUCTION, topics.EE_POSE, topics.REWARD_STATE,
        topics.ACTION_CHUNK, topics.GUARD_STATE)  # fmt: skip


@pytest.fixture
def monitor(context: Any, executor: Any, make_fleet: Any) -> MonitorNode:
    fleet = make_fleet(robots=("robot_1", "robot_2"))
    made = MonitorNode(
        context=context,
        parameter_overrides=[
            Parameter("fleet", value=str(fleet.path)),
            Parameter("rate", value=20.0),
        ],
    )
    executor.add_node(made)
    return made


def newest(probe: Probe) -> dict[str, Any]:
    heard = probe.heard[topics.MARKERS.name]
    return {marker.ns: marker for marker in heard[-1].markers} if heard else {}


def test_what_a_robot_says_is_drawn(
    monitor: MonitorNode, probe: Probe, spin_until: Any, space: Any
) -> None:
    probe.hear(topics.MARKERS)
    spin_until(lambda: all(probe.sender(topic).subscribers for topic in TALK))
    probe.send(topics.INSTRUCTION, messages.text("push"))
    status = {"phase": "running", "episode_id": "e", "start_ns": "0"}
    probe.send(topics.EPISODE_STATUS, messages.status(0, "episode_manager", status))
    for k in range(5):
        stamp = 100 * k
        probe.send(topics.EE_POSE, messages.pose(stamp, "base", (0.3 + 0.01 * k, 0.1, 0.02)))
        reward = messages.reward_state(stamp, "v", 9.0 - k, 1.0, -1.0, False)
        probe.send(topics.REWARD_STATE, reward)
    probe.send(topics.ACTION_CHUNK, messages.action_chunk(400, "e", space, [[0.02, 0.0]]))
    state = messages.guard_state(400, np.zeros(2), space, 0, False, 4, 0.7, 0)
    probe.send(topics.GUARD_STATE, state)

    def drawn() -> bool:
        markers = newest(probe)
        return bool(markers) and len(markers["trail"].points) == 5 and bool(markers["fault"].text)

    spin_until(drawn)
    markers = newest(probe)
    assert "push" in markers["state"].text
    assert "d = 5.0" in markers["state"].text
    assert markers["fault"].text == "holding: stale_chunk"
    assert markers["chunk"].points[1].x == pytest.approx(0.36)
    assert {marker.header.frame_id for marker in markers.values()} == {"fleet"}


def test_a_foreign_chunk_is_left_out_and_the_rest_is_drawn(
    monitor: MonitorNode, probe: Probe, spin_until: Any, space: Any
) -> None:
    probe.hear(topics.MARKERS)
    spin_until(lambda: all(probe.sender(topic).subscribers for topic in TALK))
    longer = space.model_copy(update={"chunk": 3})
    probe.send(topics.ACTION_CHUNK, messages.action_chunk(0, "e", longer, np.zeros((3, 2))))
    spin_until(lambda: newest(probe))
    probe.send(topics.EE_POSE, messages.pose(1, "base", (0.3, 0.1, 0.02)))
    spin_until(lambda: newest(probe)["effector"].action == 0)
    assert newest(probe)["chunk"].action == 2


def test_nobody_looking_costs_no_picture_and_who_comes_late_gets_one(
    monitor: MonitorNode, probe: Probe, executor: Any, spin_until: Any
) -> None:
    spin_until(lambda: probe.sender(topics.EE_POSE).subscribers)
    probe.send(topics.EE_POSE, messages.pose(1, "base", (0.3, 0.1, 0.02)))
    picture = monitor._canvases[0].picture
    spin_until(lambda: len(picture._poses) == 1)
    assert picture.changed  # nothing was drawn
    probe.hear(topics.MARKERS)
    spin_until(lambda: newest(probe))
    assert newest(probe)["effector"].pose.position.x == pytest.approx(0.3)
    assert not picture.changed


def test_parameters_that_cannot_be_used_are_named(context: Any, make_fleet: Any) -> None:
    with pytest.raises(ValueError, match="'fleet' is empty"):
        MonitorNode(context=context)
    for rate in (50.0, "fast"):
        given = {"fleet": str(make_fleet().path), "rate": rate}
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        with pytest.raises(ValueError, match=r"rate.*give a number from 0\.2 to 30\.0"):
            MonitorNode(context=context, parameter_overrides=overrides)
