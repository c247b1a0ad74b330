"""The fleet's stop: latched, and kept in a file so that a restart doesn't release it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)


class StopLatch:
    """Stopped or not, on disk in `path`; a file that can't be read means stopped.

    Stopping never fails: a full disk must not keep the robots moving. Clearing does (OSError),
    because a release that a restart forgets would be a surprise.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.stopped, self.reason = self._read()

    def stop(self, reason: str) -> None:
        """Stop, for `reason`; tell the robots, then `keep` it."""
        self.stopped, self.reason = True, reason

    def keep(self) -> None:
        """Write the state down; a disk that refuses is logged, the stop holds all the same."""
        try:
            self._write()
        except OSError as error:
            _log.error("stopped, but %s can't keep it over a restart: %s", self._path, error)

    def clear(self) -> None:
        """Release. Raises OSError when the file can't be written; then it stays stopped."""
        before = self.stopped, self.reason
        self.stopped, self.reason = False, ""
        try:
            self._write()
        except OSError:
            self.stopped, self.reason = before
            raise

    def _read(self) -> tuple[bool, str]:
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return False, ""
        try:
            content = json.loads(text)
            return bool(content["stopped"]), str(content.get("reason", ""))
        except (ValueError, KeyError, TypeError) as error:
            return True, f"{self._path} is damaged ({error}): stopped to be safe"

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w") as file:
            json.dump({"stopped": self.stopped, "reason": self.reason}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
