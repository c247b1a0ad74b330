"""Where every action dimension is, from the tool's pose and the joints' states together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efm_core.actions import ActionSpace
from efm_core.command_groups import CommandGroup

_AXES = ("x", "y", "z")


class Whereabouts:
    """Collects measurements until every dimension that can be measured has a new one.

    Then all of them are handed out together: one driver that fell silent makes the whole old,
    and the guard, which looks at the age of what it is handed, holds.
    `x`, `y`, `z` come from ee_pose, joints and grippers from joint_states; several publishers may
    share that topic. Rotations of the tool are not measured: NaN.
    """

    def __init__(self, groups: Sequence[CommandGroup], space: ActionSpace) -> None:
        self._names = space.names
        self._values = np.full(space.size, np.nan)
        self._joints: dict[str, int] = {}
        self._axes: dict[int, int] = {}
        for group in groups:
            for dim, joint in zip(group.dims, group.joint_names, strict=True):
                i = space.names.index(dim)
                if group.output != "twist":
                    self._joints[joint] = i
                elif dim in _AXES:
                    self._axes[_AXES.index(dim)] = i
        self._waiting = self._all()

    @property
    def needs_joints(self) -> bool:
        """Whether any dimension is measured by joint_states."""
        return bool(self._joints)

    @property
    def needs_pose(self) -> bool:
        """Whether any dimension is measured by ee_pose."""
        return bool(self._axes)

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the dimensions that are measured."""
        return tuple(name for i, name in enumerate(self._names) if i in self._all())

    def _all(self) -> set[int]:
        return {*self._joints.values(), *self._axes.values()}

    def on_position(self, xyz: ArrayLike) -> NDArray[np.float64] | None:
        """ee_pose: (3,), m. All positions, float64 (D,), when this completes them."""
        position = np.asarray(xyz, dtype=np.float64)
        return self._take({i: float(position[axis]) for axis, i in self._axes.items()})

    def on_joints(self, positions: Mapping[str, float]) -> NDArray[np.float64] | None:
        """joint_states: position by name; other joints are ignored. As `on_position`."""
        found = {i: positions[name] for name, i in self._joints.items() if name in positions}
        return self._take(found)

    def _take(self, found: Mapping[int, float]) -> NDArray[np.float64] | None:
        for i, value in found.items():
            if np.isfinite(value):
                self._values[i] = value
                self._waiting.discard(i)
        everything = self._all()
        if self._waiting or (everything and not found):
            return None
        self._waiting = everything
        return self._values.copy()
