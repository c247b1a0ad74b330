"""`efm bench learning`: runs of a protocol one after the other, as far as the time allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from efm_bringup.installed import share
from efm_bringup.learning.protocol import PRESETS, Part
from efm_bringup.learning.run import LearningRun
from efm_bringup.learning.summary import page, read_runs
from efm_bringup.rollouts import in_process
from efm_core.fleet import load_fleet


def run_benchmark(
    preset: str, part: Part, out: Path, minutes: float, told: Callable[[str], None]
) -> bool:
    """Advance the runs of a preset for about `minutes`; whether all are done.

    Results are small JSON files below `out/<preset>-<part>`, states to go on from in its `.state`;
    the page is `out/<preset>-<part>.md`. Several processes may share a folder if each is given
    runs of its own. A run that is cut short loses what it did since its last measured budget.
    """
    protocol = PRESETS[preset]
    folder = out / f"{preset}-{part}"
    torch.set_num_threads(1)  # repeatable, and faster on a shared machine
    end = time.monotonic() + 60.0 * minutes
    fleet = load_fleet(share("config/fleet.yaml"))
    runs = protocol.runs(part)
    facts = {
        "limit": str(protocol.limit), "starts": str(protocol.starts), "part": part,
        "temperature": str(protocol.temperature), "protocol": protocol.hash,
        "command": f"efm bench learning --preset {preset} --part {part}",
    }  # fmt: skip
    with in_process(fleet, record=False) as robots:
        for number, (arm, size, seed) in enumerate(runs, 1):
            label = f"[{number}/{len(runs)}] {arm}, {size} demonstrations, seed {seed}"
            tell = _labelled(label, told)
            run = LearningRun(protocol, arm, size, seed, robots, folder / ".state", tell)
            result = folder / f"{arm}-{size}-{seed}.json"
            while run.advance(result):
                (out / f"{folder.name}.md").write_text(page(read_runs(folder), facts))
                if time.monotonic() > end:
                    return False
    return True


def _labelled(label: str, told: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: told(f"{label}: {text}")
