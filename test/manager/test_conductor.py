"""The manager's behaviour without ROS: a played robot, a played clock, real bags."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from efm_core import messages, topics
from efm_core.actions import ActionDim, ActionSpace
from efm_core.bags import check_episode, list_episodes, read_record
from efm_core.episode import Outcome
from efm_core.plan import EpisodePlan
from efm_episode_manager.conductor import Conductor
from efm_episode_manager.hearing import Hearing
from efm_episode_manager.services import OperatorServices
from efm_episode_manager.settings import ManagerSettings
from efm_episode_manager.state_machine import Phase

SPACE = ActionSpace(
    dims=tuple(ActionDim(name=n, unit="m", low=-0.02, high=0.02) for n in ("x", "y"))
)
PERIOD = 100_000_000


class Played:
    """`Outside` and everything round the manager: robot, guard, models, fleet, clock."""

    def __init__(self, tmp_path, **settings) -> None:
        self.now, self.data = 100.0, tmp_path
        self.sent: list[tuple[str, object]] = []
        self.scenes: list[dict] = []
        self.jobs: list[Callable] = []
        self.present = {"robot", "guard", "fleet", "policy", "reward"}
        self.start = 0
        self.refuse = ""
        values = {"reserve_bytes": 0, "breaker": 3, "instructions": ("push it",), **settings}
        self.settings = ManagerSettings(robot="arm0", data_dir=tmp_path, space=SPACE, **values)
        self.conductor = Conductor(self.settings, self)
        self.hearing = Hearing(self.conductor)
        self.operator = OperatorServices(self.conductor)

    # ---- Outside
    def steady_s(self):
        return self.now

    def wall_ns(self):
        return round(self.now * 1e9)

    def send(self, topic, message):
        self.sent.append((topic.name, message))
        return messages.serialize(message, topic.type)

    def reset_ready(self):
        return "robot" in self.present

    def request_reset(self, scene):
        self.scenes.append(dict(scene))
        if self.refuse:
            self.conductor.course.reset_refused(self.refuse, scene["request"])

    def wake_by(self, topic):
        self.cue = topic

    def hurry(self, on):
        self.hurried = on

    def work(self, session, job):
        self.jobs.append((session, job))

    # ---- the others
    def hear(self, topic, message):
        self.hearing.hear(topic.name, messages.serialize(message, topic.type), self.wall_ns())

    def beat(self, seconds=0.1):
        """Time passes; whoever is present gives a sign of life."""
        self.now += seconds
        values = {"episode_id": self.episode_id, "state": "ready", "version": "v1"}
        if "fleet" in self.present:
            self.conductor.set_fleet_stopped(False)
        if "robot" in self.present:
            self.hear(topics.JOINT_STATES, messages.named_scalars(self.newest, "base", {"j": 0}))
        if "guard" in self.present:
            self.guard(self.wall_ns(), 0)
        if "policy" in self.present:
            self.hear(topics.POLICY_STATUS, messages.status(0, "policy", values))
        if "reward" in self.present:
            self.hear(topics.REWARD_STATUS, messages.status(0, "reward", values))
        self.conductor.poll()

    newest = 1

    def guard(self, stamp_ns, source, fault=0):
        state = messages.guard_state(stamp_ns, [0, 0], SPACE, source, False, fault, 0.0, 0)
        self.hear(topics.GUARD_STATE, state)

    @property
    def episode_id(self):
        session = self.conductor.core.session
        return session.record.episode_id if session else ""

    @property
    def phase(self):
        return self.conductor.phase

    def plan(self, count=3, mode="practice", limit=5, **values):
        episodes = {"arm0": [{"index": i, "limit": limit} for i in range(count)]}
        plan = EpisodePlan(plan_id="p", mode=mode, data_set="set", episodes=episodes, **values)
        self.conductor.set_plan(plan.model_dump_json())

    def reset_done(self, **values):
        self.start += 1000 * PERIOD + 12_345  # wall stamps never lie on the grid
        self.newest = self.start
        self.hear(topics.RESET_STATUS, messages.status(0, "reset", {
            "state": "done", "stamp_ns": str(self.start), "scene_seed": "7",
            "request": self.scenes[-1]["request"], **values,
        }))  # fmt: skip

    def observe(self, tick, success=False, truth=False, acted=True):
        """The world's observation of `tick`, answered by policy, guard and reward."""
        stamp = self.start + tick * PERIOD
        self.newest = stamp
        image = messages.image(stamp, "front", np.full((8, 8, 3), tick, np.uint8))
        self.hear(topics.camera("front"), image)
        self.hear(topics.TRUTH_STATE, messages.named_scalars(stamp, "", {"success": float(truth)}))
        self.hear(topics.JOINT_STATES, messages.named_scalars(stamp, "base", {"j": 0.0}))
        if "policy" in self.present:
            chunk = messages.action_chunk(stamp, self.episode_id, SPACE, [[0.01, 0.0]])
            self.hear(topics.ACTION_CHUNK, chunk)
        if acted:
            self.guard(stamp, 1)
        if "reward" in self.present:
            self.hear(topics.REWARD_STATE, messages.reward_state(stamp, "v1", 3.0, 1.0, 0, success))

    def ticks(self):
        found = [m for name, m in self.sent if name == topics.EPISODE_TICK.name]
        return [
            ((messages.stamp_of(m) - self.start) // PERIOD, messages.read_named_scalars(m)["still"])
            for m in found
            if messages.stamp_of(m) >= self.start
        ]

    def until_running(self, **plan):
        self.beat()
        self.plan(**plan)
        self.reset_done()
        self.beat()
        self.observe(0)
        assert self.phase is Phase.RUNNING

    def finish_job(self, error=None):
        session, job = self.jobs.pop(0)
        path = job() if error is None else None
        self.conductor.course.saved(session, path, error)

    def ended(self):
        """The record of the episode that waits to be saved."""
        ((session, _),) = self.jobs
        return session.record

    def records(self):
        folders = list_episodes(self.data / "set") if (self.data / "set").exists() else []
        return [read_record(folder) for folder in folders]


@pytest.fixture
def world(tmp_path):
    return Played(tmp_path)


def test_a_successful_episode_from_plan_to_bag(world):
    world.until_running(policy_version="v1", reward_version="v1", limit=9)
    for tick in (1, 2):
        world.observe(tick)
    world.observe(3, success=True, truth=True)
    assert world.phase is Phase.ENDING
    for tick in (4, 5, 6):
        world.observe(tick, acted=False)
    assert world.ticks() == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 1)]
    assert world.phase is Phase.ENDING
    world.observe(7, acted=False)  # the fourth still frame
    assert world.phase is Phase.RESETTING  # the next episode need not wait for the disk
    assert (world.cue, world.hurried) == ("reward/state", False)
    assert world.conductor.core.status()["plan_done"] == "0"  # nor is one done before it is saved
    world.finish_job()
    (record,) = world.records()
    assert (record.outcome, record.termination_reason) == (Outcome.SUCCESS, "detector")
    assert (record.ticks, record.success_tick, record.saved) == (3, 3, True)
    assert record.labels.truth is True
    assert record.labels.operator is None
    assert record.start_ns == world.start
    assert record.instruction == "push it"
    assert record.scene_seed == 7
    assert record.topics["/arm0/joint_states"].on_time == 8
    (folder,) = list_episodes(world.data / "set")
    assert check_episode(folder) == []
    assert world.conductor.core.status()["plan_done"] == "1"


def test_time_limit_ends_an_episode_without_still_frames(world):
    world.until_running(limit=3)
    for tick in (1, 2, 3):
        world.observe(tick)
    assert world.ticks() == [(0, 0), (1, 0), (2, 0)]
    world.finish_job()
    (record,) = world.records()
    assert (record.outcome, record.termination_reason) == (Outcome.FAILURE, "timeout")
    assert record.ticks == 3


def test_nothing_starts_before_everyone_needed_is_there(world):
    world.present = {"robot", "guard", "fleet"}
    world.beat()
    world.plan()
    assert world.phase is Phase.IDLE
    assert world.conductor.core.reason == "waiting for policy, reward"
    world.plan(mode="demo")
    assert world.phase is Phase.RESETTING


def test_running_needs_the_echo_of_the_wanted_versions(world):
    world.beat()
    world.plan(policy_version="v2")
    world.reset_done()
    world.observe(0)
    world.beat()
    assert world.phase is Phase.READY  # v1 answered
    values = {"episode_id": world.episode_id, "state": "ready", "version": "v2"}
    world.hear(topics.POLICY_STATUS, messages.status(0, "policy", values))
    assert world.phase is Phase.RUNNING
    assert world.ticks() == [(0, 0)]


@pytest.mark.parametrize(("version", "limit", "who"), [("v2", 60, "policy"), ("v1", 10, "robot")])
def test_loading_may_take_longer_than_answering(world, version, limit, who):
    world.beat()
    world.plan(policy_version=version)
    world.reset_done()
    world.present.remove("robot") if who == "robot" else None
    for _ in range(limit * 10 - 1):
        world.conductor.core.liveness.hear("robot", world.now)
        world.beat()
    assert world.phase is Phase.READY
    world.conductor.core.liveness.hear("robot", world.now)
    for _ in range(3):
        world.beat()
    assert world.phase is not Phase.READY
    assert who in world.conductor.core.reason


def test_a_refused_checkpoint_is_retried_until_the_breaker_stops(world):
    world.beat()
    world.plan(policy_version="v2")
    for _ in range(3):
        assert world.phase is Phase.RESETTING
        world.reset_done()
        values = {"episode_id": world.episode_id, "state": "error", "reason": "cut file"}
        world.hear(topics.POLICY_STATUS, messages.status(0, "policy", values))
        world.beat(1.5)
    assert world.phase is Phase.STOPPED
    assert "3 episodes in a row failed (policy: cut file)" in world.conductor.core.reason
    assert world.records() == []
    assert list((world.data / "set").glob("*")) == []


def test_practice_in_vain_pauses_until_somebody_has_looked(tmp_path):
    world = Played(tmp_path, failure_breaker=2)
    world.until_running(count=9, limit=1)
    while world.phase is not Phase.PAUSED:
        world.observe(1)
        assert world.ended().outcome is not Outcome.SUCCESS
        world.finish_job()
        if world.phase is Phase.RESETTING:
            world.reset_done()
            world.beat()
            world.observe(0)
    # The next episode begins while the disk still works on the last.
    assert len(world.records()) == 3
    assert "practice episodes in a row without success" in world.conductor.core.reason
    status = next(m for name, m in world.sent[::-1] if name == topics.EPISODE_STATUS.name)
    assert status.status[0].level == 1
    world.beat(30.0)
    assert world.phase is Phase.PAUSED
    assert len(world.records()) == 3  # kept
    assert world.operator.resume()[0]
    world.beat()
    assert world.phase is Phase.RESETTING
    assert world.conductor.core.reason == ""


@pytest.mark.parametrize("party", ["policy", "reward", "robot", "guard", "fleet"])
def test_a_silent_party_interrupts_the_episode_and_the_next_waits_for_it(world, party):
    world.until_running()
    world.observe(1)
    world.present.remove(party)
    for _ in range(19):
        world.beat()
    assert world.phase is Phase.RUNNING
    for _ in range(3):
        world.beat()
    assert world.phase is Phase.IDLE
    world.finish_job()
    (record,) = world.records()
    assert (record.outcome, record.termination_reason) == (Outcome.INTERRUPTED, f"fault:{party}")
    assert world.phase is Phase.IDLE
    assert party in world.conductor.core.reason
    world.present.add(party)
    world.beat()
    assert world.phase is Phase.RESETTING
    assert world.conductor.core.progress.next().index == 1  # counted, not replaced


def test_a_restarted_policy_does_not_know_the_episode(world):
    world.until_running()
    values = {"episode_id": "", "state": "idle", "version": ""}
    world.hear(topics.POLICY_STATUS, messages.status(0, "policy", values))
    assert world.ended().termination_reason == "fault:policy"


def test_stamps_of_a_restarted_robot_are_no_sign_of_life(world):
    world.until_running()
    world.newest = 17
    for _ in range(22):
        world.beat()
    assert world.ended().termination_reason == "fault:robot"


def test_a_robot_that_came_back_anew_is_not_the_one_that_was_reset(world):
    world.until_running()
    world.hear(topics.RESET_STATUS, messages.status(0, "reset", {"state": "idle"}))
    assert world.ended().termination_reason == "fault:robot"


def test_a_reset_status_that_is_repeated_ends_nothing(world):
    world.until_running()
    done = {"state": "done", "stamp_ns": str(world.start), "request": world.scenes[-1]["request"]}
    world.hear(topics.RESET_STATUS, messages.status(0, "reset", done))
    assert world.phase is Phase.RUNNING


def test_no_tick_for_long_is_a_stall(tmp_path):
    world = Played(tmp_path, operator_source="oracle")  # a person may take a break: operator_s
    world.until_running(mode="demo")
    for _ in range(99):
        world.beat()
    assert world.phase is Phase.RUNNING
    for _ in range(3):
        world.beat()
    assert world.ended().termination_reason == "fault:stalled"


def test_a_policy_fault_of_the_guard_ends_the_episode(world):
    world.until_running()
    world.guard(world.wall_ns(), 0, fault=5)
    world.finish_job()
    (record,) = world.records()
    assert (record.outcome, record.termination_reason) == (Outcome.FAULT, "fault:policy")


def test_a_repeated_observation_is_answered_with_the_same_tick(world):
    world.until_running()
    world.observe(1)
    world.observe(1)
    assert world.ticks() == [(0, 0), (1, 0), (1, 0)]


def test_reset_is_tried_three_times_then_help_is_called(world):
    world.refuse = "the arm is jammed"
    world.beat()
    world.plan()
    assert world.phase is Phase.NEEDS_HELP
    assert len(world.scenes) == 3
    assert "the arm is jammed" in world.conductor.core.reason
    assert not world.operator.success()[0]
    world.refuse = ""
    assert world.operator.reset_done()[0]
    assert world.phase is Phase.RESETTING
    world.now += 31.0
    world.conductor.poll()
    assert len(world.scenes) == 5  # no news within 30 s: tried again
    world.hear(topics.RESET_STATUS, messages.status(0, "reset", {
        "state": "failed", "request": world.scenes[-1]["request"], "reason": "jammed",
    }))  # fmt: skip
    assert len(world.scenes) == 6


def test_a_demonstration_is_ended_by_its_operator(world):
    world.present = {"robot", "guard", "fleet"}
    world.until_running(mode="demo", limit=50)
    world.observe(1)
    world.observe(2, acted=False)  # tick 2 was sent, the person judges instead of moving
    assert world.operator.success() == (True, world.episode_id)
    assert not world.operator.failure()[0]
    assert world.ticks()[-2:] == [(2, 0), (2, 1)]
    for tick in (3, 4, 5, 6):
        world.observe(tick, acted=False)
    world.finish_job()
    (record,) = world.records()
    assert (record.outcome, record.termination_reason) == (Outcome.SUCCESS, "operator")
    assert record.ticks == 2
    assert (record.labels.operator, record.labels.operator_source) == (True, "person")


def test_failure_and_discard_by_the_operator(world):
    world.until_running()
    assert world.operator.discard()[0]
    world.finish_job()
    assert world.records() == []
    assert world.conductor.core.progress.next().index == 0  # once more
    world.reset_done()
    world.beat()
    world.observe(0)
    world.observe(1)
    assert world.operator.failure()[0]
    world.beat(0.4)
    world.finish_job()
    (record,) = world.records()
    assert (record.outcome, record.labels.operator) == (Outcome.FAILURE, False)


def test_pause_holds_the_ticks_and_resume_goes_on(world):
    world.until_running()
    assert world.operator.pause()[0]
    world.observe(1)
    assert world.ticks() == [(0, 0)]
    assert world.operator.resume()[0]
    world.observe(1)  # the world asks again
    assert world.ticks() == [(0, 0), (1, 0)]
    world.operator.pause()
    world.present.remove("policy")
    for _ in range(22):
        world.beat()
    world.finish_job()
    assert world.phase is Phase.PAUSED  # the pause outlives the episode that broke in it


def test_a_pause_asked_for_while_resetting_comes_after_the_episode(world):
    world.beat()
    world.plan(limit=1)
    assert world.operator.pause() == (True, "will pause after resetting")
    world.reset_done()
    world.beat()
    world.observe(0)
    world.observe(1)
    world.finish_job()
    assert world.phase is Phase.PAUSED
    world.operator.start()
    assert world.phase is Phase.RESETTING


@pytest.mark.parametrize("where", ["idle", "resetting", "ready", "running"])
def test_stop_is_latched_and_ended_by_start_alone(world, where):
    world.beat()
    if where != "idle":
        world.plan(limit=1)
    if where in ("ready", "running"):
        world.reset_done()
    if where == "running":
        world.beat()
        world.observe(0)
    assert world.phase.value == where
    world.conductor.set_fleet_stopped(True)
    assert world.phase is Phase.STOPPED
    accepted, why = world.operator.start()
    assert (accepted, "call /fleet/clear_stop first" in why) == (False, True)
    world.conductor.set_fleet_stopped(False)
    if where == "running":
        world.finish_job()
    assert world.phase is Phase.STOPPED
    world.beat()
    assert world.phase is Phase.STOPPED
    restarted = Conductor(world.settings, world)
    assert restarted.phase is Phase.STOPPED  # over a restart, too
    assert world.operator.start()[0]
    assert world.phase is (Phase.IDLE if where == "idle" else Phase.RESETTING)
    outcomes = [(r.outcome.value, r.termination_reason) for r in world.records()]
    assert outcomes == ([("interrupted", "stop")] if where == "running" else [])
    assert list((world.data).glob("set/*.partial")) == []


def test_a_slow_disk_slows_the_robot(world):
    world.beat()
    world.plan(limit=1, count=5)
    for _ in range(2):
        world.reset_done()
        world.beat()
        world.observe(0)
        world.observe(1)
    assert world.phase is Phase.IDLE  # two bags are being finished
    world.finish_job()
    assert world.phase is Phase.RESETTING
    assert world.conductor.core.progress.done == 1


def test_an_episode_that_was_not_saved_is_run_again(world):
    world.until_running(limit=1)
    world.observe(1)
    world.finish_job(error=OSError("No space left on device"))
    assert "was not saved: No space left on device" in world.conductor.core.reason
    assert world.conductor.core.progress.next().index == 0


def test_too_little_disk_space_starts_nothing(tmp_path):
    world = Played(tmp_path, reserve_bytes=10**18)
    world.beat()
    world.plan()
    assert world.phase is Phase.IDLE
    assert "MB free below" in world.conductor.core.reason


def test_a_plan_that_is_no_plan_is_reported(world):
    world.conductor.set_plan(json.dumps({"plan_id": "p", "mode": "practise", "episodes": {}}))
    assert "mode" in world.conductor.core.reason


def test_first_stamp_is_asked_to_lie_after_everything_seen(world):
    world.newest = 5_000_000_000
    world.beat()
    world.plan()
    assert world.scenes[0]["not_before_ns"] == 5_000_000_000 + PERIOD


def test_a_shut_down_saves_what_is_open(world):
    world.until_running()
    world.observe(1)
    world.conductor.course.shut_down()
    (record,) = world.records()
    assert (record.outcome, record.termination_reason) == (Outcome.INTERRUPTED, "stop")


def test_real_time_episode_ends_by_the_clock(tmp_path):
    world = Played(tmp_path, clock="real")
    world.beat()
    world.plan(limit=5)
    world.start = world.newest = world.wall_ns()
    world.hear(topics.RESET_STATUS, messages.status(0, "reset", {
        "state": "done", "stamp_ns": str(world.start), "request": world.scenes[-1]["request"],
    }))  # fmt: skip
    world.beat()
    world.observe(0)
    assert world.phase is Phase.RUNNING
    assert world.ticks() == []
    for _ in range(6):
        world.newest = world.wall_ns()
        world.beat()
    world.now += 0.4
    world.conductor.poll()
    world.finish_job()
    (record,) = world.records()
    assert (record.termination_reason, record.ticks) == ("timeout", 5)
    assert record.topics["/arm0/joint_states"].on_time >= 6


def test_real_time_success_holds_for_four_periods(tmp_path):
    world = Played(tmp_path, clock="real")
    world.beat()
    world.plan(limit=50)
    world.reset_done()
    world.start = 0
    world.newest = world.wall_ns()
    world.beat()
    stamp = world.wall_ns()
    world.hear(topics.ACTION_CHUNK, messages.action_chunk(stamp, world.episode_id, SPACE, [[0, 0]]))
    world.hear(topics.REWARD_STATE, messages.reward_state(stamp, "v1", 3.0, 1.0, 0.0, False))
    world.newest = stamp
    world.beat()
    assert world.phase is Phase.RUNNING
    running_since = world.conductor.core.session.record.start_ns
    stamp = running_since + 3 * PERIOD + 1
    world.hear(topics.REWARD_STATE, messages.reward_state(stamp, "v1", 0.1, 1.0, 0.0, True))
    assert world.phase is Phase.ENDING
    for _ in range(5):
        world.newest = world.wall_ns()
        world.beat()
    world.now += 0.4
    world.conductor.poll()
    world.finish_job()
    (record,) = world.records()
    assert (record.ticks, record.outcome) == (3, Outcome.SUCCESS)
