"""The stop survives restarts and damaged files; releasing must be kept or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from efm_bringup.stop_latch import StopLatch


def test_a_fresh_fleet_is_not_stopped(tmp_path: Path) -> None:
    assert not StopLatch(tmp_path / "state.json").stopped


def test_a_stop_survives_a_restart_until_it_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    latch = StopLatch(path)
    latch.stop("button")
    latch.keep()
    again = StopLatch(path)
    assert (again.stopped, again.reason) == (True, "button")
    again.clear()
    assert not StopLatch(path).stopped


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"reason": "x"}'])
def test_a_damaged_file_means_stopped(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    latch = StopLatch(path)
    assert latch.stopped
    assert str(path) in latch.reason


def test_a_stop_holds_without_a_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    latch = StopLatch(tmp_path / "none" / "state.json")
    latch._path = tmp_path / "file" / "state.json"  # a file is no folder: every write fails
    latch.stop("button")
    latch.keep()
    assert latch.stopped
    with pytest.raises(OSError, match="file"):
        latch.clear()
    assert latch.stopped
