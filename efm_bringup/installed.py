"""Where the files that are not Python lie: in a checkout, a pip installation or a colcon one."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

_SHARE = Path("share") / "efm_bringup"


def share(name: str) -> Path:
    """The shipped file or folder `name`, such as config/fleet.yaml.

    Raises FileNotFoundError naming the places looked at.
    """
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes += [sys.prefix, sysconfig.get_path("data")]
    places = [Path(__file__).resolve().parent.parent / name]
    places += [Path(prefix) / _SHARE / name for prefix in prefixes if prefix]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(
        f"{name} is in none of {', '.join(map(str, places))}; install efm again (`make venv`)"
    )
