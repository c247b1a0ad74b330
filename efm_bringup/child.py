"""Start of every process that the embedded runner owns: `python -m efm_bringup.child NAME ...`.

Asks the kernel to end this process when the runner dies, however it dies, and then runs the
executable's main function as its console script would.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys

from efm_bringup.executables import EXECUTABLES

RUNNER_VARIABLE = "EFM_RUNNER_PID"
_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """SIGKILL for this process when its parent, process id `parent`, ends.

    Everything here survives a kill by design (bags are recovered, arms hold), while a polite
    signal could leave a hung process behind. Raises OSError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent:  # it died before the request
        raise SystemExit(f"the runner, process {parent}, is gone")


def main() -> int:
    """Run the executable named by the first argument with the rest as its command line."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in EXECUTABLES:
        raise SystemExit(f"unknown executable '{name}'; there are: {', '.join(EXECUTABLES)}")
    parent = os.environ.get(RUNNER_VARIABLE)
    if parent:
        die_with(int(parent))
    module, function = EXECUTABLES[name].split(":")
    sys.argv = sys.argv[1:]
    result = getattr(importlib.import_module(module), function)()
    return int(result or 0)


if __name__ == "__main__":
    sys.exit(main())
