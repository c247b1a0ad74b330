"""Positions read from attention maps -> the quantities that small heads find easy to use.

Unit of length here: decimetre (0.1 m), robot base frame, so that a board is a few units wide.
"""

from __future__ import annotations

import torch
from torch import Tensor

DECIMETRE = 0.1
"""Metres per unit of length inside the network."""

NEAR = 0.3
"""Scale in dm of the second, saturating copy of each vector: fine detail close to contact."""

BEHIND = 0.5
"""Distance in dm of the point behind A, seen from B, from which a pusher pushes A to B."""

RELATIONS = 33
"""Numbers returned by `relations`."""

CENTRES = 4
"""Points round which other blocks are looked for: pusher, A, B and the point behind A."""


def unit(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (..., 2) -> directions (..., 2) and lengths (..., 1); smooth at length zero."""
    length = (vector.square().sum(-1, keepdim=True) + 1e-4).sqrt()
    return vector / length, length


def behind_point(a: Tensor, b: Tensor) -> Tensor:
    """Positions A, B (B, 2) in dm -> the point (B, 2) from which A is pushed towards B."""
    direction, _ = unit(b - a)
    return a - BEHIND * direction


def relations(pusher: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Positions (B, 2) each, dm -> (B, RELATIONS): absolute, relative, polar and near-field terms.

    Absolute positions; vectors pusher->A, A->B, pusher->B and pusher->behind-A in dm; directions;
    lengths; the same vectors saturating at a few centimetres; and pusher->A along and across the
    direction of the push.
    """
    vectors = torch.stack([a - pusher, b - a, b - pusher, behind_point(a, b) - pusher], dim=1)
    directions, lengths = unit(vectors)
    push = directions[:, 1]
    along = (vectors[:, 0] * push).sum(-1, keepdim=True)
    across = vectors[:, 0, 0:1] * push[:, 1:2] - vectors[:, 0, 1:2] * push[:, 0:1]
    near = torch.tanh(torch.cat([along, across], dim=-1) / NEAR)
    return torch.cat(
        [
            pusher, a, b,
            vectors.flatten(1), directions.flatten(1),
            lengths[:, :3].flatten(1),
            torch.tanh(vectors[:, [0, 3]] / NEAR).flatten(1),
            along, across, near,
        ],
        dim=-1,
    )  # fmt: skip
