"""The draining executor does what rclpy's does, in less time."""

from __future__ import annotations

import time

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from efm_core import messages
from efm_core.topics import Topic
from efm_ros.channels import Sender, receive_bytes
from efm_ros.executor import TAKE_LIMIT, DrainingExecutor, set_lazy

TEXT = Topic("text", "std_msgs/msg/String")


@pytest.fixture
def node(context, executor):
    made = Node("tested", context=context)
    executor.add_node(made)
    return made


def test_several_queued_messages_arrive_in_order_in_one_spin(node, executor, spin_until):
    got = []
    receive_bytes(node, TEXT, got.append)
    sender = Sender(node, TEXT)
    spin_until(lambda: sender.subscribers == 1)
    sent = [sender.send(messages.text(str(i))) for i in range(TAKE_LIMIT)]
    spin_until(lambda: got)
    assert got == sent


def test_entities_created_and_destroyed_in_callbacks(node, executor, spin_until):
    first, second = [], []

    def once(data):
        first.append(data)
        node.destroy_subscription(subscription)
        receive_bytes(node, TEXT, second.append)

    subscription = receive_bytes(node, TEXT, once)
    sender = Sender(node, TEXT)
    spin_until(lambda: sender.subscribers == 1)
    sender.send(messages.text("a"))
    sender.send(messages.text("b"))
    spin_until(lambda: first and sender.subscribers == 1)
    sender.send(messages.text("c"))
    spin_until(lambda: second)
    assert len(first) == 1


def test_a_timer_fires_can_be_cancelled_and_reset(node, executor, spin_until):
    calls = []
    timer = node.create_timer(0.005, lambda: calls.append(time.monotonic()))
    spin_until(lambda: len(calls) == 3)
    timer.cancel()
    count = len(calls)
    executor.spin_once(timeout_sec=0.02)
    assert len(calls) == count
    timer.reset()
    spin_until(lambda: len(calls) > count)


def test_a_service_answers_a_client_of_the_same_executor(node, executor, spin_until):
    def answer(request, response):
        response.success, response.message = True, "yes"
        return response

    node.create_service(Trigger, "ask", answer)
    client = node.create_client(Trigger, "ask")
    spin_until(client.service_is_ready)
    future = client.call_async(Trigger.Request())
    spin_until(future.done)
    assert future.result().message == "yes"


def test_an_async_service_may_await_another_service(node, executor, spin_until):
    from rclpy.callback_groups import ReentrantCallbackGroup

    group = ReentrantCallbackGroup()
    client = node.create_client(Trigger, "inner", callback_group=group)

    def inner(request, response):
        response.message = "inner"
        return response

    async def outer(request, response):
        response.message = "outer of " + (await client.call_async(Trigger.Request())).message
        return response

    node.create_service(Trigger, "inner", inner, callback_group=group)
    node.create_service(Trigger, "outer", outer, callback_group=group)
    asking = node.create_client(Trigger, "outer", callback_group=group)
    spin_until(lambda: asking.service_is_ready() and client.service_is_ready())
    future = asking.call_async(Trigger.Request())
    spin_until(future.done)
    assert future.result().message == "outer of inner"
    calls = []
    node.create_timer(0.005, lambda: calls.append(1))  # and the fast path goes on
    spin_until(lambda: len(calls) == 2)


def test_a_guard_condition_runs_its_callback_once_per_trigger(node, executor, spin_until):
    calls = []
    guard = node.create_guard_condition(lambda: calls.append(1))
    guard.trigger()
    spin_until(lambda: calls)
    executor.spin_once(timeout_sec=0.01)
    assert len(calls) == 1


def test_a_task_runs(node, executor, spin_until):
    task = executor.create_task(lambda: 3)
    spin_until(task.done)
    assert task.result() == 3


def test_spin_until_future_complete_returns_when_it_is_done(node, executor):
    future = rclpy.task.Future(executor=executor)
    timer = node.create_timer(0.01, lambda: future.set_result(1) if not future.done() else None)
    start = time.monotonic()
    executor.spin_until_future_complete(future, timeout_sec=5.0)
    assert future.done()
    assert time.monotonic() - start < 2.0
    timer.cancel()


def test_an_error_of_a_callback_comes_out_of_spin(node, spin_until):
    def fail():
        raise RuntimeError("from the callback")

    timer = node.create_timer(0.001, fail)
    with pytest.raises(RuntimeError, match="from the callback"):
        spin_until(lambda: False)
    timer.cancel()


def test_a_shut_down_context_ends_the_spin(domain):
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain)
    executor = DrainingExecutor(context=context)
    node = Node("ending", context=context)
    executor.add_node(node)
    node.create_timer(0.001, lambda: context.try_shutdown())
    executor.spin()
    with pytest.raises(ExternalShutdownException):
        executor.spin_once(timeout_sec=1.0)
    executor.shutdown()
    node.destroy_node()


def _seconds_per_message(make_executor, context: Context, count: int) -> float:
    """CPU time of this thread for sending and receiving one message, among 20 subscriptions."""
    executor = make_executor(context=context)
    node = Node("measured", context=context)
    executor.add_node(node)
    received = []
    for i in range(19):
        receive_bytes(node, Topic(f"idle_{i}", TEXT.type), received.append)
    receive_bytes(node, TEXT, received.append)
    sender = Sender(node, TEXT)
    while sender.subscribers == 0:
        executor.spin_once(timeout_sec=0.01)
    start = time.thread_time()
    for i in range(count):
        sender.send(messages.text("x"))
        while len(received) == i:
            executor.spin_once(timeout_sec=1.0)
    seconds = (time.thread_time() - start) / count
    executor.shutdown()
    node.destroy_node()
    return seconds


def test_it_costs_less_than_half_of_the_stock_executor(context):
    stock = _seconds_per_message(SingleThreadedExecutor, context, 200)
    ours = _seconds_per_message(DrainingExecutor, context, 200)
    print(f"stock {stock * 1e6:.0f} us, ours {ours * 1e6:.0f} us per message")
    assert ours < stock / 2, f"ours {ours * 1e6:.0f} us, stock {stock * 1e6:.0f} us"


def test_a_lazy_subscription_waits_for_a_wake_up_and_comes_first(node, executor, spin_until):
    other = Topic("other", TEXT.type)
    order = []
    receive_bytes(node, other, lambda data: order.append("eager"))
    lazy = receive_bytes(node, TEXT, lambda data: order.append("lazy"), lazy=True)
    sender, waker = Sender(node, TEXT), Sender(node, other)
    spin_until(lambda: sender.subscribers and waker.subscribers)
    executor.spin_once(timeout_sec=0.0)
    sender.send(messages.text("kept"))
    start = time.monotonic()
    executor.spin_once(timeout_sec=0.05)  # times out: nothing woke it
    assert time.monotonic() - start >= 0.04
    sender.send(messages.text("kept too"))
    waker.send(messages.text("wake"))
    spin_until(lambda: "eager" in order)
    assert order[-2:] == ["lazy", "eager"]
    assert order.count("lazy") == 2
    set_lazy(node, lazy, False)
    sender.send(messages.text("at once"))
    spin_until(lambda: order.count("lazy") == 3)


def test_a_subscription_made_lazy_later_wakes_nobody_either(node, executor, spin_until):
    got = []
    subscription = receive_bytes(node, TEXT, got.append)
    sender = Sender(node, TEXT)
    spin_until(lambda: sender.subscribers)
    sender.send(messages.text("at once"))
    spin_until(lambda: got)
    set_lazy(node, subscription)
    executor.spin_once(timeout_sec=0.0)  # the change itself ends a wait
    sender.send(messages.text("kept"))
    start = time.monotonic()
    executor.spin_once(timeout_sec=0.05)
    assert time.monotonic() - start >= 0.04
    assert len(got) == 1


def test_lazy_messages_of_another_namespace_are_left_alone(node, executor, context, spin_until):
    other = Node("other", namespace="robot2", context=context)
    executor.add_node(other)
    order = []
    receive_bytes(node, Topic("/robot1/wake", TEXT.type), lambda data: order.append("wake 1"))
    receive_bytes(other, Topic("/robot2/wake", TEXT.type), lambda data: order.append("wake 2"))
    kept = Topic("/robot2/kept", TEXT.type)
    receive_bytes(other, kept, lambda data: order.append("kept"), lazy=True)
    wakers = [Sender(node, Topic(f"/robot{i}/wake", TEXT.type)) for i in (1, 2)]
    keeper = Sender(node, kept)
    spin_until(lambda: all(sender.subscribers for sender in (*wakers, keeper)))
    keeper.send(messages.text("a"))
    wakers[0].send(messages.text("b"))
    spin_until(lambda: order)
    assert order == ["wake 1"]
    wakers[1].send(messages.text("c"))
    spin_until(lambda: len(order) == 3)
    assert order == ["wake 1", "kept", "wake 2"]
    other.destroy_node()


def test_call_soon_runs_after_everything_that_was_ready(node, executor, spin_until):
    order = []

    def first(data):
        order.append("message")
        assert executor.call_soon(lambda: order.append("soon"))

    receive_bytes(node, TEXT, first)
    sender = Sender(node, TEXT)
    spin_until(lambda: sender.subscribers)
    sender.send(messages.text("a"))
    sender.send(messages.text("b"))
    spin_until(lambda: len(order) == 4)
    assert order == ["message", "message", "soon", "soon"]
    assert not executor.call_soon(lambda: None)  # not in a callback
