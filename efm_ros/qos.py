"""Quality of service of every channel, from the one table in `efm_core.topics`."""

from __future__ import annotations

from typing import Literal

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from efm_core.topics import Topic

Clock = Literal["lockstep", "real"]
Role = Literal["publisher", "subscription", "recorder"]

RECORDER_DEPTH = 30
"""Messages a recorder may lag behind per topic."""


def qos_for(topic: Topic, clock: Clock, role: Role) -> QoSProfile:
    """The profile with which a process takes part in `topic`.

    image: keep last 1, offered reliable; received reliable in lockstep (a lost picture would stop
        the robot until it is sent again) and best effort in real time (a late one is worthless).
    reliable: depth 10. latched: reliable, transient local, depth 1.
    The recorder asks for the same reliability and durability with depth `RECORDER_DEPTH`.
    """
    image = topic.qos == "image"
    lossy = image and clock == "real" and role != "publisher"
    depth = 1 if image or topic.qos == "latched" else 10
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=RECORDER_DEPTH if role == "recorder" else depth,
        reliability=ReliabilityPolicy.BEST_EFFORT if lossy else ReliabilityPolicy.RELIABLE,
        durability=(
            DurabilityPolicy.TRANSIENT_LOCAL
            if topic.qos == "latched"
            else DurabilityPolicy.VOLATILE
        ),
    )
