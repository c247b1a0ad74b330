"""The guard's rules one by one; `test_guard_fuzz` tries to break them together."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from efm_core.actions import ActionDim, ActionSpace
from efm_core.guard import Fault, Guard, GuardSettings, Source
from efm_core.limits import DimLimits

FULL = [[0.02, -0.02]]


def stamp(k: int) -> int:
    return 10**18 + k * 10**8


@pytest.fixture
def settings(space):
    return GuardSettings(space=space, workspace={"x": (0.2, 0.6), "y": (-0.2, 0.2)})


@pytest.fixture
def guard(settings):
    """Lockstep, an episode "a" running, pose 0 not yet there."""
    return running(Guard(settings))


def running(guard: Guard, episode: str = "a", now: float = 0.0, mode: str = "practice") -> Guard:
    guard.on_fleet_stopped(False, now)
    guard.on_episode_status("ready", episode, now, mode)
    guard.on_episode_status("running", episode, now, mode)
    return guard


@pytest.fixture
def real(settings):
    """Real time, an episode "a" running, the robot in the middle of its workspace at time 0."""
    guard = running(Guard(settings.model_copy(update={"clock": "real"})))
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    return guard


def moving(report) -> bool:
    return report is not None and bool(np.any(report.velocity))


# ---- lockstep --------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_first", [True, False])
def test_a_tick_is_executed_once_whichever_input_comes_first(guard, chunk_first):
    inputs = [
        lambda: guard.on_chunk(stamp(0), "a", FULL, 0.0),
        lambda: guard.on_pose(stamp(0), (0.4, 0.0), 0.0),
    ]
    first, second = inputs if chunk_first else inputs[::-1]
    assert first() is None
    report = second()
    assert report.stamp_ns == stamp(0)
    assert report.executed.tolist() == FULL[0]
    np.testing.assert_allclose(report.velocity, [0.2, -0.2])  # 0.02 m per tick at 10 Hz
    assert (report.source, report.modified, report.fault) == (Source.POLICY, False, Fault.NONE)
    assert report.point_index == 0
    # the same stamp again is answered from the cache, even with other contents
    assert guard.on_chunk(stamp(0), "a", [[0.0, 0.0]], 0.1) is report
    assert guard.on_pose(stamp(0), (0.5, 0.0), 0.1) is report


def test_a_chunk_waits_for_the_phase_running_and_the_newest_counts(settings):
    guard = Guard(settings)
    guard.on_fleet_stopped(False, 0.0)
    guard.on_episode_status("ready", "a", 0.0)
    assert guard.on_pose(stamp(1), (0.4, 0.0), 0.0) is None
    assert guard.on_chunk(stamp(0), "a", [[0.01, 0.01]], 0.0) is None
    assert guard.on_chunk(stamp(1), "a", FULL, 0.0) is None
    report = guard.on_episode_status("running", "a", 0.0)
    assert report.stamp_ns == stamp(1)
    assert report.executed.tolist() == FULL[0]


def test_a_chunk_may_come_before_the_news_of_its_episode(settings):
    guard = Guard(settings)
    guard.on_fleet_stopped(False, 0.0)
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    assert guard.on_chunk(stamp(0), "a", FULL, 0.0) is None
    assert guard.on_episode_status("ready", "a", 0.0) is None
    assert guard.on_episode_status("running", "a", 0.0).stamp_ns == stamp(0)


@pytest.mark.parametrize("clock", ["lockstep", "real"])
def test_what_came_early_is_judged_like_everything_else(settings, clock):
    guard = Guard(settings.model_copy(update={"clock": clock}))
    guard.on_fleet_stopped(False, 0.0)
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    guard.on_chunk(stamp(0), "a", [[np.nan, 0.0]], 0.0)
    for phase in ("ready", "running"):
        assert not moving(guard.on_episode_status(phase, "a", 0.0))
    assert guard.counts["invalid"] == 1
    # and what came too early is too old in real time, but still the answer to its tick in lockstep
    guard.on_chunk(stamp(1), "b", FULL, 0.0)
    guard.on_pose(stamp(1), (0.4, 0.0), 0.3)
    reports = [guard.on_episode_status(phase, "b", 0.3) for phase in ("ready", "running")]
    assert moving(reports[-1]) == (clock == "lockstep")


def test_chunks_of_other_episodes_are_dropped(guard):
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    assert guard.on_chunk(stamp(0), "b", FULL, 0.0) is None
    assert guard.on_chunk(stamp(0), "", FULL, 0.0) is None
    assert guard.counts["foreign"] == 2
    assert guard.on_chunk(stamp(0), "a", FULL, 0.0) is not None


def test_older_stamps_are_dropped(guard):
    guard.on_pose(stamp(5), (0.4, 0.0), 0.0)
    assert guard.on_chunk(stamp(5), "a", FULL, 0.0) is not None
    assert guard.on_chunk(stamp(4), "a", FULL, 0.0) is None
    assert guard.on_pose(stamp(4), (0.4, 0.0), 0.0) is None
    assert guard.counts["older"] == 1


def test_nothing_before_the_fleet_said_it_is_not_stopped(settings):
    guard = Guard(settings)
    guard.on_episode_status("running", "a", 0.0)
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    assert guard.on_chunk(stamp(0), "a", FULL, 0.0) is None
    assert guard.step(0.1).fault is Fault.STOPPED
    assert moving(guard.on_fleet_stopped(False, 0.2))


def test_ages_never_change_a_tick_but_silence_holds(guard):
    guard.on_pose(stamp(0), (0.4, 0.0), 100.0)
    assert moving(guard.on_chunk(stamp(0), "a", FULL, 100.0))  # status is 100 s old: no timer ran
    silent = guard.step(100.1)
    assert (silent.fault, silent.stamp_ns) == (Fault.STALE_STATUS, None)
    assert not moving(silent)
    guard.on_pose(stamp(1), (0.42, -0.02), 100.2)
    assert guard.on_chunk(stamp(1), "a", FULL, 100.2) is None
    guard.on_fleet_stopped(False, 100.3)
    report = guard.on_episode_status("running", "a", 100.3)
    assert report.stamp_ns == stamp(1)
    assert not report.modified  # the hold in between did not slow the tick's velocity
    assert guard.step(100.4) is None


def test_the_timer_tells_what_holds_without_advancing_a_tick(guard):
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    assert guard.step(0.0) is None  # running: the tick is the policy's to answer
    guard.on_episode_status("paused", "a", 0.0)
    hold = guard.step(0.0)
    assert (hold.source, hold.stamp_ns) == (Source.HOLD, None)
    assert guard.on_chunk(stamp(0), "a", FULL, 0.0) is None
    assert guard.on_episode_status("running", "a", 0.0).stamp_ns == stamp(0)


def test_ending_answers_ticks_by_standing_still(guard):
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    assert moving(guard.on_chunk(stamp(0), "a", FULL, 0.0))
    assert guard.on_tick(stamp(0), 0.0) is None
    assert guard.on_episode_status("ending", "a", 0.0) is None  # tick 0 has its answer
    for k in (1, 2):
        report = guard.on_tick(stamp(k), 0.0)
        assert (report.stamp_ns, report.source) == (stamp(k), Source.HOLD)
        assert not moving(report)
        assert guard.on_tick(stamp(k), 0.0) is report
    assert guard.on_chunk(stamp(3), "a", FULL, 0.0) is None


@pytest.mark.parametrize("tick_first", [True, False])
def test_ending_answers_a_tick_nobody_answered(guard, tick_first):
    events = [
        lambda: guard.on_tick(stamp(0), 0.0),
        lambda: guard.on_episode_status("ending", "a", 0.0),
    ]
    reports = [event() for event in (events if tick_first else events[::-1])]
    assert reports[0] is None
    assert (reports[1].stamp_ns, reports[1].source) == (stamp(0), Source.HOLD)


def test_a_tick_may_come_before_the_news_of_its_episode(settings):
    guard = Guard(settings)
    guard.on_fleet_stopped(False, 0.0)
    assert guard.on_tick(stamp(0), 0.0, "a") is None
    report = guard.on_episode_status("ending", "a", 0.0)
    assert (report.stamp_ns, report.source) == (stamp(0), Source.HOLD)
    assert guard.on_tick(stamp(1), 0.0, "foreign") is None
    assert guard.on_tick(stamp(1), 0.0, "a").stamp_ns == stamp(1)
    # an old episode's tick answers nothing in the next one
    assert guard.on_episode_status("ending", "b", 0.0) is None


def test_ending_replaces_an_answer_the_world_has_not_acted_on(guard):
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    guard.on_chunk(stamp(0), "a", FULL, 0.0)
    still = guard.on_episode_status("ending", "a", 0.0)
    assert (still.stamp_ns, still.source) == (stamp(0), Source.HOLD)
    assert not moving(still)
    assert guard.on_tick(stamp(0), 0.0) is still


def test_a_still_tick_needs_no_news_of_the_ending(guard):
    assert moving(_first_tick(guard, "a", 0))
    still = guard.on_tick(stamp(0), 0.0, "a", still=True)
    assert (still.stamp_ns, still.source) == (stamp(0), Source.HOLD)
    assert guard.on_episode_status("ending", "a", 0.0) is None
    assert guard.on_tick(stamp(0), 0.0, "a", still=True) is still
    assert guard.on_tick(stamp(1), 0.0, "a", still=True).stamp_ns == stamp(1)


def test_points_of_a_chunk_follow_the_pose(settings, space):
    space = space.model_copy(update={"chunk": 3})
    guard = running(Guard(settings.model_copy(update={"space": space})))
    values = np.array([[0.01, 0.0], [0.0, 0.01], [0.01, 0.01]])
    guard.on_chunk(stamp(0), "a", values, 0.0)
    for k in range(3):
        report = guard.on_pose(stamp(k), (0.4, 0.0), 0.0)
        assert report.point_index == k
        assert report.executed.tolist() == values[k].tolist()
    assert guard.on_pose(stamp(3), (0.4, 0.0), 0.0) is None  # run out: never replay


def test_a_shorter_execution_asks_for_a_new_chunk(settings, space):
    space = space.model_copy(update={"chunk": 3})
    guard = running(Guard(settings.model_copy(update={"space": space, "points": 1})))
    guard.on_chunk(stamp(0), "a", np.zeros((3, 2)), 0.0)
    assert guard.on_pose(stamp(0), (0.4, 0.0), 0.0) is not None
    assert guard.on_pose(stamp(1), (0.4, 0.0), 0.0) is None


def test_a_person_takes_over_with_twists_of_the_same_stamp(guard):
    guard.on_takeover(True, 0.0)
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    assert guard.on_chunk(stamp(0), "a", FULL, 0.0) is None
    report = guard.on_teleop(stamp(0), (0.0, 0.1), 0.0)
    assert report.source is Source.TELEOP
    np.testing.assert_allclose(report.executed, [0.0, 0.01])
    guard.on_pose(stamp(1), (0.4, 0.01), 0.0)
    guard.on_chunk(stamp(1), "a", FULL, 0.0)
    given_back = guard.on_takeover(False, 0.0)
    assert (given_back.source, given_back.stamp_ns) == (Source.POLICY, stamp(1))


def test_demonstrations_need_no_takeover(settings):
    guard = running(Guard(settings), mode="demo")
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    # 0.3-0.4-0.5 triangle: 0.5 m/s is cut to the 0.25 m/s of teleoperation
    report = guard.on_teleop(stamp(0), (0.15, 0.2), 0.0)
    np.testing.assert_allclose(report.velocity, [0.15, 0.2])
    guard.on_pose(stamp(1), (0.4, 0.0), 0.0)
    report = guard.on_teleop(stamp(1), (0.3, 0.4), 0.0)
    np.testing.assert_allclose(report.velocity, [0.15, 0.2])


def test_without_demo_or_takeover_nobody_teleoperates(guard):
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    assert guard.on_teleop(stamp(0), (0.1, 0.0), 0.0) is None


# ---- limits ----------------------------------------------------------------------------------


def test_values_outside_the_action_space_are_cut_and_marked(guard):
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    report = guard.on_chunk(stamp(0), "a", [[1e300, 0.01]], 0.0)
    np.testing.assert_allclose(report.executed, [0.02, 0.01])
    assert report.modified


def test_the_arm_stops_at_the_workspace(guard):
    guard.on_pose(stamp(0), (0.595, -0.2), 0.0)
    report = guard.on_chunk(stamp(0), "a", FULL, 0.0)
    # 5 mm are left in x, nothing in y
    np.testing.assert_allclose(report.executed, [0.005, 0.0], atol=1e-12)
    assert report.modified


def test_outside_the_workspace_only_the_way_back_is_free(guard):
    guard.on_pose(stamp(0), (0.65, 0.0), 0.0)
    report = guard.on_chunk(stamp(0), "a", FULL, 0.0)
    np.testing.assert_allclose(report.executed, [0.0, -0.02])
    guard.on_pose(stamp(1), (0.65, -0.02), 0.0)
    report = guard.on_chunk(stamp(1), "a", [[-0.02, 0.0]], 0.0)
    np.testing.assert_allclose(report.executed, [-0.02, 0.0])


def test_acceleration_and_speed_are_limited(settings):
    slow = settings.model_copy(
        update={"max_acceleration": math.sqrt(2.0), "max_speed": 0.15 * math.sqrt(2.0)}
    )
    guard = running(Guard(slow))
    speeds = []
    for k in range(4):
        guard.on_pose(stamp(k), (0.4, 0.0), 0.0)
        report = guard.on_chunk(stamp(k), "a", FULL, 0.0)
        speeds.append(report.velocity[0])
    # 1 m/s^2 per axis: 0.1 m/s more per tick, up to 0.15 m/s per axis
    np.testing.assert_allclose(speeds, [0.1, 0.15, 0.15, 0.15])
    stop = guard.on_episode_status("ending", "a", 0.0)
    np.testing.assert_allclose(stop.velocity, [0.05, -0.05])  # decelerating from 0.15


# ---- faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [[[np.nan, 0.0]], [[np.inf, 0.0]], [[0.0]], [0.0, 0.0], []])
def test_three_invalid_chunks_in_a_row_are_a_fault(guard, wrong):
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    for _ in range(2):
        assert guard.on_chunk(stamp(0), "a", wrong, 0.0) is None
    report = guard.on_chunk(stamp(0), "a", wrong, 0.0)
    assert (report.fault, report.source) == (Fault.POLICY, Source.HOLD)
    assert report.fault.termination_reason == "fault:policy"
    assert guard.on_chunk(stamp(0), "a", FULL, 0.0) is None  # until the next episode
    running(guard, "b")
    guard.on_pose(stamp(1), (0.4, 0.0), 0.0)
    assert moving(guard.on_chunk(stamp(1), "b", FULL, 0.0))


def test_a_valid_chunk_forgives_earlier_ones(guard):
    for k in range(5):
        guard.on_pose(stamp(k), (0.4, 0.0), 0.0)
        for _ in range(2):
            assert guard.on_chunk(stamp(k), "a", [[np.nan, 0.0]], 0.0) is None
        assert moving(guard.on_chunk(stamp(k), "a", [[0.01, 0.0]], 0.0))
    assert guard.counts["invalid"] == 10


def test_jumps_are_refused_whole(settings, space):
    space = space.model_copy(update={"chunk": 2})
    changed = {"space": space, "max_jump": {"x": 0.01}}
    guard = running(Guard(settings.model_copy(update=changed)))
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    assert guard.on_chunk(stamp(0), "a", [[0.015, 0], [0.015, 0]], 0.0) is None  # from rest
    assert guard.on_chunk(stamp(0), "a", [[0.005, 0], [0.016, 0]], 0.0) is None  # inside
    assert moving(guard.on_chunk(stamp(0), "a", [[0.01, 0.02], [0.02, -0.02]], 0.0))
    assert guard.counts["invalid"] == 2


def test_a_fault_of_the_node_holds_until_the_next_episode(guard):
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    report = guard.on_fault(Fault.SECOND_PUBLISHER, "two publishers of policy/action_chunk", 0.0)
    assert "two publishers" in report.reasons[0]
    assert guard.on_chunk(stamp(0), "a", FULL, 0.0) is None
    assert moving(_first_tick(running(guard, "b"), "b", 1))


def _first_tick(guard, episode, k):
    guard.on_pose(stamp(k), (0.4, 0.0), 0.0)
    return guard.on_chunk(stamp(k), episode, FULL, 0.0)


# ---- stop ------------------------------------------------------------------------------------


def test_a_stop_is_latched_until_cleared_and_a_new_episode_runs(guard):
    assert moving(_first_tick(guard, "a", 0))
    report = guard.on_stop(0.0)
    assert (report.fault, report.source) == (Fault.STOPPED, Source.HOLD)
    assert not moving(report)
    # a repeat of "not stopped" from before the fleet heard the request does not clear it
    assert guard.on_fleet_stopped(False, 0.1) is None
    assert _first_tick(guard, "a", 1) is None
    assert guard.on_pose(stamp(0), (0.4, 0.0), 0.0) is None  # not even from the cache
    guard.on_fleet_stopped(True, 0.2)
    running_again = guard.on_episode_status("running", "b", 0.2)
    assert running_again is None
    assert _first_tick(guard, "b", 2) is None
    guard.on_fleet_stopped(False, 0.3)
    assert _first_tick(guard, "b", 3) is None  # announced while stopped
    running(guard, "c")
    assert moving(_first_tick(guard, "c", 4))


def test_the_fleet_alone_stops_too(guard):
    assert guard.on_fleet_stopped(True, 0.0).fault is Fault.STOPPED
    assert guard.on_fleet_stopped(True, 0.1) is None
    guard.on_fleet_stopped(False, 0.2)
    assert _first_tick(guard, "a", 0) is None
    assert guard.step(0.2).reasons == ("after a stop nothing moves until a new episode",)
    assert moving(_first_tick(running(guard, "b"), "b", 1))


# ---- real time -------------------------------------------------------------------------------


def chunk(guard, k, values, now, age=0.02):
    return guard.on_chunk(stamp(k), "a", values, now, age)


def test_a_chunk_acts_at_once_and_runs_out(real):
    report = chunk(real, 1, FULL, 0.1)
    assert (report.stamp_ns, report.source) == (stamp(1), Source.POLICY)
    np.testing.assert_allclose(report.velocity, [0.2, -0.2])
    assert not report.modified
    # valid for 0.1 s + 0.05 s, less the 0.02 s for which a command stands; then decelerated
    # within 6 / sqrt(2) m/s^2 per axis
    assert moving(real.step(0.22))
    ran_out = real.step(0.24)
    assert (ran_out.fault, ran_out.source) == (Fault.STALE_CHUNK, Source.HOLD)
    assert not moving(real.step(0.36))


def test_deceleration_in_real_time_keeps_the_limit(settings):
    slow = settings.model_copy(update={"clock": "real", "max_acceleration": math.sqrt(2.0)})
    guard = running(Guard(slow))
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    velocity = []
    for k in range(3):
        guard.on_fleet_stopped(False, 0.1 * k)
        guard.on_episode_status("running", "a", 0.1 * k)
        guard.on_pose(stamp(k), (0.4, 0.0), 0.1 * k)
        velocity.append(chunk(guard, k, FULL, 0.1 * k).velocity[0])
    np.testing.assert_allclose(velocity, [0.1, 0.2, 0.2])  # 1 m/s^2 over periods of 0.1 s
    guard.on_stop(0.2)
    # nothing was spent for 0.1 s before the stop: 0.1 m/s at once, then 1 m/s^2
    slowing = [guard.step(0.2 + 0.02 * i).velocity[0] for i in range(7)]
    assert all(a - b <= 0.02 + 1e-9 for a, b in itertools.pairwise(slowing))
    assert slowing[-1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("age", "count"), [(-0.2, "future"), (0.2, "late"), (-0.05, "accepted"), (0.1, "accepted")]
)
def test_stamps_are_checked_against_the_clock(real, age, count):
    chunk(real, 1, FULL, 0.1, age)
    assert real.counts[count] == 1


def test_repeated_and_older_chunks_never_prolong_motion(real):
    chunk(real, 2, FULL, 0.1)
    for now in (0.15, 0.2, 0.25):
        assert chunk(real, 2, FULL, now) is None
        assert chunk(real, 1, FULL, now) is None
    assert real.step(0.26).fault is Fault.STALE_CHUNK
    assert (real.counts["repeated"], real.counts["older"]) == (3, 3)


def test_points_follow_the_time_since_the_stamp(settings, space):
    space = space.model_copy(update={"chunk": 3})
    guard = running(Guard(settings.model_copy(update={"clock": "real", "space": space})))
    guard.on_pose(stamp(0), (0.4, 0.0), 0.0)
    values = [[0.01, 0.0], [0.0, 0.01], [0.01, 0.01]]
    assert chunk(guard, 0, values, 0.0, age=0.05).point_index == 0
    assert [guard.step(t).point_index for t in (0.04, 0.06, 0.16, 0.3)] == [0, 1, 2, 2]
    assert guard.step(0.36).fault is Fault.STALE_CHUNK


@pytest.mark.parametrize(
    ("alive", "fault"), [("fleet", Fault.STALE_STATUS), ("status", Fault.STALE_FLEET)]
)
def test_silence_of_manager_or_fleet_holds_after_half_a_second(real, alive, fault):
    for k in range(1, 8):
        now = 0.1 * k
        if alive == "fleet":
            real.on_fleet_stopped(False, now)
        else:
            real.on_episode_status("running", "a", now)
        real.on_pose(stamp(k), (0.4, 0.0), now)
        report = chunk(real, k, FULL, now)
        # the command of time 0.5 would stand until 0.52
        assert (report.fault is fault) == (now > 0.45)
        assert moving(report) == (now < 0.45)


def test_what_waited_before_it_was_heard_is_as_old_as_its_arrival(real):
    for k in range(1, 5):
        real.on_pose(stamp(k), (0.4, 0.0), 0.1 * k)
        real.on_fleet_stopped(False, 0.1 * k)
        assert chunk(real, k, FULL, 0.1 * k).fault is Fault.NONE
    real.on_episode_status("running", "a", 0.44, age=0.04)
    real.on_fleet_stopped(False, 0.44, age=0.01)
    real.on_pose(stamp(8), (0.4, 0.0), 0.8)
    # 0.4 + 0.5, less the 0.02 s for which a command stands, less 0.02 s by which a step may be late
    real.on_fleet_stopped(False, 0.8)
    assert real.step(0.85).fault is not Fault.STALE_STATUS
    assert real.step(0.865).fault is Fault.STALE_STATUS
    real.on_episode_status("running", "a", 0.87)
    assert real.step(0.87 + 0.41).fault is Fault.STALE_FLEET


def test_without_a_position_nothing_moves(settings):
    guard = running(Guard(settings.model_copy(update={"clock": "real"})))
    assert chunk(guard, 0, FULL, 0.0).fault is Fault.NO_POSE
    guard.on_pose(stamp(0), (math.nan, 0.0), 0.0)
    assert guard.step(0.02).fault is Fault.NO_POSE
    guard.on_pose(stamp(0), (0.4, 0.0), 0.02)
    assert moving(guard.step(0.04))


def test_a_dead_man_switch_that_is_let_go_holds(real):
    real.on_takeover(True, 0.0)
    assert real.step(0.0).source is Source.HOLD
    assert real.on_teleop(0, (0.1, 0.0), 0.1).source is Source.TELEOP
    # 0.3 s, less the 0.02 s for which a command stands, less 0.02 s by which a step may be late
    assert moving(real.step(0.355))
    assert real.step(0.365).source is Source.HOLD


@pytest.mark.parametrize(("silent", "source"), [(0.5, Source.HOLD), (2.5, Source.POLICY)])
def test_a_takeover_ends_with_its_episode_when_the_person_is_gone(real, silent, source):
    """A node that was killed can't give the robot back; one that still drives goes on."""
    real.on_takeover(True, 0.0)
    real.on_teleop(0, (0.1, 0.0), 0.1)
    now = 0.1 + silent
    running(real, "b", now)
    real.on_pose(stamp(1), (0.4, 0.0), now)
    real.on_chunk(stamp(1), "b", FULL, now)
    assert real.step(now + 0.02).source is source


def test_after_giving_back_older_chunks_stay_dropped(real):
    chunk(real, 1, FULL, 0.1)
    real.on_takeover(True, 0.12)
    real.on_takeover(False, 0.14)
    assert chunk(real, 1, FULL, 0.16) is None
    assert real.step(0.18).fault is Fault.STALE_CHUNK
    assert chunk(real, 2, FULL, 0.2).source is Source.POLICY


def test_reset_motion_is_heard_while_resetting_only(real):
    assert real.on_reset(0, (0.1, 0.0), 0.1) is None
    real.on_episode_status("resetting", "a", 0.1)
    report = real.on_reset(0, (0.1, 0.0), 0.12)
    assert report.source is Source.RESET
    real.on_episode_status("ready", "a", 0.14)
    assert real.step(0.16).source is Source.HOLD


def test_stale_and_frozen_images_hold(real):
    chunk(real, 1, FULL, 0.1)
    report = real.on_policy_status(stale=False, frozen=True, now=0.12)
    assert report.fault is Fault.FROZEN_CAMERA
    assert report.fault.termination_reason == "fault:frozen_camera"
    assert real.on_policy_status(stale=False, frozen=False, now=0.14) is None
    assert moving(real.step(0.16))


def test_invalid_commands_of_a_person_are_dropped(real):
    real.on_takeover(True, 0.0)
    for wrong in ((np.nan, 0.0), (0.0,), (np.inf, 0.0)):
        assert real.on_teleop(0, wrong, 0.1) is None
    assert real.counts["invalid_teleop"] == 3


# ---- absolute targets ------------------------------------------------------------------------


@pytest.fixture
def joint_space():
    return ActionSpace(
        dims=(ActionDim(name="joint1", unit="rad", low=-1.0, high=1.0),), kind="absolute"
    )


def test_absolute_targets_are_approached_within_the_limits(joint_space):
    limits = {"joint1": DimLimits(max_speed=2.0, max_acceleration=10.0)}
    guard = running(Guard(GuardSettings(space=joint_space, limits=limits)))
    executed = []
    for k in range(4):
        guard.on_pose(stamp(k), [executed[-1] if executed else 0.0], 0.0)
        report = guard.on_chunk(stamp(k), "a", [[0.35]], 0.0)
        executed.append(float(report.executed[0]))
        assert not report.modified  # the target stands: the way there is dynamics
    # 10 rad/s^2 change 1 rad/s per tick: 1 rad/s at first. Then 0.25 rad are left: 1.75 rad/s for
    # one tick and 0.75 for the next cover 0.175 + 0.075 and end at rest.
    np.testing.assert_allclose(executed, [0.1, 0.275, 0.35, 0.35])
    guard.on_pose(stamp(4), [0.35], 0.0)
    assert guard.on_chunk(stamp(4), "a", [[1.5]], 0.0).modified  # a target beyond the joint's


def test_an_absolute_robot_of_unknown_position_gets_no_command(joint_space):
    limits = {"joint1": DimLimits(max_speed=2.0, max_acceleration=10.0)}
    guard = running(Guard(GuardSettings(space=joint_space, limits=limits, clock="real")))
    assert guard.step(0.0) is None
    guard.on_pose(stamp(0), [0.5], 0.0)
    hold = guard.step(0.02)
    assert hold.executed.tolist() == [0.5]
    assert not moving(hold)


def test_reports_are_plain_values(guard):
    report = _first_tick(guard, "a", 0)
    assert replace(report, stamp_ns=1).stamp_ns == 1
