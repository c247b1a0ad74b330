"""A simulated robot and a person at a joystick: for tests of teleoperation over DDS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ros.test_loop import Fleet
from std_srvs.srv import Trigger

from efm_bringup.teleop.node import JOY, TeleopNode
from efm_core import messages, topics
from efm_core.fleet import (
    CameraDescription,
    FleetDescription,
    RobotDescription,
    save_fleet,
)
from efm_core.fleet_processes import processes
from efm_ros.channels import PLAN, STOPPED, Sender

ENABLE, SUCCESS, END, DISCARD, GIVE_BACK, DISCARD_LAST, FINISH = 4, 0, 1, 2, 3, 6, 7
GUARD = {"workspace": {"x": (0.2, 0.6), "y": (-0.2, 0.2)}, "max_acceleration": 1.0}
_JOY = messages.typestore.types[JOY.type]


class OperatedFleet(Fleet):
    """`test_loop.Fleet` with a person in the demonstrator's place and low accelerations."""

    def __init__(
        self, context, executor, probe, spin_until, space, folder: Path, clock: str = "lockstep"
    ) -> None:
        self.context, self.executor = context, executor
        self.probe, self.spin_until, self.clock = probe, spin_until, clock
        self.robot = RobotDescription(
            name="robot_1", cameras=(CameraDescription(name="front", width=32, height=32),),
            space=space, guard=GUARD,
        )  # fmt: skip
        description = FleetDescription(
            robots=(self.robot,), data_dir=folder / "data", models_dir=folder, reserve_mb=0.0,
            clock=clock,
        )  # fmt: skip
        self.fleet = save_fleet(description, folder / "fleet.yaml")
        self.data = folder / "data"
        self.args = {s.name: list(s.args) for s in processes(self.fleet, folder / "run")}
        probe.hear(topics.EPISODE_STATUS, topics.EPISODE_TICK, topics.TRUTH_STATE,
                   topics.GUARD_STATE)  # fmt: skip
        self.stopped, self.plans = Sender(probe, STOPPED), Sender(probe, PLAN)
        probe.create_timer(0.1, lambda: self.stopped.send(messages.boolean(False)))
        self.axes, self.buttons = np.zeros(6, np.float32), np.zeros(11, np.int32)
        self.plugged = True
        self._joy = Sender(probe, JOY)
        probe.create_timer(0.05, self._send_joy)

    def _send_joy(self) -> None:
        if self.plugged:
            header = messages.named_scalars(0, "", {}).header
            self._joy.send(_JOY(header, self.axes, self.buttons))

    def take_seat(self, pace: float = 20.0, timeout: float = 5.0) -> TeleopNode:
        """Start `efm_teleop` as the fleet's description would, and let it see the joystick.

        timeout: longer than a busy machine stalls, for after it the button must be pressed anew.
        """
        args = [*self.args["robot_1_guard"], "-p", f"pace:={pace}", "-p", f"timeout:={timeout}"]
        node = TeleopNode(context=self.context, cli_args=args)
        self.executor.add_node(node)
        self.spin_until(lambda: node._joystick._armed and node.pilot._takeover.service_is_ready())
        self.spin_until(
            lambda: all(client.service_is_ready() for client in node.pilot._services.values())
        )
        return node

    def steer(self, x: float, y: float, enable: bool = True) -> None:
        """Hold the stick (x forward, y left, -1..1) and the dead man's button, or let go."""
        self.axes[1], self.axes[0] = x, y
        self.buttons[ENABLE] = enable

    def tap(self, button: int, until) -> None:
        """Press a button until `until()` holds, and release it."""
        self.buttons[button] = 1
        self.spin_until(until)
        self.buttons[button] = 0

    def call(self, name: str):
        """Call the service `episode/<name>`."""
        client = self.probe.create_client(Trigger, f"episode/{name}")
        self.spin_until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.spin_until(future.done)
        return future.result()

    @property
    def phase(self) -> str:
        """The manager's phase."""
        return self.status().get("phase", "")

    def acted_by(self, source: int) -> int:
        """How many commands of that source the guard has sent."""
        heard = self.probe.heard[topics.GUARD_STATE.name]
        return sum(messages.read_named_scalars(m)["source"] == source for m in heard)
