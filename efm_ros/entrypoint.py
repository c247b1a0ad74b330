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

from efm_ros.dds import apply_dds_profile
from efm_ros.executor import DrainingExecutor, RCLError

CONFIGURATION_ERROR = 2
"""Exit status for bad input: starting again would not help."""


TEARDOWN_SECONDS = 10.0
"""Longest time for taking the DDS participant down; see `_destroy`."""


def run(factory: Callable[[], Node | Sequence[Node]], args: Sequence[str] | None = None) -> int:
    """Spin the node or nodes that `factory` makes until SIGINT, SIGTERM or shutdown.

    `args` are the command line with its --ros-args (default: sys.argv). Returns the exit
    status: 0 after a requested stop, 2 after a ValueError or OSError of the factory (bad
    configuration), which is logged as one line. Any other exception passes through.
    """
    apply_dds_profile()
    gc.freeze()  # what was imported stays: the collector need not look at all of torch again
    rclpy.init(args=None if args is None else list(args))
    try:
        return _spin(factory)
    finally:
        gc.collect()  # what is left of the nodes, and with the last one the DDS participant
        rclpy.try_shutdown()
        faulthandler.cancel_dump_traceback_later()


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
