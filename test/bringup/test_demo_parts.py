"""The demo's state, plans, progress and steps."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from efm_bringup import progress_line, step
from efm_bringup.demo_state import DemoLog, DemoSettings
from efm_bringup.plans import demonstration_plan, scene_seed
from efm_bringup.progress_line import ProgressLine
from efm_bringup.signals import StopSignal
from efm_bringup.step import StepFailedError, run_step

ROBOTS = ["robot1", "robot2", "robot3"]


def test_a_demo_goes_on_where_it_was(tmp_path: Path) -> None:
    log = DemoLog(tmp_path, DemoSettings(seed=3))
    with log.timed("sft"):
        pass
    log.finish("demonstrations", {"episodes": 96})
    again = DemoLog(tmp_path, DemoSettings(seed=3))
    assert again.done("demonstrations")
    assert not again.done("sft")
    assert again.state == log.state


def test_time_of_interrupted_attempts_counts(tmp_path: Path) -> None:
    log = DemoLog(tmp_path, DemoSettings())
    log.state.seconds["sft"] = 10.0
    with pytest.raises(KeyboardInterrupt), log.timed("sft"):
        raise KeyboardInterrupt
    assert 10.0 <= DemoLog(tmp_path, DemoSettings()).state.seconds["sft"] < 11.0


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    DemoLog(tmp_path, DemoSettings()).finish("sft", {})
    with pytest.raises(ValueError, match=r"seed 0 -> 1.*--fresh"):
        DemoLog(tmp_path, DemoSettings(seed=1))


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(ValueError, match="--fresh"):
        DemoLog(tmp_path, DemoSettings())


def test_every_robot_demonstrates_for_both_splits() -> None:
    plan = demonstration_plan(ROBOTS, train=80, validation=16, seed=0)
    listed = [episode for episodes in plan.episodes.values() for episode in episodes]
    assert sorted(episode.index for episode in listed) == list(range(96))
    assert sum(episode.split == "validation" for episode in listed) == 16
    for episodes in plan.episodes.values():
        assert {episode.split for episode in episodes} == {"train", "validation"}


def test_evaluation_scenes_are_not_training_scenes() -> None:
    purposes = ("demo", "practice", "evaluation")
    seeds = [{scene_seed(0, purpose, i) for i in range(2000)} for purpose in purposes]
    assert all(len(s) == 2000 for s in seeds)
    assert not seeds[0] & seeds[2]
    assert not seeds[1] & seeds[2]


def test_progress_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress_line.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    line = ProgressLine("episode", stream)
    line.show(10, 50)  # taken up again: these 10 say nothing about the pace
    now[0] = 120.0
    line.show(20, 50)
    # 10 more in 20 s: 2 s each, 30 are left
    assert stream.getvalue().splitlines() == [
        "episode 10/50, 0 s",
        "episode 20/50, 20 s, about 60 s left",
    ]


def environment() -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'sim'}"}


def test_a_step_that_fails_is_named() -> None:
    with StopSignal() as stop, pytest.raises(StepFailedError, match="bags check /no/folder"):
        run_step(["bags", "check", "/no/folder"], environment(), stop)


def test_ctrl_c_ends_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int | None] = []
    end = step._end

    def watched(process: object) -> None:
        end(process)  # type: ignore[arg-type]
        ended.append(process.returncode)  # type: ignore[attr-defined]

    monkeypatch.setattr(step, "_end", watched)
    with StopSignal() as stop:
        stop._event.set()
        with pytest.raises(KeyboardInterrupt):
            run_step(["doctor"], environment(), stop)
    assert ended[0] is not None
