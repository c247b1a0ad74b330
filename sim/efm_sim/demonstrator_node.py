"""A scripted person with a joystick: drives demonstrations through the teleoperation topics.

Its eyes are the simulator's truth. It acts in episodes of mode `demo` alone, once per
observation, and says by `episode/success` or `episode/failure` what it thinks of the result.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rclpy.client import Client
from rclpy.context import Context
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from efm_core import messages, topics
from efm_ros.channels import Sender, receive
from efm_ros.entrypoint import run
from efm_ros.parameters import ParameterSpec, declare
from efm_sim.demonstrator import Demonstrator, TruthState


def _corner(value: Sequence[float]) -> None:
    if len(value) != 2:
        raise ValueError("give two numbers, x and y")


PARAMETERS = (
    ParameterSpec("scale", 1.0, "0 a clean expert, 1 a person, more is clumsier", "", 0, 10),
    ParameterSpec("speed_limit", 0.2, "fastest speed per axis", "m/s", 0.001, 5),
    ParameterSpec("control_hz", 10.0, "control rate of the robot", "Hz", 0.1, 1000),
    ParameterSpec(
        "workspace_low", (0.20, -0.20), "corner (x, y) of the workspace", "m", check=_corner
    ),
    ParameterSpec(
        "workspace_high", (0.60, 0.20), "corner (x, y) of the workspace", "m", check=_corner
    ),
    ParameterSpec(
        "patience", 0, "time after which it gives up; 0: never", "ticks", 0, 1_000_000
    ),
    ParameterSpec("seed", 0, "added to the scene's seed: another person, same scenes"),
)  # fmt: skip


class DemonstratorNode(Node):
    """Demonstrates in the namespace of one robot; parameters: `PARAMETERS`."""

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        super().__init__("demonstrator", context=context, **options)
        self._values = declare(self, PARAMETERS)
        self._driver = self._make_driver()
        self._episode: dict[str, str] = {}
        self._instruction, self._scene_seed = "", 0
        self._driven = ""
        self._ticks = 0
        self._verdict: Client | None = None
        self._call: Future | None = None
        self._truth: tuple[int, dict[str, float]] | None = None
        self._answer: tuple[int, bytes | None] = (-1, None)
        self._twist = Sender(self, topics.TELEOP_TWIST)
        self._success = self.create_client(Trigger, "episode/success")
        self._failure = self.create_client(Trigger, "episode/failure")
        receive(self, topics.RESET_STATUS, self._on_reset, lazy=True)  # a status follows both
        receive(self, topics.INSTRUCTION, self._on_instruction, lazy=True)
        receive(self, topics.EPISODE_STATUS, self._on_status)
        receive(self, topics.TRUTH_STATE, self._on_truth)

    def _value(self, name: str) -> Any:
        return self._values[name]

    def _make_driver(self) -> Demonstrator:
        low, high = self._value("workspace_low"), self._value("workspace_high")
        return Demonstrator(
            0, self._value("scale"), self._value("speed_limit"), self._value("control_hz"),
            (low[0], low[1]), (high[0], high[1]),
        )  # fmt: skip

    def _on_reset(self, message: Any) -> None:
        self._scene_seed = int(messages.read_status(message).get("scene_seed") or 0)

    def _on_instruction(self, message: Any) -> None:
        self._instruction = str(message.data)
        self._drive()

    def _on_status(self, message: Any) -> None:
        self._episode = messages.read_status(message)
        self._drive()

    def _on_truth(self, message: Any) -> None:
        self._truth = (messages.stamp_of(message), messages.read_named_scalars(message))
        self._drive()

    def _drive(self) -> None:
        """Answer the newest observation once; a repeated one gets the same answer again."""
        episode, truth = self._episode, self._truth
        driving = episode.get("mode") == "demo" and episode.get("phase") == "running"
        if not driving or truth is None or not self._instruction:
            return
        stamp_ns, scalars = truth
        if stamp_ns < int(episode["start_ns"]):
            return
        self._truth = None
        if episode["episode_id"] != self._driven:
            self._driven, self._ticks, self._verdict = episode["episode_id"], 0, None
            self._driver.restart(self._scene_seed + int(self._value("seed")))
            self._call = None
        if stamp_ns == self._answer[0]:
            self._repeat()
            return
        self._act(stamp_ns, TruthState.from_scalars(scalars, self._instruction))

    def _act(self, stamp_ns: int, truth: TruthState) -> None:
        if self._verdict is not None:
            return  # the still frames of an end that this node has not heard of yet
        patience = int(self._value("patience"))
        self._ticks += 1
        if truth.done or 0 < patience < self._ticks:
            self._answer = (stamp_ns, None)
            self._verdict = self._success if truth.done else self._failure
            self._judge()
            return
        vx, vy = (float(v) for v in self._driver.act(truth))
        lockstep = self._episode.get("clock") == "lockstep"
        stamp = stamp_ns if lockstep else int(self.get_clock().now().nanoseconds)
        self._answer = (stamp_ns, self._twist.send(messages.twist(stamp, "base", (vx, vy, 0.0))))

    def _repeat(self) -> None:
        data = self._answer[1]
        if data is not None:
            self._twist.send_bytes(data)
        else:
            self._judge()

    def _judge(self) -> None:
        """Say the verdict, one call at a time: a second one might hit the next episode.

        While the manager does not hear it, the world shows the same again and this is repeated.
        """
        waiting = self._call is not None and not self._call.done()
        if self._verdict is None or waiting or not self._verdict.service_is_ready():
            return
        self._call = self._verdict.call_async(Trigger.Request())


def main() -> None:
    """Entry point of `efm_demonstrator`."""
    sys.exit(run(DemonstratorNode))
