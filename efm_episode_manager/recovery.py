"""Episodes that a manager left open: repaired and marked when the robot's next manager starts."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from efm_core.bags import recover
from efm_episode_manager.plans import RECORD_FILE

_log = logging.getLogger(__name__)


def recover_own(data_dir: Path, robot: str) -> list[Path]:
    """Recover every `<id>.partial` of `robot` in the data sets below `data_dir`.

    Call it while holding the robot's lock. Other robots' open episodes are left alone: they are
    being written to, and may be renamed at any moment. What has no record belongs to nobody: its
    writer was killed before its first message, and it is removed unless a living one is at it.
    Returns the recovered directories.
    """
    recovered = []
    for partial in sorted(data_dir.glob("*/*.partial")):
        owner = _owner(partial)
        if owner not in (robot, ""):
            continue
        try:
            found = recover(partial)
        except (OSError, ValueError) as error:
            say = _log.error if owner else _log.info  # most likely another robot is at it
            say("%s could not be recovered and is left as it is: %s", partial, error)
            continue
        if found is not None:
            recovered.append(found)
        elif partial.exists():
            _log.warning("%s holds nothing to recover and is left as it is", partial)
    return recovered


def _owner(partial: Path) -> str:
    """The robot whose episode this is, "" when its record is gone or unreadable."""
    try:
        return str(json.loads((partial / RECORD_FILE).read_text()).get("robot", ""))
    except (OSError, json.JSONDecodeError) as error:
        _log.info("%s: %s is not readable now: %s", partial, RECORD_FILE, error)
        return ""
