"""Frozen cameras: noticed while the robot is told to move, warned of while it is not."""

from __future__ import annotations

import numpy as np
import pytest

from efm_core.actions import ActionDim, ActionSpace
from efm_policy_node.camera_watch import CommandedMotion, FrozenCameras, FrozenWatch

DIMS = tuple(ActionDim(name=n, unit="m", low=-0.02, high=0.02, bins=5) for n in ("x", "y"))
DELTA = ActionSpace(dims=DIMS)
ABSOLUTE = ActionSpace(dims=DIMS, kind="absolute")


def test_frozen_lasts_until_another_picture_whatever_the_arm_does_then():
    watch = FrozenWatch()
    for tenth in range(7):
        frozen = watch.update(7, True, tenth / 10)
    assert frozen
    assert watch.update(7, False, 0.7)  # the hold stops the motion
    assert not watch.update(8, False, 0.8)


def test_motion_with_rests_in_between_adds_up():
    watch = FrozenWatch()
    moving = [tenth % 2 == 0 for tenth in range(30)]
    frozen = [watch.update(7, move, tenth / 10) for tenth, move in enumerate(moving)]
    assert frozen.index(True) == 10  # moved in the tenths before 2, 4, 6, 8 and 10


def update(cameras: FrozenCameras, tenth: int, moving: bool, **digests: int) -> bool:
    """Every camera sends a picture in this tenth of a second."""
    return cameras.update(digests, dict.fromkeys(digests, tenth), moving, tenth / 10)


def test_a_picture_that_is_used_twice_is_not_shown_twice():
    """A camera of 1 Hz beside a robot of 10 Hz, then one that sends the same once more."""
    cameras = FrozenCameras()
    for tenth in range(20):
        second = tenth // 10
        cameras.update({"slow": second}, {"slow": second}, True, tenth / 10)
        assert cameras.frozen == ()
    cameras.update({"slow": 1}, {"slow": 2}, True, 2.0)
    assert cameras.frozen == ("slow",)
    cameras.begin()
    assert cameras.frozen == ()


def test_each_camera_is_watched_by_itself():
    cameras = FrozenCameras()
    for tenth in range(7):
        update(cameras, tenth, True, front=tenth, wrist=3)
    assert cameras.frozen == ("wrist",)
    assert cameras.still == ()
    assert update(cameras, 7, True, front=9, wrist=4)
    assert cameras.frozen == ()


def test_a_still_scene_is_named_and_not_frozen():
    cameras = FrozenCameras()
    changed = [update(cameras, tenth, False, front=1) for tenth in range(10)]
    assert changed.index(True) == 5  # after 0.5 s
    assert (cameras.frozen, cameras.still) == ((), ("front",))


def test_what_the_guard_lets_through_counts_before_what_the_policy_wants():
    motion = CommandedMotion(DELTA)
    wanted = np.array([[0.02, 0.0]])
    assert motion.moving(wanted)
    assert not motion.moving(None)
    motion.on_guard(np.array([0.0, 0.001]))  # less than half a bin of 0.01 m
    assert not motion.moving(wanted)
    motion.on_guard(np.array([0.0, -0.01]))
    assert motion.moving(np.zeros((1, 2)))
    assert not motion.moving(wanted)  # a guard that is silent lets nothing through


@pytest.mark.parametrize(("step", "moving"), [(0.0, False), (0.01, True)])
def test_absolute_targets_move_when_they_change(step, moving):
    motion = CommandedMotion(ABSOLUTE)
    motion.on_guard(np.array([0.01, 0.01]))
    assert not motion.moving(None)
    for part in (0.25, 0.5, 0.75, 1.0):  # in small steps too
        motion.on_guard(np.array([0.01 + part * step, 0.01]))
    assert motion.moving(None) is moving
    assert not motion.moving(None)
