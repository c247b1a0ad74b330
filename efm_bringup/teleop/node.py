"""`efm_teleop`: a joystick (sensor_msgs/Joy on `joy`) drives one robot and its takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from rclpy.context import Context
from rclpy.node import Node

from efm_bringup.teleop.joystick import DIMENSIONS, Joystick, JoystickSettings
from efm_bringup.teleop.orders import Order
from efm_bringup.teleop.pilot import Pilot
from efm_core.topics import Topic
from efm_ros.channels import receive
from efm_ros.entrypoint import run
from efm_ros.parameters import (
    FLEET,
    ROBOT,
    ParameterSpec,
    declare,
    described_fleet,
    described_robot,
)

JOY = Topic("joy", "sensor_msgs/msg/Joy", recorded=False)
"""Below the robot's namespace; remap it (`-r joy:=/joy`) where one joystick has its own node."""

_DEFAULTS = JoystickSettings()
_PLAIN = ("speed", "turn_speed", "dead_zone", "timeout", "inverted")
PARAMETERS = (
    FLEET,
    ROBOT,
    ParameterSpec("speed", _DEFAULTS.speed, "speed at full deflection", "m/s", 0.001, 2.0),
    ParameterSpec(
        "turn_speed", _DEFAULTS.turn_speed, "rotation at full deflection", "rad/s", 0.001, 6.3
    ),
    ParameterSpec("dead_zone", _DEFAULTS.dead_zone, "deflection that counts as none", "", 0, 0.99),
    ParameterSpec(
        "timeout", _DEFAULTS.timeout, "silence of the joystick that stops the motion", "s", 0.02, 5
    ),
    ParameterSpec("pace", 1.0, "lockstep: times real time, at most", "", 0.01, 1000),
    ParameterSpec("inverted", (), "dimensions whose axis counts the other way"),
    ParameterSpec(
        "button_enable", _DEFAULTS.enable, "button that must be held for any motion", "", 0, 63
    ),
    *(
        ParameterSpec(
            f"axis_{name}", _DEFAULTS.axes.get(name, -1), f"axis of {name}; -1: none", "", -1, 63
        )
        for name in DIMENSIONS
    ),
    *(
        ParameterSpec(
            f"button_{order.value}", _DEFAULTS.buttons.get(order, -1),
            f"button for {order.value}; -1: none", "", -1, 63,
        )
        for order in Order
    ),
)  # fmt: skip


class TeleopNode(Node):
    """A joystick in the namespace `/<robot>`; parameters: `PARAMETERS`.

    Indices that are negative are not used.
    """

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        """Raises ValueError naming a parameter that is not understood."""
        super().__init__("teleop", context=context, **options)
        values = declare(self, PARAMETERS)
        fleet = described_fleet(values)
        robot = described_robot(self, fleet, values)
        settings = self._settings(values)
        fastest = robot.guard_settings(fleet.clock).teleop_speed
        if settings.speed > fastest:
            self.get_logger().warning(f"speed {settings.speed} m/s: the guard caps at {fastest}")
        self._joystick = Joystick(settings)
        self.pilot = Pilot(self, robot, self._joystick.velocity, pace=values["pace"])
        receive(self, JOY, self._on_joy)

    def _settings(self, values: Mapping[str, Any]) -> JoystickSettings:
        axes = {name: values[f"axis_{name}"] for name in DIMENSIONS}
        buttons = {order: values[f"button_{order.value}"] for order in Order}
        try:
            return JoystickSettings(
                axes={name: index for name, index in axes.items() if index >= 0},
                buttons={order: index for order, index in buttons.items() if index >= 0},
                enable=values["button_enable"],
                **{name: values[name] for name in _PLAIN},
            )
        except ValidationError as error:
            raise ValueError(f"teleop of '{self.get_namespace()}': {error}") from error

    def _on_joy(self, message: Any) -> None:
        orders = self._joystick.hear(message.axes, message.buttons, time.monotonic())
        for order in orders:
            self.pilot.order(order)


def main() -> None:
    """Entry point of `efm_teleop`."""
    sys.exit(run(TeleopNode))
