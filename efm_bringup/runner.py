"""The embedded runner: starts a fleet's processes, restarts what crashes, ends all of it.

It stands in for `ros2 launch` on machines without a system ROS and starts the same executables
with the same arguments. One thread, no magic: the owner calls `poll` a few times per second.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from efm_bringup.child import RUNNER_VARIABLE

if TYPE_CHECKING:
    from efm_core.fleet_processes import ProcessSpec

_log = logging.getLogger(__name__)

CONFIGURATION_ERROR = 2
"""Exit status of a process that was given bad input: starting it again would not help."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Back-off in seconds before the first restart and at most; doubled per failure in a row."""
STEADY_AFTER = 30.0
"""Seconds a process must run before its failures are forgotten."""
POLITE_SECONDS = 10.0
"""Seconds between TERM and KILL. Each process of a fleet tells all others of every topic that it
leaves: for eight robots that is 4 s of CPU, and on two busy cores 5 s were not enough."""


def child_command(spec: ProcessSpec) -> list[str]:
    """The command line of a process: this interpreter, so that all of them find the same code."""
    return [sys.executable, "-m", "efm_bringup.child", spec.executable, *spec.args]


@dataclass
class Child:
    """One process of the fleet and its history. Times are time.monotonic() seconds."""

    spec: ProcessSpec
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    start_at: float = 0.0
    refused: bool = False
    exits: list[int] = field(default_factory=list)


class Runner:
    """Owns the processes of `specs`; a context manager that leaves none behind.

    run_dir: gets `logs/<name>.log` and `pids.json`. environment: of every process.
    restart: whether a process that ended is started again, after a back-off.
    command: how to start a process. steady_after: see STEADY_AFTER.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        run_dir: Path,
        environment: Mapping[str, str],
        restart: bool = True,
        command: Callable[[ProcessSpec], list[str]] = child_command,
        steady_after: float = STEADY_AFTER,
    ) -> None:
        self._children = [Child(spec) for spec in specs]
        self._run_dir = run_dir
        self._environment = {**environment, RUNNER_VARIABLE: str(os.getpid())}
        self._restart = restart
        self._command = command
        self._steady_after = steady_after
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Runner:
        for child in self._children:
            self._start(child)
        self._write_pids()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """Name -> process id of what runs now."""
        return {
            child.spec.name: child.process.pid
            for child in self._children
            if child.process is not None
        }

    @property
    def refused(self) -> list[str]:
        """Names of processes that ended over bad input; each one's log says which."""
        return [child.spec.name for child in self._children if child.refused]

    @property
    def restarts(self) -> int:
        """How many times a process ended by itself so far."""
        return sum(len(child.exits) for child in self._children)

    def log_path(self, name: str) -> Path:
        """Where the output of process `name` goes."""
        return self._run_dir / "logs" / f"{name}.log"

    def poll(self) -> None:
        """Notice what ended, start again what is due. Call it a few times per second."""
        now = time.monotonic()
        changed = False
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._ended(child, now)
                changed = True
            due = child.exits and not child.refused and now >= child.start_at
            if child.process is None and due and self._restart:
                self._start(child)
                changed = True
        if changed:
            self._write_pids()

    def stop(self) -> None:
        """TERM to all, 10 s, KILL; returns when none is left. `poll` restarts nothing after."""
        self._restart = False
        for child in self._children:
            _signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + POLITE_SECONDS
        for child in self._children:
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.warning("%s ignored SIGTERM for %g s: killed", child.spec.name, POLITE_SECONDS)
            _signal_group(child, signal.SIGKILL)  # it, or what it had started itself
            child.process.wait()
            self._forget(child)
        self._write_pids()

    def _start(self, child: Child) -> None:
        spec = child.spec
        child.log = self.log_path(spec.name).open("ab", buffering=0)
        command = self._command(spec)
        child.log.write(f"--- {time.strftime('%F %T')} {' '.join(command)}\n".encode())
        child.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=child.log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )
        child.started = time.monotonic()

    def _ended(self, child: Child, now: float) -> None:
        assert child.process is not None
        code, lasted = child.process.returncode, now - child.started
        _signal_group(child, signal.SIGKILL)  # whatever it had started itself
        self._forget(child)
        child.exits.append(code)
        name, log = child.spec.name, self.log_path(child.spec.name)
        if code == CONFIGURATION_ERROR:
            child.refused = True
            _log.error("%s refused its input: %s (%s)", name, last_line(log), log)
            return
        child.failures = 1 if lasted > self._steady_after else child.failures + 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (child.failures - 1))
        child.start_at = now + delay
        if self._restart:
            _log.warning("%s ended with %d: again in %g s (%s)", name, code, delay, log)

    def _forget(self, child: Child) -> None:
        if child.log is not None:
            child.log.close()
        child.log = child.process = None

    def _write_pids(self) -> None:
        path = self._run_dir / "pids.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.pids, indent=1) + "\n")
        temporary.replace(path)


def last_line(path: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _signal_group(child: Child, number: signal.Signals) -> None:
    if child.process is None:
        return
    try:
        os.killpg(child.process.pid, number)
    except ProcessLookupError:
        return  # it and all it started are gone already
