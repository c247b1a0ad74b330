from __future__ import annotations

import numpy as np
import pytest

from efm_bringup.learning.pointmass import PointmassSettings, run
from efm_bringup.learning.pointmass_world import (
    LIMIT,
    RADIUS,
    SPACE,
    STEP_SECONDS,
    SUBSTEPS,
    Masses,
    demonstrate,
)
from efm_trainer.improve import ImproveSettings


def test_a_constant_force_moves_a_mass_as_newton_says():
    masses = Masses(np.zeros((1, 2)), np.zeros((1, 2)), np.ones((1, 2)))
    masses.step(np.array([[1.0, -0.5]]))
    seconds = SUBSTEPS * STEP_SECONDS
    np.testing.assert_allclose(masses.velocity, [[seconds, -0.5 * seconds]])
    # Semi-implicit Euler: x = dt^2 * (1 + 2 + ... + n) = dt^2 * n (n + 1) / 2.
    way = STEP_SECONDS**2 * SUBSTEPS * (SUBSTEPS + 1) / 2
    np.testing.assert_allclose(masses.position, [[way, -0.5 * way]])


def test_walls_stop():
    masses = Masses(np.array([[0.99, 0.0]]), np.array([[2.0, 0.1]]), np.zeros((1, 2)))
    masses.step(np.zeros((1, 2)))
    assert masses.position[0, 0] == 1.0
    np.testing.assert_allclose(masses.velocity, [[0.0, 0.1]])


def test_demonstrations_end_at_the_goal_and_count_down():
    data = demonstrate(50, 3)
    ends = np.cumsum(data.lengths + 1) - 1
    assert (data.steps[ends] == 0).all()
    assert (data.bins[ends] == -1).all()
    assert np.linalg.norm(data.states[ends, 6:8], axis=1).max() < RADIUS
    first = np.concatenate([[0], ends[:-1] + 1])
    assert (data.steps[first] == data.lengths).all()
    assert 40 < data.lengths.mean() < LIMIT
    assert ((data.bins >= -1) & (data.bins < SPACE.dims[0].bins)).all()


def test_practice_beats_what_it_was_cloned_from():
    settings = PointmassSettings(
        seed=1, demonstrations=300, sft_steps=600, batch=128, rounds=6, starts=200
    )
    told = []
    found = run(settings, ImproveSettings(), told.append)
    assert found["practised/low"] > found["cloned/high"]
    assert found["practised/actions"] < 0.8 * found["cloned/actions"]
    assert told[0]["round"] == 0.0


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="actions_per_round"):
        PointmassSettings(actions_per_round=10)
