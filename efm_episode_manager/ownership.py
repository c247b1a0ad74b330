"""One manager per robot, and a stop that outlives it: two small files below the data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class RobotLock:
    """An advisory lock on `<data>/.<robot>.lock`; the kernel frees it when the process dies."""

    def __init__(self, data_dir: Path, robot: str) -> None:
        """Take the lock.

        Raises ValueError when another manager of this robot holds it.
        """
        data_dir.mkdir(parents=True, exist_ok=True)
        self.path = data_dir / f".{robot}.lock"
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise ValueError(
                f"{self.path}: robot '{robot}' already has an episode manager (process {holder}); "
                "end that one first, or give this robot another name or data_dir"
            ) from error
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._file)


class StopMark:
    """`<data>/.<robot>.stopped`: after a stop nothing moves until `episode/start`.

    A manager that is restarted in between must know that, so the stop is a file.
    """

    def __init__(self, data_dir: Path, robot: str) -> None:
        self._path = data_dir / f".{robot}.stopped"

    def reason(self) -> str | None:
        """Why the robot was stopped, None when it is not."""
        return self._path.read_text() if self._path.exists() else None

    def set(self, reason: str) -> None:
        """Remember the stop."""
        self._path.write_text(reason)

    def clear(self) -> None:
        """`episode/start` was called."""
        self._path.unlink(missing_ok=True)
