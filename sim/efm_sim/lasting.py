"""Whether the next episode can begin from where the blocks lie, and which task it then gets.

This is the simulated robot's own reset: it may know where the blocks are, as the person at a real
board does. Nobody else is told more than a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from efm_sim.bodies import PUSHER_RADIUS
from efm_sim.config import Workspace
from efm_sim.shapes import BLOCK_RADIUS
from efm_sim.start import PUSHER_GAP, START_TARGET_GAP, TOOL_BORDER
from efm_sim.tasks import parse_instruction, phrase_instruction

Point = tuple[float, float]
Pose = tuple[float, float, float]
Start = tuple[str, tuple[str, str], Point]
"""Instruction, its (block, destination), and where the tool is set down, (x, y) in m."""
CONTACT = BLOCK_RADIUS + PUSHER_RADIUS
"""Distance of the pusher's axis from the centre of the largest block that it touches, m."""
LEAST_GAP = 0.06
"""Least distance in m of a pair that is a task: a centimetre more than success."""
_ATTEMPTS = 500


def next_start(
    seed: int, instruction: str | None, workspace: Workspace, blocks: Mapping[str, Pose]
) -> Start | str:
    """How to go on from blocks at these poses, or the sentence why nobody can.

    Drawn from `seed` alone: the spot on which the arm sets its lifted tool down, as at every
    start uniform and PUSHER_GAP from all blocks, and, without `instruction`, the task.
    """
    centres = {name: (x, y) for name, (x, y, _) in blocks.items()}
    if reason := unusable(workspace, centres):
        return reason
    rng = np.random.default_rng([abs(int(seed)), int(seed < 0), 1])
    choices = tasks(workspace, centres)
    target = choices[int(rng.integers(len(choices)))]
    text = phrase_instruction(rng, *target)
    if instruction is not None:
        text, target = instruction, parse_instruction(instruction)
        if target not in choices:
            return f"{text!r} can't begin from where the blocks lie"
    spot = _free_spot(rng, workspace, list(centres.values()))
    return "there is no room for the tool" if spot is None else (text, target, spot)


def unusable(workspace: Workspace, centres: Mapping[str, Point]) -> str:
    """Why nobody can go on from blocks with these centres (x, y; m, base frame), "" if one can.

    Fallen: the centre is out of the workspace, where the pusher can't go. Stuck: in a corner, less
    than CONTACT from two borders; along one border a block can still be pushed, and away from it
    by pushing at its side. Otherwise there must be a task (`tasks`).
    """
    low, high = workspace.low, workspace.high
    for name, centre in centres.items():
        room = [min(c - lo, hi - c) for c, lo, hi in zip(centre, low, high, strict=True)]
        if min(room) < 0.0:
            return f"the {name} has fallen off"
        if max(room) < CONTACT:
            return f"the {name} is stuck in a corner"
    return "" if tasks(workspace, centres) else "no block can be pushed to another"


def tasks(workspace: Workspace, centres: Mapping[str, Point]) -> list[tuple[str, str]]:
    """Pairs (block, destination) that can begin: START_TARGET_GAP or more apart as at every start.

    Where blocks have gathered and no pair is, those LEAST_GAP apart, which are not solved either.
    """
    return _tasks(workspace, centres, START_TARGET_GAP) or _tasks(workspace, centres, LEAST_GAP)


def _tasks(
    workspace: Workspace, centres: Mapping[str, Point], gap: float
) -> list[tuple[str, str]]:
    """Pairs `gap` (m) or more apart with room for the pusher behind the block."""
    found = []
    for a, start in centres.items():
        for b, end in centres.items():
            apart = math.dist(start, end)
            if a == b or apart < gap:
                continue
            behind = [s - (e - s) / apart * CONTACT for s, e in zip(start, end, strict=True)]
            if all(
                lo <= p <= hi
                for p, lo, hi in zip(behind, workspace.low, workspace.high, strict=True)
            ):
                found.append((a, b))
    return found


def _free_spot(
    rng: np.random.Generator, workspace: Workspace, centres: Sequence[Point]
) -> Point | None:
    low, high = np.array(workspace.low) + TOOL_BORDER, np.array(workspace.high) - TOOL_BORDER
    for _ in range(_ATTEMPTS):
        x, y = rng.uniform(low, high).tolist()
        if all(math.dist((x, y), centre) >= PUSHER_GAP for centre in centres):
            return float(x), float(y)
    return None
