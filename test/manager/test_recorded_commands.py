"""What drivers are told is in the bag, message by message, whatever its kind."""

from __future__ import annotations

import numpy as np
import pytest

from efm_core import messages, topics
from efm_core.command_groups import CommandGroup
from efm_core.command_messages import command_message, numbers
from efm_core.commands import GroupCommand, Waypoint
from efm_episode_manager.recorder import Recorder, recorded_topics
from efm_episode_manager.session import TickGrid

ENTRIES = ["arm:joint_trajectory", "hand:gripper", "base"]


class Bag:
    def __init__(self) -> None:
        self.kept: list[tuple[str, bytes]] = []

    def write(self, topic, data, log_ns, sent_ns=0):
        self.kept.append((topic, data))


def test_the_topics_of_every_kind_of_command():
    names = {topic.name for topic in recorded_topics([], ENTRIES)}
    assert {"command/arm/joint_trajectory", "command/hand", "command/base/twist"} <= names
    assert topics.TELEOP_JOINTS.name in names
    assert topics.TELEOP_JOINTS.name not in {t.name for t in recorded_topics([], ["arm"])}
    with pytest.raises(ValueError, match="'song' is none of"):
        recorded_topics([], ["arm:song"])


def test_trajectories_without_a_stamp_are_no_repetitions():
    recorder, bag = Recorder(recorded_topics([], ENTRIES), "/arm0/", False), Bag()
    recorder.start(bag, TickGrid(10**9, 10.0))
    topic = topics.command("arm", "joint_trajectory")
    group = CommandGroup(name="arm", output="joint_trajectory", dims=("j",))
    for i in range(3):
        point = Waypoint(0.1, np.array([0.1 * (i // 2)]), np.zeros(1))
        command = GroupCommand(group, point.positions, points=(point,))
        data = messages.serialize(command_message(command, 0), topic.type)
        recorder.hear(topic.name, data, 10**9 + i)
    hand = topics.command("hand", "gripper")
    recorder.hear(hand.name, messages.serialize(numbers([0.1]), hand.type), 10**9)
    assert [name for name, _ in bag.kept] == [f"/arm0/{topic.name}"] * 3 + [f"/arm0/{hand.name}"]
    counts = recorder.stop()[f"/arm0/{topic.name}"]
    assert (counts.expected, counts.on_time, counts.repeated) == (3, 3, 0)
