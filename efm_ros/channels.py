"""Sending and receiving on the topics of `efm_core.topics`.

Messages cross the border to rclpy as CDR bytes: a sender serialises the pure message once, a
receiver reads it back as a pure message whose arrays are views of those bytes. That is about
twice as fast as rclpy's conversion to its own classes (measured: 15 against 22 us to send a
JointState, 14 against 36 us to receive one), and the recorder keeps the very bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription

from efm_core import messages
from efm_core.topics import FLEET, STATUS, Topic
from efm_ros.convert import message_class
from efm_ros.executor import set_lazy
from efm_ros.qos import Clock, Role, qos_for

STOP_REQUEST = Topic(FLEET.STOP_REQUEST, "std_msgs/msg/Empty")
STOPPED = Topic(FLEET.STOPPED, "std_msgs/msg/Bool", "latched")
FLEET_POLICY_VERSION = Topic(FLEET.POLICY_VERSION, "std_msgs/msg/String", "latched")
PLAN = Topic(FLEET.PLAN, "std_msgs/msg/String", "latched")
FLEET_STATUS = Topic(FLEET.STATUS, STATUS, "latched")
TRAINER_STATUS = Topic(FLEET.TRAINER_STATUS, STATUS, "latched")


class Sender:
    """Publishes pure messages on one topic."""

    def __init__(self, node: Node, topic: Topic) -> None:
        self.topic = topic
        # rclpy's default event handlers add entities that the executor looks at on every
        # wake-up: 100 us of a 140 us cycle with 20 subscriptions. Our profiles come from one
        # table, so "incompatible QoS" can't be news here; `efm doctor` checks foreign cameras.
        self._publisher: Publisher = node.create_publisher(
            message_class(topic.type),
            topic.name,
            qos_for(topic, "lockstep", "publisher"),
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )

    def send(self, message: Any) -> bytes:
        """Publish a typestore message of the topic's type; returns the CDR bytes sent."""
        data = messages.serialize(message, self.topic.type)
        self._publisher.publish(data)
        return data

    def send_bytes(self, data: bytes) -> None:
        """Publish CDR bytes as they are: a message sent before, or replayed."""
        self._publisher.publish(data)

    @property
    def subscribers(self) -> int:
        """Matched subscriptions: publish what must not be lost after this is above zero."""
        return int(self._publisher.get_subscription_count())

    @property
    def resolved_name(self) -> str:
        """The absolute topic name after namespace and remapping."""
        return str(self._publisher.topic_name)


def receive(
    node: Node,
    topic: Topic,
    callback: Callable[[Any], None],
    clock: Clock = "lockstep",
    lazy: bool = False,
) -> Subscription:
    """Call `callback` with every message of `topic`, as a typestore message.

    lazy: the message alone does not wake the process; see `efm_ros.executor.set_lazy`.
    """

    def read(data: bytes) -> None:
        callback(messages.deserialize(data, topic.type))

    return receive_bytes(node, topic, read, clock, lazy=lazy)


def receive_aged(
    node: Node,
    topic: Topic,
    callback: Callable[[Any, float], None],
    clock: Clock = "lockstep",
    lazy: bool = False,
) -> Subscription:
    """As `receive`, but the callback is told too how many s ago the message arrived.

    A lazy message waits until something else wakes the process. 0.0 where the middleware does not
    say. The time of arrival is the wall clock's: where that jumps meanwhile, the one message that
    waits is taken for too old (which holds the arm) or for new.
    """

    def read(data: bytes, info: Mapping[str, int]) -> None:
        arrived_ns = info["received_timestamp"]
        age = max((time.time_ns() - arrived_ns) / 1e9, 0.0) if arrived_ns else 0.0
        callback(messages.deserialize(data, topic.type), age)

    return receive_bytes(node, topic, read, clock, lazy=lazy)


def receive_bytes(
    node: Node,
    topic: Topic,
    callback: Callable[..., None],
    clock: Clock = "lockstep",
    role: Role = "subscription",
    lazy: bool = False,
) -> Subscription:
    """Call `callback` with the CDR bytes of every message of `topic` (a recorder's way).

    A callback of two parameters is given rclpy's message info too, a dict in which
    `received_timestamp` and `source_timestamp` are the wall times of arrival and sending in ns, 0
    where the middleware has none.
    lazy: the message alone does not wake the process; see `efm_ros.executor.set_lazy`.
    """
    subscription = node.create_subscription(
        message_class(topic.type),
        topic.name,
        callback,
        qos_for(topic, clock, role),
        raw=True,
        event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
    )
    set_lazy(node, subscription, lazy)
    return subscription
