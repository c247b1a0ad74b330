"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

LIBRARIES = ("numpy", "torch", "onnxruntime", "mcap", "rosbags", "pybullet", "rclpy")


class Machine(BaseModel):
    """Facts that a figure depends on.

    cores: that this process may use. load: load average over the last minute when the measurement
    began; much above 0 means that something else ran too. libraries: name -> version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str
    cores: int
    cpu: str
    kernel: str
    python: str
    load: float
    libraries: dict[str, str]


def this_machine() -> Machine:
    """The machine as it is now."""
    return Machine(
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        cores=len(os.sched_getaffinity(0)),
        cpu=_cpu_model(),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load=round(os.getloadavg()[0], 2),
        libraries={name: found for name in LIBRARIES if (found := _version(name))},
    )


def withheld_seconds() -> float:
    """CPU seconds that a virtual machine's host gave to others since the start, all cores.

    "steal" of proc(5): on a machine of one's own it stays 0. 0.0 where /proc does not say.
    """
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else 0.0


def filesystem(path: Path) -> str:
    """Type of the file system that holds `path` ("ext4"), "" where /proc does not say."""
    resolved = str(path.resolve())
    best, kind = "", ""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, point, found, *_ = line.split()
        inside = point == "/" or resolved == point or resolved.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    # The ROS 2 wheels are called after their Debian packages.
    for candidate in (name, f"{name}-gpu", f"ros-jazzy-{name}"):
        try:
            return version(candidate)
        except PackageNotFoundError:
            continue
    return ""
