"""A short look at a running fleet over DDS."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from rclpy.context import Context
from rclpy.node import Node

from efm_core.fleet import FleetDescription
from efm_core.topics import camera
from efm_ros.channels import receive_bytes
from efm_ros.dds import apply_dds_profile
from efm_ros.executor import DrainingExecutor


def publishing_cameras(fleet: FleetDescription, seconds: float) -> dict[str, int]:
    """Absolute topic of every camera, raw or compressed -> pictures received in `seconds` s.

    Of the two topics a camera may publish on, the busier one is given.
    """
    apply_dds_profile()
    context = Context()
    context.init()
    node = Node("efm_doctor", context=context)
    executor = DrainingExecutor(context=context)
    executor.add_node(node)
    counts: Counter[str] = Counter()
    try:
        pairs = []
        for robot in fleet.robots:
            for description in robot.cameras:
                pair = []
                for compressed in (False, True):
                    ours = f"/{robot.name}/{camera(description.name, compressed).name}"
                    name = robot.remaps.get(ours, ours)
                    pair.append(_count(node, name, compressed, counts))
                pairs.append(pair)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left)
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
    return {max(pair, key=lambda topic: counts[topic]): max(counts[t] for t in pair)
            for pair in pairs}  # fmt: skip


def _count(node: Node, name: str, compressed: bool, counts: Counter[str]) -> str:
    from dataclasses import replace

    topic = replace(camera("any", compressed), name=name)

    def arrived(topic_name: str) -> Callable[[bytes], None]:
        def note(_: bytes) -> None:
            counts[topic_name] += 1

        return note

    receive_bytes(node, topic, arrived(name), clock="real")
    return name
