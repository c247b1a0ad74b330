"""The main function of every node process: start, spin, stop cleanly."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NoReturn

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.node import Node

from efm_core.fleet_processes import NODE_FLAG
from efm_ros.dds import apply_dds_profile, clear_abandoned_segments
from efm_ros.executor import DrainingExecutor, RCLError

CONFIGURATION_ERROR = 2
"""Exit status for bad input: starting again would not help."""

TEARDOWN_SECONDS = 5.0
"""Longest time for taking the DDS participant down; see `_destroy`. Shorter than the patience of
runner and `ros2 launch` (5 s, then TERM, 5 s, then KILL)."""


def run(
    factory: Callable[[], Node | Sequence[Node]],
    args: Sequence[str] | None = None,
    yields: int = 0,
) -> int:
    """Spin the node or nodes that `factory` makes until SIGINT, SIGTERM or shutdown.

    yields: added to the process's niceness. Where the cores are scarce, who records, draws or
    learns gives way to who moves the robot: with eight robots on two cores that made the
    difference between 17 and 0.2 % of late commands (docs/log.md).
    `args` are the command line with its --ros-args (default: sys.argv). Returns the exit
    status: 0 after a requested stop, 2 after a ValueError or OSError of the factory (bad
    configuration), which is logged as one line. Any other exception passes through.
    """
    os.nice(yields)
    apply_dds_profile()
    if abandoned := clear_abandoned_segments():
        get_logger("efm").info(f"freed {abandoned} shared-memory segments of killed processes")
    gc.freeze()  # what was imported stays: the collector need not look at all of torch again
    rclpy.init(args=None if args is None else list(args))
    try:
        return _spin(factory)
    finally:
        gc.collect()  # what is left of the nodes, and with the last one the DDS participant
        rclpy.try_shutdown()
        faulthandler.cancel_dump_traceback_later()


def each(make: Callable[..., Node], args: Sequence[str] | None = None) -> Callable[[], list[Node]]:
    """A factory of one node per section of the command line that begins with `NODE_FLAG`.

    A section is that node's command line and nobody else's. Without a section: one node.
    args: default `sys.argv`.
    """

    def factory() -> list[Node]:
        sections: list[list[str]] = []
        for argument in sys.argv if args is None else args:
            if argument == NODE_FLAG:
                sections.append([])
            elif sections:
                sections[-1].append(argument)
        if not sections:
            return [make()]
        return [make(cli_args=section, use_global_arguments=False) for section in sections]

    return factory


def leave(status: int) -> NoReturn:
    """End this process at once with `status`, after `run` has taken down what matters.

    The interpreter would first clear every module; with torch among them that is a second of
    work, and more than the runner's patience on a busy machine.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _spin(factory: Callable[[], Node | Sequence[Node]]) -> int:
    executor = DrainingExecutor()
    nodes: list[Node] = []
    try:
        made = factory()
        nodes.extend([made] if isinstance(made, Node) else made)
        for node in nodes:
            executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RCLError:
        if rclpy.ok():  # else a callback was publishing while a signal ended the context
            raise
    except (ValueError, OSError) as error:
        if nodes:  # a defect while running, not a configuration error
            raise
        get_logger("efm").fatal(str(error))
        return CONFIGURATION_ERROR
    finally:
        executor.shutdown()
        _destroy(nodes)
    return 0


def _destroy(nodes: Sequence[Node]) -> None:
    """Destroy nodes, and with the last one the DDS participant.

    Fast DDS 2.14 can lock up, at full load and for good, when a participant is destroyed while
    others leave, as when a whole fleet stops: DomainParticipant::set_listener waits for callbacks
    that wait for its mutex. Then the process ends after `TEARDOWN_SECONDS` with status 1.
    """
    with ExitStack() as participant:
        for node in nodes:
            participant.enter_context(node.handle)
        for node in nodes:
            node.destroy_node()  # may take its time: the manager finishes a bag
        faulthandler.dump_traceback_later(TEARDOWN_SECONDS, exit=True)
