"""The promise behind the guard: no invalid command reaches the arm, whatever comes in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efm_core.actions import ActionDim, ActionSpace
from efm_core.guard import GuardSettings
from efm_core.guard_fuzz import fuzz_guard

PLANE = ActionSpace(
    dims=tuple(ActionDim(name=n, unit="m", low=-0.02, high=0.02, bins=21) for n in "xy")
)


def guard_settings(**changes) -> GuardSettings:
    box = {"x": (0.2, 0.6), "y": (-0.2, 0.2)}
    return GuardSettings(**{"space": PLANE, "workspace": box, **changes})


def violations(result) -> dict[str, int]:
    return {kind: count for kind, count in result.violations.items() if count}


@pytest.mark.parametrize(("clock", "actions"), [("lockstep", 20_000), ("real", 4_000)])
def test_no_invalid_command_in_many_wild_actions(clock, actions):
    result = fuzz_guard(guard_settings(clock=clock), actions, seed=0)
    assert violations(result) == {}
    # the fuzz is worth nothing unless it moved the robot and sent what must be refused
    assert min(result.reports[kind] for kind in ("policy", "teleop", "hold")) > actions / 50
    assert min(result.inputs[kind] for kind in ("huge", "not finite", "wrong shape")) > 10


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    clock=st.sampled_from(["lockstep", "real"]),
    chunk=st.integers(1, 4),
    rate=st.sampled_from([5.0, 10.0, 30.0]),
    speed=st.floats(0.02, 0.5),
    acceleration=st.floats(0.2, 10.0),
)
def test_no_invalid_command_whatever_the_limits(seed, clock, chunk, rate, speed, acceleration):
    result = fuzz_guard(
        guard_settings(
            clock=clock,
            space=PLANE.model_copy(update={"chunk": chunk, "rate": rate}),
            max_speed=speed,
            max_acceleration=acceleration,
        ),
        60,
        seed,
    )
    assert violations(result) == {}
