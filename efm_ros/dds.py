"""The Fast DDS profile and the discovery settings that every process of a fleet runs under.

The profile (`config/dds_profile.xml`) gives shared memory a 16 MB segment, without which large
pictures are lost between processes, and lets nodes find each other within about 0.1 s.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
RANGE_VARIABLE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
HUMBLE_VARIABLE = "ROS_LOCALHOST_ONLY"
_PROFILE = Path("config") / "dds_profile.xml"
_SHARE = Path("share") / "efm_bringup" / _PROFILE
_SHARED_MEMORY = Path("/dev/shm")
_SEGMENT_LOCK = re.compile(r"(?:fastrtps|fastdds)_[0-9a-f]{16}_el")
_SETTLED_SECONDS = 10.0  # a younger lock may not be held yet: its participant is being made


def profile_path() -> Path:
    """The shipped profile: in a checkout, else below a prefix of the installation.

    Raises FileNotFoundError naming the places looked at.
    """
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes += [sys.prefix, sysconfig.get_path("data")]
    places = [Path(__file__).resolve().parent.parent / _PROFILE]
    places += [Path(prefix) / _SHARE for prefix in prefixes if prefix]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"dds_profile.xml is in none of {', '.join(map(str, places))}; install efm again, "
        f"or set {PROFILE_VARIABLE} to a Fast DDS profile of your own"
    )


def dds_environment(
    base: Mapping[str, str] | None = None, domain: int | None = None
) -> dict[str, str]:
    """A child's environment: `base` (default: this process's) plus profile and discovery.

    What `base` sets already stays. `domain` sets ROS_DOMAIN_ID. Discovery is confined to this
    machine unless `base` names another range.
    """
    environment = dict(os.environ if base is None else base)
    if RANGE_VARIABLE not in environment and environment.get("ROS_DISTRO") == "humble":
        # Humble knows only this switch; later distributions warn that it is deprecated.
        environment.setdefault(HUMBLE_VARIABLE, "1")
    if PROFILE_VARIABLE not in environment:
        environment[PROFILE_VARIABLE] = str(profile_path())
    environment.setdefault(RANGE_VARIABLE, "LOCALHOST")
    if domain is not None:
        environment["ROS_DOMAIN_ID"] = str(domain)
    return environment


def apply_dds_profile() -> None:
    """Give this process the profile, before its first rclpy context. What is set stays."""
    if PROFILE_VARIABLE not in os.environ:
        os.environ[PROFILE_VARIABLE] = str(profile_path())


def clear_abandoned_segments(folder: Path = _SHARED_MEMORY) -> int:
    """Free the shared memory of participants that were killed; returns how many segments.

    A killed process cannot unlink its segment (16 MB in our profile), and Fast DDS leaves those
    of others alone: a night of crashes and restarts would fill the machine's memory. A living
    participant holds a lock on `<segment>_el`; where the lock is free, its owner is dead. The
    small `port` files stay: Fast DDS uses them again.
    """
    cleared = 0
    for lock in folder.glob("fast*_el"):
        if _SEGMENT_LOCK.fullmatch(lock.name):
            cleared += _clear(lock)
    return cleared


def _clear(lock: Path) -> bool:
    try:
        if time.time() - lock.stat().st_mtime < _SETTLED_SECONDS:
            return False
        handle = os.open(lock, os.O_RDONLY)
    except OSError:  # another process was faster, or the file is another user's
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
    except OSError:  # held: its owner lives; or not ours to remove
        return False
    finally:
        os.close(handle)
    return True
