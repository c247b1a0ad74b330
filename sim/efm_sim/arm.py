"""A planar arm of two links (SCARA): joint angles to pusher position and back.

Frame: the robot's base, x forward over the board, y left, metres; joints in rad.
Formulas: law of cosines; see any robotics text, e.g. Craig, Introduction to Robotics, section 4.4.
"""

from __future__ import annotations

from math import acos, atan2, cos, hypot, sin

UPPER = 0.36
FORE = 0.36
JOINTS: tuple[str, str] = ("shoulder", "elbow")


def forward(shoulder: float, elbow: float) -> tuple[float, float]:
    """Joint angles in rad -> pusher position (x, y) in m, base frame."""
    return (
        UPPER * cos(shoulder) + FORE * cos(shoulder + elbow),
        UPPER * sin(shoulder) + FORE * sin(shoulder + elbow),
    )


def inverse(x: float, y: float) -> tuple[float, float]:
    """Pusher position (x, y) in m, base frame -> (shoulder, elbow) in rad, elbow to the left.

    Raises ValueError where the arm does not reach.
    """
    distance = hypot(x, y)
    if not abs(UPPER - FORE) < distance < UPPER + FORE:
        raise ValueError(f"position ({x:.3f}, {y:.3f}) m lies outside the arm's reach")
    cosine = (distance**2 - UPPER**2 - FORE**2) / (2 * UPPER * FORE)
    elbow = -acos(cosine)
    shoulder = atan2(y, x) - atan2(FORE * sin(elbow), UPPER + FORE * cos(elbow))
    return shoulder, elbow
