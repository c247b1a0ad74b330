"""A demo of a minute: settings and how to start it, shared by the tests that run one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from efm_bringup.environment import ros_environment

SETTINGS = {
    "demonstrations": 6, "validation": 2, "sft-steps": 60, "calibration": 4, "rounds": 1,
    "episodes-per-round": 10, "evaluation": 10, "repeated": 4, "limit": 12,
}  # fmt: skip
ROBOTS = ("robot1", "robot2")


def command(run_dir: Path) -> list[str]:
    """The command line of the demo in `run_dir`."""
    options = [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "efm_bringup.cli", "demo", "--run-dir", str(run_dir), *options]


@contextmanager
def own_domain() -> Iterator[Mapping[str, str]]:
    """The environment of a ROS domain that nobody else uses."""
    environment, lease = ros_environment(
        {k: v for k, v in os.environ.items() if k != "ROS_DOMAIN_ID"}
    )
    try:
        yield environment
    finally:
        if lease is not None:
            lease.close()


def left_running(run_dir: Path) -> list[str]:
    """Command lines of living processes that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:  # ended while looking
            continue
        if str(run_dir).encode() in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found
