"""Random start scenes: where the blocks and the pusher stand before an episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from efm_sim.config import Workspace

START_GAP = 0.07
"""Least distance in m between any two centres at the start."""
START_TARGET_GAP = 0.10
"""Least distance in m between the two centres of the task at the start."""
BORDER = 0.055
"""Least distance in m of a centre from the workspace's border, so that the pusher fits behind."""
PUSHER_GAP = 0.05
"""Least distance in m of the pusher's axis from any centre at the start."""
TOOL_BORDER = 0.02
"""Least distance in m of the pusher's axis from the workspace's border at the start."""
_ATTEMPTS = 500


def start_scene(
    rng: np.random.Generator,
    workspace: Workspace,
    names: Sequence[str],
    target: tuple[str, str],
) -> tuple[dict[str, tuple[float, float, float]], tuple[float, float]]:
    """Poses (x, y, yaw; m, rad, base frame) of the blocks `names`, and the pusher's (x, y) in m.

    Uniform over the workspace less BORDER, by rejection. Raises ValueError when the blocks do not
    fit at these distances.
    """
    low, high = np.array(workspace.low), np.array(workspace.high)
    pair = [names.index(name) for name in target]
    for _ in range(_ATTEMPTS):
        centres = _spread(rng, low + BORDER, high - BORDER, len(names))
        if centres is None:
            continue
        if np.linalg.norm(centres[pair[0]] - centres[pair[1]]) < START_TARGET_GAP:
            continue
        pusher = rng.uniform(low + TOOL_BORDER, high - TOOL_BORDER)
        if np.min(np.linalg.norm(centres - pusher, axis=1)) < PUSHER_GAP:
            continue
        yaws = rng.uniform(-np.pi, np.pi, len(names))
        poses = {
            name: (float(x), float(y), float(yaw))
            for name, (x, y), yaw in zip(names, centres, yaws, strict=True)
        }
        return poses, (float(pusher[0]), float(pusher[1]))
    raise ValueError(
        f"{len(names)} blocks do not fit {START_GAP} m apart into the workspace "
        f"{workspace.low}..{workspace.high}; put fewer in play or enlarge it"
    )


def _spread(
    rng: np.random.Generator, low: NDArray[np.float64], high: NDArray[np.float64], count: int
) -> NDArray[np.float64] | None:
    """`count` points (count, 2) at least START_GAP apart, one after the other; None when stuck."""
    points = np.empty((count, 2))
    for i in range(count):
        for _ in range(30):
            points[i] = rng.uniform(low, high)
            if i == 0 or np.min(np.linalg.norm(points[:i] - points[i], axis=1)) >= START_GAP:
                break
        else:
            return None
    return points
