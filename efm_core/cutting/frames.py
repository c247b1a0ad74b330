"""The pose of one frame in another from a stream of tf messages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Transform = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Position (3,) in m and unit quaternion (x, y, z, w), of the child in the parent."""


def product(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Hamilton product a b of quaternions (x, y, z, w)."""
    ax, ay, az, aw = np.asarray(a, dtype=np.float64)
    bx, by, bz, bw = np.asarray(b, dtype=np.float64)
    return np.array([
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    ])  # fmt: skip


def conjugate(q: ArrayLike) -> NDArray[np.float64]:
    """The inverse rotation of a unit quaternion (x, y, z, w)."""
    return np.asarray(q, dtype=np.float64) * (-1.0, -1.0, -1.0, 1.0)


def rotate(q: ArrayLike, vector: ArrayLike) -> NDArray[np.float64]:
    """A vector (3,) turned by a unit quaternion."""
    return product(product(q, np.append(np.asarray(vector), 0.0)), conjugate(q))[:3]


def rotation_vector(q: ArrayLike) -> NDArray[np.float64]:
    """Unit quaternion -> axis times angle in rad, (3,), the short way round."""
    x = np.asarray(q, dtype=np.float64)
    x = -x if x[3] < 0.0 else x
    sine = float(np.linalg.norm(x[:3]))
    if sine < 1e-12:
        return 2.0 * x[:3]
    return np.asarray(x[:3] / sine * 2.0 * np.arctan2(sine, x[3]))


def compose(a: Transform, b: Transform) -> Transform:
    """b seen through a: the child of b in the parent of a."""
    return a[0] + rotate(a[1], b[0]), product(a[1], b[1])


def inverse(t: Transform) -> Transform:
    """The parent in the child."""
    turned = conjugate(t[1])
    return -rotate(turned, t[0]), turned


def transform_of(message: Any) -> Transform:
    """A geometry_msgs Transform or Pose. Raises ValueError for NaN or no rotation at all."""
    at = message.translation if hasattr(message, "translation") else message.position
    turn = message.rotation if hasattr(message, "rotation") else message.orientation
    quaternion = np.array([turn.x, turn.y, turn.z, turn.w], dtype=np.float64)
    length = float(np.linalg.norm(quaternion))
    if not 0.5 < length < 2.0 or not np.isfinite([at.x, at.y, at.z]).all():
        raise ValueError("a pose without a rotation or with NaN")
    return np.array([at.x, at.y, at.z], dtype=np.float64), quaternion / length


class FrameTree:
    """The newest transform of every frame, and when it came.

    Between two frames each part of the way is taken as it was last heard; a publisher that sends
    all joints in one message (robot_state_publisher does) gives one instant's pose.
    """

    def __init__(self, base: str, tool: str) -> None:
        self.base, self.tool = base.lstrip("/"), tool.lstrip("/")
        self._parents: dict[str, tuple[str, Transform, int]] = {}

    def hear(self, parent: str, child: str, transform: Transform, stamp_ns: int) -> None:
        """One transform; stamp 0 for a static one."""
        self._parents[child.lstrip("/")] = (parent.lstrip("/"), transform, stamp_ns)

    def pose(self) -> tuple[int, Transform] | None:
        """(newest stamp on the way in ns, tool in base); None while they are not connected."""
        down, up = self._chain(self.tool), self._chain(self.base)
        common = next((frame for frame in down if frame in up), None)
        if common is None:
            return None
        tool_stamp, tool = down[common]
        base_stamp, base = up[common]
        return max(tool_stamp, base_stamp), compose(inverse(base), tool)

    def _chain(self, frame: str) -> dict[str, tuple[int, Transform]]:
        """Ancestor -> (newest stamp, `frame` in it), nearest first, with itself."""
        at: Transform = (np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
        stamp = 0
        found = {frame: (stamp, at)}
        while frame in self._parents:
            frame, step, heard = self._parents[frame]
            if frame in found:  # a loop: the recording's fault
                break
            at, stamp = compose(step, at), max(stamp, heard)
            found[frame] = (stamp, at)
        return found
