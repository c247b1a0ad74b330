"""`efm bench learning`: runs of a protocol one after the other, as far as the time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from efm_bringup.installed import share
from efm_bringup.learning.protocol import PRESETS, Arm, Part
from efm_bringup.learning.run import LearningRun, frozen_hash
from efm_bringup.learning.summary import page, read_runs
from efm_bringup.rollouts import in_process
from efm_core.fleet import load_fleet

FROZEN = {"standard": "0f2237a3d052", "stress": "ed924057e8e2"}
"""preset -> its `frozen_hash`, written down before any seed but those of dev was run."""


def run_benchmark(
    preset: str,
    part: Part,
    out: Path,
    minutes: float,
    told: Callable[[str], None],
    arms: Collection[Arm] = (),
    sizes: Collection[int] = (),
) -> bool:
    """Advance the runs of a preset for about `minutes`; whether all are done.

    arms, sizes: only these runs; empty: all. Raises ValueError for test and reserve seeds when
    protocol or settings are not those that were written down beforehand.

    Results are small JSON files below `out/<preset>-<part>`, states to go on from in its `.state`;
    the page is `out/<preset>-<part>.md`. Several processes may share a folder if each is given
    runs of its own. A run that is cut short loses what it did since its last measured budget.
    """
    protocol = PRESETS[preset]
    wanted, found = FROZEN.get(preset), frozen_hash(protocol)
    if part != "dev" and found != wanted:
        raise ValueError(
            f"preset {preset} with today's settings is {found}, and {wanted or 'nothing'} was "
            f"frozen for it; tune on --part dev, then write {found} into FROZEN and commit that "
            f"before the one pass over {part}"
        )
    folder = out / f"{preset}-{part}"
    torch.set_num_threads(1)  # repeatable, and faster on a shared machine
    end = time.monotonic() + 60.0 * minutes
    fleet = load_fleet(share("config/fleet.yaml"))
    if unknown := {*arms, *sizes} - {*protocol.arms, *protocol.sizes}:
        raise ValueError(
            f"preset {preset} has no {', '.join(map(str, unknown))}; its arms are "
            f"{', '.join(protocol.arms)}, its sizes {', '.join(map(str, protocol.sizes))}"
        )
    runs = [
        run for run in protocol.runs(part)
        if (not arms or run[0] in arms) and (not sizes or run[1] in sizes)
    ]  # fmt: skip
    facts = {
        "limit": str(protocol.limit), "starts": str(protocol.starts), "part": part,
        "temperature": str(protocol.temperature), "protocol": found,
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
