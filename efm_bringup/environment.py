"""The ROS environment of a run: domain, discovery, DDS profile, threads; written to `ros.env`."""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from efm_ros.dds import HUMBLE_VARIABLE, PROFILE_VARIABLE, RANGE_VARIABLE, dds_environment

DOMAINS = range(42, 100)
_WRITTEN = (
    "ROS_DOMAIN_ID", RANGE_VARIABLE, HUMBLE_VARIABLE, PROFILE_VARIABLE, "RMW_IMPLEMENTATION",
)  # fmt: skip


class DomainLease:
    """One ROS domain id of this machine, held by a locked file until `close` or the process ends.

    The lock keeps two runs of efm apart. Other ROS programs are seen by the UDP port that the
    first participant of a domain listens on (DDS: 7410 + 250 x domain).
    """

    def __init__(self) -> None:
        folder = Path(tempfile.gettempdir()) / f"efm-domains-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        for domain in DOMAINS:
            file = (folder / str(domain)).open("w")
            if _lock(file) and _unused(domain):
                self.domain, self._file = domain, file
                return
            file.close()
        raise OSError(
            f"no free ROS domain in {DOMAINS.start}..{DOMAINS.stop - 1}: end a fleet that still "
            "runs, or set ROS_DOMAIN_ID to the one to use"
        )

    def close(self) -> None:
        """Give the domain back."""
        self._file.close()


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unused(domain: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7410 + 250 * domain))
        except OSError:
            return False
    return True


def ros_environment(
    base: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], DomainLease | None]:
    """A fleet's environment over `base` (default: this process's), and the lease of its domain.

    ROS_DOMAIN_ID, discovery range and DDS profile stay as they are where they are set; else a
    free domain is taken, discovery is confined to this machine and the shipped profile is named.
    One thread per process: the nodes share the cores. Raises OSError without a free domain.
    """
    environment = dict(os.environ if base is None else base)
    lease = None if environment.get("ROS_DOMAIN_ID") else DomainLease()
    environment = dds_environment(environment, lease.domain if lease else None)
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("PYTHONUNBUFFERED", "1")
    return environment, lease


def write_ros_env(path: Path, environment: Mapping[str, str]) -> None:
    """Write what another shell must `source` to see the fleet."""
    lines = [
        f"export {name}={shlex.quote(environment[name])}"
        for name in _WRITTEN
        if name in environment
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
