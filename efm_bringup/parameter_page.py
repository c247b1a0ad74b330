"""docs/parameters.md, written from the tables that the nodes declare their parameters by."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from efm_ros.parameters import ParameterSpec

HEAD = """\
# Parameters

Written by `efm doctor --parameters > docs/parameters.md`; a test holds it against the code.

Where to set them: in the fleet file, under `parameters` of the robot (`sim`, `guard`, `manager`,
`demonstrator`) or of the fleet (`fleet`, `inference`, `trainer`, `monitor`), as in

    robots:
      - name: robot1
        parameters: {manager: {operator_s: 1200.0}}

or on a command line, `--ros-args -p operator_s:=1200.0`. What stands in the fleet file as a field
of its own (cameras, limits, clock, ...) is handed on from there and is not repeated under
`parameters`. A value is judged before it takes effect; one that is no good ends the process with a
line that names node, parameter, value and remedy, and so does a name that is a near miss. Those
marked *yes* under "live" may be changed while the node runs (`ros2 param set`); a change that is no
good is refused and changes nothing. An integer is no double to ROS: write `2.0`, not `2`.
"""


@dataclass(frozen=True, slots=True)
class Described:
    """A node on the page: its full name, its executable, the module of its table, a remark."""

    name: str
    executable: str
    module: str
    remark: str = ""


NODES = (
    Described("/<robot>/guard", "efm_guard", "efm_bringup.guard_node"),
    Described("/<robot>/episode_manager", "efm_episode_manager", "efm_episode_manager.parameters"),
    Described(
        "/inference", "efm_inference", "efm_bringup.inference_node",
        "Hands those of policy and reward on to the nodes of every robot.",
    ),
    Described(
        "/<robot>/policy", "efm_inference", "efm_policy_node.node", "Set them on `/inference`."
    ),
    Described(
        "/<robot>/reward", "efm_inference", "efm_reward_node.node", "Set them on `/inference`."
    ),
    Described("/fleet", "efm_fleet", "efm_bringup.fleet_node"),
    Described("/orchestrator", "efm_fleet", "efm_bringup.orchestrator"),
    Described("/<robot>/teleop", "efm_teleop", "efm_bringup.teleop.node"),
    Described("/monitor", "efm_monitor", "efm_bringup.monitor.node"),
    Described("/trainer", "efm_trainer", "efm_trainer.node"),
    Described("/<robot>/robot", "efm_sim_robot", "efm_sim.node", "The simulated robot."),
    Described("/<robot>/demonstrator", "efm_demonstrator", "efm_sim.demonstrator_node"),
)  # fmt: skip
"""Every node of the suite that has parameters."""


def table(described: Described) -> tuple[ParameterSpec, ...]:
    """The node's parameters. Imports its module, and with it what the node needs."""
    specs: tuple[ParameterSpec, ...] = importlib.import_module(described.module).PARAMETERS
    return specs


def page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD]
    for described in NODES:
        remark = f" {described.remark}" if described.remark else ""
        parts.append(f"\n## {described.name}\nStarted by `{described.executable}`.{remark}\n\n")
        parts.append(_rows(table(described)))
    return "".join(parts)


def _rows(specs: Sequence[ParameterSpec]) -> str:
    lines = [
        "| parameter | type | default | unit | range | live | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    for spec in specs:
        live = "yes" if spec.writable else ""
        cells = (
            f"`{spec.name}`", spec.type, _default(spec), spec.unit, spec.allowed, live,
            spec.description,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _default(spec: ParameterSpec) -> str:
    if spec.default in ("", ()):
        return ""
    if isinstance(spec.default, tuple):
        return ", ".join(map(str, spec.default))
    return str(spec.default).lower() if spec.type == "bool" else str(spec.default)
