"""An independent participant that hears one robot all the time, and can stop and restart it."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rclpy.context import Context
from rclpy.node import Node
from std_srvs.srv import Trigger

from efm_bringup.faults.trace import CAMERA, COMMAND, Heard, Trace
from efm_core import messages, topics
from efm_core.plan import EpisodePlan
from efm_core.topics import Topic, camera, twist_command
from efm_episode_manager import cdr
from efm_ros.channels import PLAN, STOP_REQUEST, Sender, receive_bytes
from efm_ros.dds import apply_dds_profile
from efm_ros.executor import DrainingExecutor
from efm_ros.qos import Clock

STAMP_END = 12
"""Bytes of a message whose type begins with a header, up to the stamp's end."""
_SIGNS = (
    camera("front"), topics.JOINT_STATES, topics.EE_POSE, topics.ACTION_CHUNK, topics.DECISION,
    topics.GUARD_STATE, topics.EPISODE_STATUS, topics.TELEOP_TWIST, twist_command("arm"),
)  # fmt: skip


class Observer:
    """Writes what it hears of `robot` to `trace`, in a thread; a context manager.

    `status` is the newest episode/status. Everything else is called from the owner's thread.
    """

    def __init__(self, robot: str, clock: Clock) -> None:
        apply_dds_profile()
        self.trace = Trace()
        self.status: dict[str, str] = {}
        self._robot = robot
        self._context = Context()
        self._context.init()
        self._node = Node("fault_observer", context=self._context)
        self._executor = DrainingExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._plan = Sender(self._node, PLAN)
        self._stop = Sender(self._node, STOP_REQUEST)
        self._services = {
            name: self._node.create_client(Trigger, name)
            for name in ("/fleet/clear_stop", f"/{robot}/episode/start")
        }
        for topic in _SIGNS:
            absolute = Topic(f"/{robot}/{topic.name}", topic.type, topic.qos)
            receive_bytes(self._node, absolute, self._keeper(topic), clock, "recorder")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="fault observer", daemon=True)

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._executor.wake()
        self._thread.join()  # nothing that is waited on may be taken away
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while not self._ending.is_set():
            self._executor.spin_once(timeout_sec=0.5)

    def publish(self, plan: EpisodePlan) -> None:
        """Put a plan in force."""
        self._plan.send(messages.text(plan.model_dump_json()))

    def request_stop(self) -> None:
        """One message on /fleet/stop_request."""
        self._stop.send(messages.empty())

    def clear_stop(self) -> Any:
        """Call /fleet/clear_stop; returns the future."""
        return self._services["/fleet/clear_stop"].call_async(Trigger.Request())

    def start(self) -> Any:
        """Call episode/start; returns the future."""
        return self._services[f"/{self._robot}/episode/start"].call_async(Trigger.Request())

    @property
    def services_ready(self) -> bool:
        """Whether stop, clear and start find somebody."""
        ready = all(client.service_is_ready() for client in self._services.values())
        return ready and self._stop.subscribers >= 2  # the fleet node and the guard

    def _keeper(self, topic: Topic) -> Callable[[bytes], None]:
        def keep(data: bytes) -> None:
            self.trace.heard.append(self._read(topic, data, time.monotonic()))

        return keep

    def _read(self, topic: Topic, data: bytes, at: float) -> Heard:
        stamp = cdr.stamp_ns(data)
        if topic.name == CAMERA:
            return Heard(at, topic.name, stamp, (float(zlib.crc32(data[STAMP_END:])),))
        if topic.name in (topics.JOINT_STATES.name, topics.ACTION_CHUNK.name):
            return Heard(at, topic.name, stamp)
        message = messages.deserialize(data, topic.type)
        if topic.name == COMMAND:
            linear = message.twist.linear
            speed = (linear.x**2 + linear.y**2 + linear.z**2) ** 0.5
            return Heard(at, topic.name, stamp, (speed,))
        if topic.name == topics.GUARD_STATE.name:
            scalars = messages.read_named_scalars(message)
            return Heard(at, topic.name, stamp, (scalars["source"], scalars["fault"]))
        if topic.name == topics.EE_POSE.name:
            x, y = messages.read_position(message)[:2]
            return Heard(at, topic.name, stamp, (float(x), float(y)))
        if topic.name == topics.EPISODE_STATUS.name:
            self.status = values = messages.read_status(message)
            return Heard(
                at, topic.name, stamp, (), values.get("phase", ""), values.get("episode_id", ""),
                values.get("plan", ""), int(values.get("plan_done", 0)),
            )  # fmt: skip
        return Heard(at, topic.name, stamp)
