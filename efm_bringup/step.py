"""A step of a longer job in a process of its own, so that its memory ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from efm_bringup.child import RUNNER_VARIABLE
from efm_bringup.signals import StopSignal

POLITE_SECONDS = 10.0
POLL_SECONDS = 0.2


class StepFailedError(RuntimeError):
    """A step ended badly; `status` is its exit status."""

    def __init__(self, command: str, status: int) -> None:
        super().__init__(f"`efm {command}` ended with status {status}; its last lines say why")
        self.status = status


def run_step(
    arguments: Sequence[str], environment: Mapping[str, str], stop: StopSignal
) -> None:
    """Run `efm ARGUMENTS`; its output goes where ours does.

    Raises KeyboardInterrupt when `stop` was received: the step got SIGINT, then KILL after 10 s.
    Raises StepFailedError for any exit status but 0 and 3 (something was skipped, and said so).
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "efm_bringup.child", "efm", *arguments],
        stdin=subprocess.DEVNULL,
        env={**environment, RUNNER_VARIABLE: str(os.getpid())},
        start_new_session=True,
    )
    try:
        while process.poll() is None and not stop.wait(POLL_SECONDS):
            pass
        if process.returncode is None:
            raise KeyboardInterrupt
    finally:
        _end(process)
    if process.returncode not in (0, 3):
        raise StepFailedError(" ".join(arguments), process.returncode)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(POLITE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
