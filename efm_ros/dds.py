"""The Fast DDS profile and the discovery settings that every process of a fleet runs under.

The profile (`config/dds_profile.xml`) gives shared memory a 16 MB segment, without which large
pictures are lost between processes, and announces participants every 200 ms.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
RANGE_VARIABLE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
_PROFILE = Path("config") / "dds_profile.xml"
_SHARE = Path("share") / "efm_bringup" / _PROFILE


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
