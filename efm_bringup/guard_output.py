"""The guard's outgoing side: commands to the drivers, its own account, its log."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rclpy.node import Node

from efm_core import messages
from efm_core.command_groups import CommandGroup
from efm_core.command_messages import command_message
from efm_core.commands import CommandMaker
from efm_core.guard import Fault, GuardReport, GuardSettings
from efm_core.topics import GUARD_STATE, command
from efm_ros.channels import Sender


class GuardOutput:
    """Publishers of one guard."""

    def __init__(self, node: Node, settings: GuardSettings, groups: Sequence[CommandGroup]) -> None:
        self._node, self._settings, self._groups = node, settings, groups
        self._real = settings.clock == "real"
        self._drivers = {g.name: Sender(node, command(g.name, g.output)) for g in groups}
        self._state = Sender(node, GUARD_STATE)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was sent before."""
        self._maker = CommandMaker(self._groups, self._settings)
        self._fault: Fault | None = None

    def send(self, report: GuardReport) -> None:
        """The command first, then what was done: whoever sees the state has the command."""
        stamp_ns = self._wall_ns() if report.stamp_ns is None else report.stamp_ns
        sent_ns = self._wall_ns() if self._real else stamp_ns
        for due in self._maker.commands(report, time.monotonic()):
            self._drivers[due.group.name].send(command_message(due, sent_ns))
        self._state.send(
            messages.guard_state(
                stamp_ns, report.executed, self._settings.space, int(report.source),
                report.modified, int(report.fault), report.chunk_age, report.point_index,
            )
        )  # fmt: skip
        if report.fault is not self._fault:
            self._log_fault(report)

    def _log_fault(self, report: GuardReport) -> None:
        self._fault = report.fault
        logger = self._node.get_logger()
        if report.fault is Fault.NONE:
            logger.info(f"no fault; source {report.source.name.lower()}")
        else:
            logger.warning(f"holding: {report.fault.name.lower()}: {'; '.join(report.reasons)}")

    def _wall_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)
