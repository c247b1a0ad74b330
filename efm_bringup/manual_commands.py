"""What a person or a reset asks of the guard, read from messages. Pure, without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from efm_core import messages
from efm_core.actions import ActionSpace
from efm_core.command_groups import CommandGroup


class ManualCommands:
    """Reads velocities (delta, unit/s) or targets (absolute, unit) of all dimensions, (D,).

    Every reader raises ValueError with the reason when the message is not understood.
    """

    def __init__(self, space: ActionSpace, groups: Sequence[CommandGroup], robot: str) -> None:
        self._space = space
        self._point = space.model_copy(update={"chunk": 1})
        self._frames = {"", space.frame, f"{robot}/{space.frame}"}
        self._dims = {j: d for g in groups for j, d in zip(g.joint_names, g.dims, strict=True)}

    def twist(self, message: Any) -> ArrayLike:
        """A TwistStamped in the robot's base frame."""
        if message.header.frame_id not in self._frames:
            raise ValueError(
                f"header.frame_id is '{message.header.frame_id}', expected '{self._space.frame}'"
            )
        return messages.action_from_twist(message, self._space)

    def joints(self, message: Any) -> ArrayLike:
        """Targets of all dimensions, by their names or those of the joints."""
        scalars = messages.read_named_scalars(message)
        targets = {self._dims.get(name, name): value for name, value in scalars.items()}
        missing = [name for name in self._space.names if name not in targets]
        if missing:
            raise ValueError(f"it lacks '{missing[0]}'; send all joints")
        return [targets[name] for name in self._space.names]

    def reset_motion(self, message: Any) -> ArrayLike:
        """One point of a reset's motion; an action of one tick, here a velocity or a target."""
        (action,) = messages.read_action_chunk(message, self._point)
        return action * self._space.rate if self._space.kind == "delta" else action
