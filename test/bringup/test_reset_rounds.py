"""`efm faults resets` in short, its judgements on made-up records, and the operator's key."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")
pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from efm_bringup.faults import reset_rounds
from efm_bringup.faults.failing_robot import Failure, as_text, from_text
from efm_bringup.faults.fleet_rounds import Findings
from efm_bringup.faults.reset_crowd import ATTEMPTS, Extent, draw_failures
from efm_bringup.faults.reset_rounds import reset_round
from efm_bringup.faults.reset_watch import Said
from efm_bringup.faults.results import Trial
from efm_bringup.installed import share
from efm_bringup.signals import StopSignal
from efm_bringup.teleop.orders import Order, order_for

ROBOTS = ("robot1", "robot2", "robot3", "robot4")


def test_five_of_a_hundred_resets_fail_and_the_seed_says_which():
    drawn = [draw_failures(random.Random(seed), ROBOTS, Extent()) for seed in range(40)]
    assert all(len(failures) == 5 for failures in drawn)
    assert drawn[3] == draw_failures(random.Random(3), ROBOTS, Extent())
    everything = [failure for failures in drawn for failure in failures.values()]
    lasting = sum(failure.tries == ATTEMPTS for failure in everything)
    silent = sum(failure.manner == "silence" for failure in everything)
    assert all(70 < count < 130 for count in (lasting, silent))  # fair coins, 4 deviations are 28
    table = {7: Failure(3, "silence"), 9: Failure(1, "refuse")}
    assert from_text(as_text(table)) == table


def saved(robot, times, phase="running"):
    return [Said(at, robot, phase, done) for done, at in enumerate(times)]


@pytest.mark.parametrize(("later", "passes"), [(2.1, True), (2.4, False)])
def test_the_others_pace_is_compared_with_that_before_the_call(later, passes):
    before = [2.0 * k for k in range(11)]
    during = [20.0 + later * k for k in range(1, 11)]
    heard = saved("robot1", before + during)
    heard += [*saved("robot2", before), Said(20.0, "robot2", "needs_help", 10)]
    found = Findings()
    reset_rounds._judge_pace(found, sorted(heard, key=lambda s: s.at), 0.0, 100.0)
    assert found.figures["others_per_hour_before"] == pytest.approx(1800.0)
    assert found.figures["others_slower"] == pytest.approx(later / 2.0)
    assert bool(found.problems) is not passes


def test_enter_answers_a_reset_that_waits_for_a_person():
    assert order_for("enter", {"phase": "resetting", "waits_for": "person"}) is Order.RESET_DONE
    assert order_for("enter", {"phase": "resetting", "waits_for": ""}) is None
    assert order_for("enter", {"phase": "needs_help"}) is Order.RESET_DONE


def test_help_is_called_for_where_every_try_fails_and_the_other_robot_goes_on(tmp_path):
    """Two robots, in lockstep: three of eight resets fail."""
    extent, trial = Extent(robots=2, episodes=4, failing=3), Trial("resets", "lockstep")
    with StopSignal() as stop:
        done = reset_round(share("config/fleet.yaml"), tmp_path, trial, 2, 0, stop, extent)
    assert done.problems == []
    assert done.figures["episodes"] == 8
    assert done.figures["calls"] == done.figures["calls_expected"] >= 1
