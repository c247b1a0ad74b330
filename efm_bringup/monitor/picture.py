"""What is known of one robot, drawn: trail, predicted chunk, workspace, texts, outcomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray

from efm_bringup.monitor.layout import Place, extent, workspace
from efm_bringup.monitor.trail import Trail
from efm_core.actions import ActionSpace
from efm_core.fleet import RobotDescription
from efm_core.guard_report import Fault
from efm_core.limits import CARTESIAN
from efm_core.markers import Kind, Rgba, Shape

LAYERS = ("workspace", "trail", "effector", "chunk", "state", "fault", "history")
"""Namespaces of the markers of one robot."""
LINE_LENGTH = 32
"""Letters in a line of the instruction: longer ones would run into the next robot's."""
OUTCOMES = 20
"""Episodes in the success history."""
OUTCOME_COLORS: Mapping[str, Rgba] = {
    "success": (0.20, 0.80, 0.30, 1.0),
    "failure": (0.90, 0.30, 0.20, 1.0),
    "fault": (0.80, 0.20, 0.80, 1.0),
}
OTHER_OUTCOME: Rgba = (0.6, 0.6, 0.6, 1.0)
_NOTHING = np.empty((0, 3))
_WHITE, _RED = (1.0, 1.0, 1.0, 1.0), (1.0, 0.25, 0.2, 1.0)
_CYAN, _FAINT = (0.1, 0.9, 0.9, 1.0), (0.7, 0.7, 0.7, 0.8)
_MOVING = frozenset({"ready", "running", "paused", "ending"})
_EDGES = [(a, b) for a in range(8) for b in range(8) if a < b and (a ^ b) in (1, 2, 4)]
"""Pairs of corners of a box, by their bits x, y, z, that differ in one bit."""


class RobotPicture:
    """Takes what the topics of a robot say, in its base frame, and draws it at its place."""

    def __init__(self, robot: RobotDescription, place: Place) -> None:
        self._robot, self._place = robot, place
        self._box, self._extent = workspace(robot), extent(robot)
        self._scale = float(np.max(np.ptp(self._extent, axis=0)))
        self._trail = Trail()
        self._poses: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=30)
        self._chunk: tuple[int, str, NDArray[np.float64]] | None = None
        self._status: Mapping[str, str] = {}
        self._estimate: tuple[float, float] | None = None
        self._outcomes: dict[str, str] = {}
        self._instruction, self._fault = "", 0
        self.changed = True
        """Set by whatever was heard; whoever draws clears it."""

    # ---- hearing -----------------------------------------------------------------------------

    def on_pose(self, stamp_ns: int, position: NDArray[np.float64]) -> None:
        """`ee_pose`: position (3,), m."""
        self._trail.add_pose(stamp_ns, position)
        self._poses.append((stamp_ns, position))
        self.changed = True

    def on_reward(self, stamp_ns: int, scalars: Mapping[str, float]) -> None:
        """`reward/state`: steps_to_go and steps_to_go_std, in steps."""
        steps = scalars.get("steps_to_go", np.nan)
        if np.isfinite(steps):
            self._trail.add_steps(stamp_ns, steps)
        self._estimate = (steps, scalars.get("steps_to_go_std", np.nan))
        self.changed = True

    def on_chunk(self, stamp_ns: int, episode_id: str, values: NDArray[np.float64]) -> None:
        """`policy/action_chunk`: values (chunk, D), action-space units."""
        self._chunk = (stamp_ns, episode_id, values)
        self.changed = True

    def on_guard(self, scalars: Mapping[str, float]) -> None:
        """`guard/state`: the fault."""
        fault = int(scalars.get("fault", 0.0))
        self.changed |= fault != self._fault
        self._fault = fault

    def on_instruction(self, text: str) -> None:
        """`instruction`."""
        self._instruction, self.changed = text, True

    def on_status(self, status: Mapping[str, str]) -> None:
        """`episode/status`: its key-value pairs."""
        episode, before = status.get("episode_id", ""), self._status.get("episode_id", "")
        if episode and episode != before:
            self._trail.begin(_whole(status, "start_ns"))
            self._estimate = None
        if status.get("phase", "") not in _MOVING:
            self._trail.end()
        if episode and status.get("outcome"):
            self._outcomes[episode] = status["outcome"]
            for old in list(self._outcomes)[:-OUTCOMES]:
                del self._outcomes[old]
        self.changed |= status != self._status
        self._status = status

    # ---- drawing -----------------------------------------------------------------------------

    def shapes(self) -> list[Shape]:
        """One shape for each of `LAYERS`, points in the frame of the robot's place."""
        (x0, y0, _), (x1, y1, top) = self._extent.tolist()
        letter = 0.055 * self._scale
        beyond = np.array([[x1 + 0.1 * self._scale, (y0 + y1) / 2, top + 2 * letter]])
        above = beyond + np.array([0.0, 0.0, 6 * letter])
        return [
            self._at("workspace", Kind.LINE_LIST, self._edges(), 0.006 * self._scale, _FAINT),
            Shape(
                "trail",
                Kind.LINE_STRIP,
                self._moved(self._trail.points()),
                0.012 * self._scale,
                colors=self._trail.colors(),
            ),
            self._at("effector", Kind.SPHERE, self._effector(), 0.04 * self._scale, _WHITE),
            self._at("chunk", Kind.LINE_STRIP, self._predicted(), 0.012 * self._scale, _CYAN),
            self._at("state", Kind.TEXT_VIEW_FACING, beyond, letter, _WHITE, self.state_text()),
            self._at("fault", Kind.TEXT_VIEW_FACING, above, letter, _RED, self.fault_text()),
            self._history(x0, y0, y1),
        ]

    def state_text(self) -> str:
        """Phase, episode, instruction, steps-to-go and success, a line or more for each."""
        status = self._status
        lines = [f"{self._robot.name}: {status.get('phase', 'silent')}"]
        total = _whole(status, "plan_total")
        if total:
            current = min(_whole(status, "plan_done") + 1, total)
            lines[0] += f", episode {current} of {total}"
        if self._instruction:
            lines += wrap(self._instruction, LINE_LENGTH)
        if self._estimate is not None:
            lines.append("d = {:.1f} +- {:.1f} steps".format(*self._estimate))
        if self._outcomes:
            good = sum(outcome == "success" for outcome in self._outcomes.values())
            lines.append(f"success {good} of the last {len(self._outcomes)}")
        return "\n".join(lines)

    def fault_text(self) -> str:
        """Why the robot holds or what it needs; empty when all is well."""
        lines = []
        if self._fault:
            known = self._fault in set(Fault)
            lines.append(f"holding: {Fault(self._fault).name.lower() if known else self._fault}")
        if self._status.get("phase") == "needs_help":
            lines.append(f"needs help: {self._status.get('reason') or 'no reason given'}")
        return "\n".join(lines)

    def _at(
        self, ns: str, kind: Kind, points: NDArray[np.float64], size: float, color: Rgba,
        text: str = "",
    ) -> Shape:  # fmt: skip
        return Shape(ns, kind, self._moved(points), size, color, text=text)

    def _moved(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points + self._place.offset

    def _edges(self) -> NDArray[np.float64]:
        if self._box is None:
            return _NOTHING
        corner = [[self._box[bits >> axis & 1, axis] for axis in range(3)] for bits in range(8)]
        return np.array([corner[i] for edge in _EDGES for i in edge])

    def _effector(self) -> NDArray[np.float64]:
        return self._poses[-1][1][None] if self._poses else _NOTHING

    def _predicted(self) -> NDArray[np.float64]:
        """The newest chunk of the episode under way, from the pose that it was decided at."""
        status = self._status
        if self._chunk is None or not self._poses or status.get("phase") not in _MOVING:
            return _NOTHING
        stamp_ns, episode, values = self._chunk
        if episode != status.get("episode_id"):
            return _NOTHING
        seen = [position for stamp, position in self._poses if stamp <= stamp_ns]
        return chunk_path(self._robot.space, values, (seen or [self._poses[-1][1]])[-1])

    def _history(self, near: float, right: float, left: float) -> Shape:
        """The last outcomes along the near edge, oldest on the left."""
        cube = (left - right) / OUTCOMES
        y = left - cube * (np.arange(len(self._outcomes)) + 0.5)
        points = np.column_stack([np.full(len(y), near - 1.5 * cube), y, np.zeros(len(y))])
        colors = [OUTCOME_COLORS.get(o, OTHER_OUTCOME) for o in self._outcomes.values()]
        return Shape(
            "history",
            Kind.CUBE_LIST,
            self._moved(points),
            0.7 * cube,
            colors=np.array(colors, dtype=np.float64).reshape(-1, 4),
        )


def chunk_path(
    space: ActionSpace, values: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where a chunk (chunk, D) leads the effector from `start` (3,), m -> (chunk + 1, 3), m.

    Deltas add up; targets stand as they are; axes that the space does not hold stay at `start`.
    (0, 3) for an action space without x, y and z, or values that are not finite.
    """
    axes = [(CARTESIAN.index(name), i) for i, name in enumerate(space.names) if name in CARTESIAN]
    if not axes or not np.all(np.isfinite(values)):
        return _NOTHING
    path = np.tile(start, (len(values) + 1, 1))
    for axis, i in axes:
        if space.kind == "delta":
            path[1:, axis] += np.cumsum(values[:, i])
        else:
            path[1:, axis] = values[:, i]
    return path


def _whole(status: Mapping[str, str], key: str) -> int:
    text = status.get(key, "")
    return int(text) if text.isdigit() else 0
