"""The client of a trainer whose answers get lost, as DDS does before it knows the client."""

from __future__ import annotations

import threading

import pytest

rclpy = pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from rclpy.node import Node  # noqa: E402
from rclpy.task import Future  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from efm_bringup import trainer_client  # noqa: E402
from efm_bringup.trainer_client import TrainerClient  # noqa: E402
from efm_ros.channels import TRAINER_STATUS  # noqa: E402
from efm_ros.executor import DrainingExecutor  # noqa: E402
from efm_ros.status import StatusSender  # noqa: E402


class FakeTrainer(Node):
    """Starts when told, refuses to start twice, is done at the next poll."""

    def __init__(self, context) -> None:
        super().__init__("trainer", context=context)
        self.declare_parameter("improve", "")
        self.started = 0
        self._status = StatusSender(
            self, TRAINER_STATUS, "trainer", state="idle", round=-1, version="", progress="0",
            eta_s="", reason="",
        )  # fmt: skip
        self.create_service(Trigger, "/trainer/improve", self._start)

    def _start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.started += 1
        response.success = self.started == 1
        response.message = "a job is running"
        self._status.announce(state="improve")
        return response


@pytest.fixture
def trainer(context, domain, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    executor = DrainingExecutor(context=context)
    node = FakeTrainer(context)
    executor.add_node(node)
    ended = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    yield node
    ended.set()
    thread.join()
    executor.shutdown()
    node.destroy_node()


@pytest.mark.parametrize("lost", ["settings", "start"])
def test_a_lost_answer_is_asked_for_again_and_starts_once(trainer, monkeypatch, lost):
    monkeypatch.setattr(trainer_client, "ANSWER_SECONDS", 1.0)
    with TrainerClient() as client:
        if lost == "settings":
            real, calls = client._parameters.call_async, []

            def call_async(request):
                calls.append(request)
                return Future() if len(calls) == 1 else real(request)

            monkeypatch.setattr(client._parameters, "call_async", call_async)
        else:
            made = client._node.create_client

            def create_client(kind, name):
                found = made(kind, name)
                send = found.call_async

                def deaf(request):
                    send(request)
                    return Future()

                found.call_async = deaf
                return found

            monkeypatch.setattr(client._node, "create_client", create_client)
        client._ask({"name": "practice"}, lambda _: None)
    assert trainer.started == 1
    assert trainer.get_parameter("improve").value == '{"name": "practice"}'
