"""Shared memory that killed participants leave behind, with real processes of Fast DDS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from efm_ros import dds
from efm_ros.dds import clear_abandoned_segments, dds_environment

SHARED_MEMORY = Path("/dev/shm")
LOCK = re.compile(r"fast(rtps|dds)_[0-9a-f]{16}_el")
PARTICIPANT = """
import sys, rclpy
rclpy.init()
node = rclpy.create_node("stays")
print("up", flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(
    not SHARED_MEMORY.is_dir(), reason="NOT VERIFIED: no /dev/shm on this machine"
)


@pytest.fixture
def participant(domain: int) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", PARTICIPANT],
        stdin=pipe, stdout=pipe, text=True, env=dds_environment(domain=domain),
    )  # fmt: skip
    assert process.stdout is not None
    while "up" not in process.stdout.readline():
        assert process.poll() is None
    yield process
    process.kill()
    process.communicate()


def segments(process: subprocess.Popen[str]) -> set[Path]:
    """The segments whose lock the process keeps open: its own, not those it reads from."""
    opened = {Path(os.readlink(link)) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
    locks = {path for path in opened if LOCK.fullmatch(path.name)}
    return {lock.with_name(lock.name.removesuffix("_el")) for lock in locks}


def test_a_killed_participants_memory_is_freed_and_a_living_ones_is_not(
    participant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dds, "_SETTLED_SECONDS", 0.0)
    held = segments(participant)
    assert held
    clear_abandoned_segments()
    assert all(path.exists() for path in held)  # it lives
    participant.kill()
    participant.wait()
    assert all(path.exists() for path in held)  # what a kill leaves
    assert clear_abandoned_segments() >= len(held)
    assert not any(path.exists() or path.with_name(f"{path.name}_el").exists() for path in held)


def test_young_segments_ports_and_other_files_are_left_alone(tmp_path: Path) -> None:
    old, young = tmp_path / f"fastrtps_{'0b' * 8}", tmp_path / f"fastdds_{'0a' * 8}"
    kept = [young, tmp_path / f"{young.name}_el"]
    kept += [tmp_path / name for name in ("fastrtps_port7411", "fastrtps_port7411_el", "fast_el")]
    lock = tmp_path / f"{old.name}_el"
    for path in (old, lock, *kept):
        path.touch()
    for path in (lock, *kept[2:]):
        os.utime(path, (1.0, 1.0))
    assert clear_abandoned_segments(tmp_path) == 1
    assert set(tmp_path.iterdir()) == set(kept)
