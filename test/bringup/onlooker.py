"""A plain rclpy program that knows nothing of efm: hears every topic, writes what it counted.

Usage: onlooker.py FILE. On SIGTERM it writes {topic: {"type": ..., "heard": ...}} as JSON.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections import Counter
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy


def get_message(kind: str) -> type:
    package, _, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


class Onlooker(Node):
    def __init__(self) -> None:
        super().__init__("onlooker")
        self.heard: Counter[str] = Counter()
        self.types: dict[str, str] = {}
        self.create_timer(0.2, self.look)

    def look(self) -> None:
        qos = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        for topic, (kind, *_) in self.get_topic_names_and_types():
            if topic not in self.types:
                self.types[topic] = kind
                self.create_subscription(
                    get_message(kind), topic, lambda _, t=topic: self.heard.update([t]), qos
                )


def main() -> None:
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    node = Onlooker()
    while not ended:
        rclpy.spin_once(node, timeout_sec=0.1)
    found = {t: {"type": k, "heard": node.heard[t]} for t, k in node.types.items()}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
