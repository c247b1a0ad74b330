"""Messages keep their contents between the typestore, the wire and rclpy's classes."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from efm_core import messages
from efm_core.topics import DECISION, INSTRUCTION, Topic, camera
from efm_ros.channels import Sender, receive, receive_bytes
from efm_ros.convert import message_class, to_ros


def test_named_scalars_survive_the_conversion():
    pure = messages.named_scalars(1_500_000_002, "v1", {"a": 1.5, "b": -2.0})
    stock = to_ros(pure, "sensor_msgs/msg/JointState")
    assert isinstance(stock, JointState)
    assert (stock.header.stamp.sec, stock.header.stamp.nanosec) == (1, 500_000_002)
    assert messages.read_named_scalars(stock) == {"a": 1.5, "b": -2.0}


def test_an_image_keeps_every_pixel():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    stock = to_ros(messages.image(7, "front", rgb), "sensor_msgs/msg/Image")
    assert isinstance(stock, Image)
    np.testing.assert_array_equal(messages.read_image(stock), rgb)


@pytest.mark.parametrize("name", ["sensor_msgs/msg/Nothing", "nowhere/msg/String", "String"])
def test_an_unknown_type_is_named(name):
    with pytest.raises(ValueError, match=name):
        message_class(name)


def test_what_is_sent_is_what_arrives_and_stock_nodes_understand_it(context, executor, spin_until):
    node = Node("both", context=context)
    executor.add_node(node)
    pure, raw, stock = [], [], []
    receive(node, DECISION, pure.append)
    receive_bytes(node, DECISION, raw.append)
    node.create_subscription(JointState, DECISION.name, stock.append, 10)
    sender = Sender(node, DECISION)
    spin_until(lambda: sender.subscribers == 3)
    sent = sender.send(messages.named_scalars(5, "v", {"bin/x": 3.0}))
    spin_until(lambda: pure and raw and stock)
    assert raw == [sent]
    assert messages.read_named_scalars(pure[0]) == {"bin/x": 3.0}
    assert messages.read_named_scalars(stock[0]) == {"bin/x": 3.0}


STOCK = {
    "sensor_msgs/msg/Image": {"height": 1, "width": 2, "step": 6, "encoding": "rgb8",
                              "data": array("B", range(6))},
    "sensor_msgs/msg/JointState": {"name": ["a", "bcd"], "position": array("d", [1.0, 2.0])},
    "geometry_msgs/msg/PoseStamped": {},
    "geometry_msgs/msg/TwistStamped": {},
    "std_msgs/msg/Empty": {},
    "std_msgs/msg/Bool": {"data": True},
    "diagnostic_msgs/msg/DiagnosticArray": {},
}  # fmt: skip


@pytest.mark.parametrize("type_name", sorted(STOCK))
def test_messages_of_stock_nodes_are_understood(type_name, context, executor, spin_until):
    node = Node("listener", context=context)
    executor.add_node(node)
    got = []
    receive(node, Topic("foreign", type_name), got.append)
    publisher = node.create_publisher(message_class(type_name), "foreign", 10)
    spin_until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(message_class(type_name)(**STOCK[type_name]))
    spin_until(lambda: got)
    for field, value in STOCK[type_name].items():
        received = getattr(got[0], field)
        assert (list(received) if isinstance(value, array) else received) == (
            list(value) if isinstance(value, array) else value
        )


def test_a_late_subscriber_gets_the_latched_value(context, executor, spin_until):
    node = Node("late", context=context)
    executor.add_node(node)
    Sender(node, INSTRUCTION).send(messages.text("push the red star to the blue cube"))
    got = []
    receive(node, INSTRUCTION, lambda m: got.append(m.data))
    spin_until(lambda: got)
    assert got == ["push the red star to the blue cube"]


def test_large_pictures_arrive_whole(context, executor, spin_until):
    node = Node("camera", context=context)
    executor.add_node(node)
    topic: Topic = camera("front")
    got = []
    receive(node, topic, got.append)
    sender = Sender(node, topic)
    spin_until(lambda: sender.subscribers == 1)
    rgb = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    sender.send(messages.image(9, "front", rgb))
    spin_until(lambda: got)
    np.testing.assert_array_equal(messages.read_image(got[0]), rgb)
