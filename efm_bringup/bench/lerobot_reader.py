"""LeRobot's data set reader with video decoding, in a process and environment of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


def find_lerobot(python: str = "") -> str:
    """The interpreter that can import LeRobot: the one named, else this one; "" for none.

    Raises ValueError for a named one that cannot.
    """
    if not python:
        return sys.executable if importlib.util.find_spec("lerobot") else ""
    command = [python, "-c", "import importlib.util as i; exit(not i.find_spec('lerobot'))"]
    try:
        found = subprocess.run(command, check=False).returncode == 0
    except OSError as error:
        raise ValueError(f"--lerobot {python}: {error}; name a Python interpreter") from error
    if not found:
        raise ValueError(f"--lerobot {python}: it has no LeRobot; pip install lerobot there")
    return python


class LeRobotReader:
    """Reads the same rows of the same pictures as video; call it to read them all once.

    facts: LeRobot's version and the decoder it chose.
    """

    def __init__(
        self, python: str, folder: Path, pictures: Sequence[NDArray[np.uint8]], rows: Sequence[int]
    ) -> None:
        """Write the pictures as a video data set below `folder`, which must not exist.

        rows: numbers over all pictures, one episode after the other. Raises RuntimeError with what
        LeRobot said.
        """
        folder.mkdir(parents=True)
        for number, episode in enumerate(pictures):
            np.save(folder / f"{number:06}.npy", episode, allow_pickle=False)
        (folder / "rows.json").write_text(json.dumps([int(row) for row in rows]))
        environment = {
            **os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "PYTHONPATH": "",
        }  # fmt: skip
        child = Path(__file__).with_name("lerobot_child.py")
        self._log = folder / "log.txt"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, str(child), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, env=environment,
            )  # fmt: skip
        try:
            self.facts: dict[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def __call__(self) -> None:
        """Read all rows once."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._answer()

    def __enter__(self) -> LeRobotReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """End LeRobot's process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        said = self._log.read_text(errors="replace")[-1500:]
        raise RuntimeError(f"LeRobot's process ended; it said: {said}")
