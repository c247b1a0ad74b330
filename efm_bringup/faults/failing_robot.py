"""A simulated robot some of whose resets fail on purpose, run as a module of its own.

Only the series `efm faults resets` starts it, in the place of `efm_sim_robot`.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from efm_bringup.child import RUNNER_VARIABLE, die_with
from efm_ros.entrypoint import run
from efm_sim.node import SimulatedRobotNode
from efm_sim.scene_request import SceneRequest

VARIABLE = "EFM_FAILING_RESETS"
"""Environment variable: JSON, scene seed -> [tries that fail, manner]."""

Manner = Literal["refuse", "silence"]


@dataclass(frozen=True, slots=True)
class Failure:
    """The first `tries` resets to a scene fail: by saying so, or by saying nothing."""

    tries: int
    manner: Manner


def as_text(failures: dict[int, Failure]) -> str:
    """The content of `VARIABLE`, by scene seed."""
    return json.dumps({str(seed): [f.tries, f.manner] for seed, f in failures.items()})


def from_text(text: str) -> dict[int, Failure]:
    """What `as_text` wrote."""
    return {int(seed): Failure(int(n), manner) for seed, (n, manner) in json.loads(text).items()}


class FailingRobotNode(SimulatedRobotNode):
    """As its base, but for the resets listed in the environment."""

    def __init__(self, **options: Any) -> None:
        self._failures = from_text(os.environ.get(VARIABLE, "{}"))
        self._failed: Counter[int] = Counter()
        super().__init__(**options)

    def _reset(self, scene: SceneRequest) -> None:
        seed = scene.seed
        failure = None if seed is None else self._failures.get(seed)
        if seed is None or failure is None or self._failed[seed] >= failure.tries:
            super()._reset(scene)
            return
        self._failed[seed] += 1
        if failure.manner == "refuse":
            reason = "made to fail by efm faults"
            self._status.announce(
                level=2, state="failed", request=scene.request or "", reason=reason
            )


def main() -> int:
    """Run the node; it dies with the runner that started it."""
    parent = os.environ.get(RUNNER_VARIABLE)
    if parent:
        die_with(int(parent))
    return run(FailingRobotNode)


if __name__ == "__main__":
    sys.exit(main())
