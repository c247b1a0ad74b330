"""A joystick's axes and buttons -> velocities and orders. No ROS in here; times come in.

The enable button is a dead man's switch: nothing moves while it is not held. After a silence, and
at the start, it must be seen released before it counts: a button that is stuck, or held while the
connection was away, moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from efm_bringup.teleop.orders import Order

DIMENSIONS = ("x", "y", "z", "rx", "ry", "rz")
"""Of a twist: linear x, y, z in m/s and angular x, y, z in rad/s, robot base frame."""

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class JoystickSettings(BaseModel):
    """What moves what; the defaults fit an Xbox-like pad under ROS's `joy_node`.

    axes: dimension -> index of the axis; full deflection to the left or up is +1. inverted:
    dimensions whose axis counts the other way. buttons: order -> index. enable: index of the dead
    man's button. speed in m/s (along the stick, not per axis), turn_speed in rad/s per axis.
    dead_zone: deflection that counts as none. timeout: s without a message that stop the motion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    axes: Mapping[str, int] = Field(default_factory=lambda: {"x": 1, "y": 0, "z": 4})
    inverted: tuple[str, ...] = ()
    buttons: Mapping[Order, int] = Field(
        default_factory=lambda: {
            Order.SUCCESS: 0, Order.END: 1, Order.DISCARD: 2, Order.GIVE_BACK: 3,
            Order.DISCARD_LAST: 6, Order.FINISH: 7,
        }
    )  # fmt: skip
    enable: Annotated[int, Field(ge=0)] = 4
    speed: Positive = 0.2
    turn_speed: Positive = 0.5
    dead_zone: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    timeout: Positive = 0.3

    @model_validator(mode="after")
    def _known(self) -> JoystickSettings:
        unknown = sorted({*self.axes, *self.inverted} - set(DIMENSIONS))
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no dimension of a twist; use one of {DIMENSIONS}")
        return self


class Joystick:
    """The state of one joystick."""

    def __init__(self, settings: JoystickSettings) -> None:
        self._settings = settings
        self._axes: tuple[float, ...] = ()
        self._buttons: tuple[int, ...] = ()
        self._heard = -np.inf
        self._armed = False

    def hear(self, axes: Sequence[float], buttons: Sequence[int], now: float) -> list[Order]:
        """A message (axes in -1..1, buttons 0 or 1) at steady time `now`, s.

        Returns the orders of the buttons that went down since the message before.
        """
        silent = now - self._heard >= self._settings.timeout
        before = self._buttons
        self._axes = tuple(float(value) for value in axes)
        self._buttons = tuple(int(value) for value in buttons)
        self._heard = now
        held = self._pressed(self._settings.enable, self._buttons)
        self._armed = not held or (self._armed and not silent)
        if silent:  # what was pressed meanwhile is not known
            return []
        return [
            order
            for order, index in self._settings.buttons.items()
            if self._pressed(index, self._buttons) and not self._pressed(index, before)
        ]

    def velocity(self, now: float) -> NDArray[np.float64] | None:
        """What is asked for, float64 (6,), see `DIMENSIONS`; None while not enabled."""
        settings = self._settings
        if now - self._heard >= settings.timeout or not self._armed:
            return None
        if not self._pressed(settings.enable, self._buttons):
            return None
        stick = np.array([self._deflection(name) for name in DIMENSIONS])
        stick[:3] *= settings.speed / max(1.0, float(np.linalg.norm(stick[:3])))
        stick[3:] *= settings.turn_speed
        return stick

    def _deflection(self, name: str) -> float:
        index, dead = self._settings.axes.get(name, -1), self._settings.dead_zone
        value = self._axes[index] if 0 <= index < len(self._axes) else 0.0
        if not abs(value) > dead:  # NaN counts as none
            return 0.0
        scaled = min((abs(value) - dead) / (1.0 - dead), 1.0)
        return float(np.copysign(scaled, value)) * (-1.0 if name in self._settings.inverted else 1)

    @staticmethod
    def _pressed(index: int, buttons: Sequence[int]) -> bool:
        return 0 <= index < len(buttons) and buttons[index] == 1
