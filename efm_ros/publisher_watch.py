"""Notices when a second publisher joins a topic that must have one."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.node import Node

LEASE_SECONDS = 5.0
"""How long a killed process stays in the graph: leaseDuration of config/dds_profile.xml."""

GRACE_SECONDS = LEASE_SECONDS + 2.0
"""A node that was killed and came back may be seen twice for this long."""

UNKNOWN = "_NODE_NAME_UNKNOWN_"
"""What rclpy calls the node of an endpoint whose participant it hardly knows yet."""


class PublisherWatch:
    """Judges who publishes on each topic.

    Two publishers of different nodes are wrong at once. Two of the same node name are a process
    that was killed and came back, and only wrong when they are still there after the lease.
    """

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self._grace = grace
        self._since: dict[str, float] = {}

    def judge(self, topic: str, nodes: Iterable[str], now: float) -> str:
        """Names of the nodes that publish (one per publisher), steady s -> complaint or ""."""
        publishers = sorted(nodes)
        if len(publishers) < 2:
            self._since.pop(topic, None)
            return ""
        since = self._since.setdefault(topic, now)
        known = {name for name in publishers if not name.endswith(UNKNOWN)}
        if len(known) < 2 and now - since <= self._grace:
            return ""
        return (
            f"{len(publishers)} publishers on {topic}: {', '.join(publishers)}; "
            "end all but one, or give the fleets different ROS_DOMAIN_IDs"
        )


def publishing_nodes(node: Node, topic: str) -> list[str]:
    """Full names of the nodes that publish on the absolute `topic`, one per publisher."""
    return [
        f"{info.node_namespace.rstrip('/')}/{info.node_name}"
        for info in node.get_publishers_info_by_topic(topic)
    ]
