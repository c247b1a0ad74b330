"""The machine fails in mid-episode: its wall clock is set, its disk is full."""

from __future__ import annotations

import pytest
from manager.test_conductor import Played

from efm_core import messages, topics
from efm_core.episode import Outcome
from efm_episode_manager.state_machine import Phase

HOUR_NS = 3600 * 10**9


class Jumping(Played):
    """A robot, a guard and a manager whose machine's wall clock is `ahead_ns` of what it was."""

    ahead_ns = 0

    def wall_ns(self):
        return round(self.now * 1e9) + self.ahead_ns

    def run(self, seconds: float) -> None:
        """Time passes; everybody stamps by the wall clock."""
        for _ in range(round(seconds / 0.1)):
            self.newest = self.wall_ns()
            self.beat()

    def until_it_runs(self) -> None:
        self.start = self.newest = self.wall_ns()
        self.hear(topics.RESET_STATUS, messages.status(0, "reset", {
            "state": "done", "stamp_ns": str(self.start), "request": self.scenes[-1]["request"],
        }))  # fmt: skip
        self.beat()
        self.observe(0)
        assert self.phase is Phase.RUNNING


@pytest.fixture
def world(tmp_path):
    made = Jumping(tmp_path, clock="real")
    made.now = 1e5
    made.beat()
    made.plan(limit=30)
    made.until_it_runs()
    return made


def test_set_forward_an_episode_keeps_its_length(world):
    world.run(1.0)
    world.ahead_ns = HOUR_NS
    world.run(1.5)
    assert world.phase is Phase.RUNNING
    world.run(1.0)  # 3 s is its limit, then a moment for what is under way
    world.finish_job()
    (record,) = world.records()
    assert (record.termination_reason, record.ticks) == ("timeout", 30)
    assert record.phase_seconds["running"] == pytest.approx(3.5, abs=0.3)


def test_set_back_it_is_cut_and_the_next_one_runs(world):
    """Stamps from before the episode's start can't be its own: nothing is learnt from them."""
    world.run(1.0)
    world.ahead_ns = -HOUR_NS
    world.run(1.0)
    assert world.phase is Phase.RUNNING  # the manager's patience is 2 s
    world.run(1.5)
    world.finish_job()
    (record,) = world.records()
    assert (record.outcome, record.termination_reason) == (Outcome.INTERRUPTED, "fault:robot")
    world.run(0.2)
    world.until_it_runs()
    world.run(3.5)
    world.finish_job()
    assert {r.termination_reason for r in world.records()} == {"fault:robot", "timeout"}


def test_a_disk_that_refuses_ends_the_episode_and_says_so(world, monkeypatch):
    world.run(0.5)
    before = world.conductor.core.session.record.episode_id

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(world.conductor.core.scribe.recorder, "hear", full)
        world.run(0.1)
        assert "No space left on device" in world.conductor.core.reason
    ended = world.ended()
    assert (ended.outcome, ended.termination_reason) == (Outcome.FAULT, "fault:disk")
    world.finish_job()
    assert [r.episode_id for r in world.records()] == [before]  # what was written stays
