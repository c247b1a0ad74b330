"""Every picture is accounted for: what was done to them is what the counters say (P12)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efm_core import messages
from efm_core.camera_description import CameraDescription
from efm_core.camera_intake import CameraIntake
from efm_core.camera_ledger import Arrival, FrameLedger, excess_loss, summary
from efm_core.episode import TopicCounts

MS = 1_000_000
PERIOD = 50 * MS
LATENCY = 8 * MS
CAMERA = CameraDescription(name="front", width=16, height=16, rate=20.0)
START = 1_700_000_000_000_000_000


def picture(stamp_ns: int, value: int, width: int = 16):
    rgb = np.full((16, width, 3), value % 256, np.uint8)
    return messages.image(stamp_ns, "front", rgb)


def intake(lockstep: bool = False) -> CameraIntake:
    return CameraIntake(CAMERA, lockstep)


def show(camera: CameraIntake, k: int, stamp_ns: int | None = None, late_ns: int = 0, value=None):
    """Picture k of a camera with the latency given; stamped as it should be unless told."""
    taken = START + k * PERIOD
    message = picture(taken if stamp_ns is None else stamp_ns, k if value is None else value)
    return camera.take(message, taken + LATENCY + late_ns)


def counted(camera: CameraIntake, *window: int) -> tuple[int, ...]:
    c = camera.ledger.counts(*window)
    assert c.expected == c.on_time + c.late + c.repeated + c.dropped
    return c.expected, c.on_time, c.late, c.repeated, c.dropped


FAULTS = ("none", "drop", "repeat", "swap", "delay", "small", "future", "zero")


@st.composite
def scripts(draw):
    """A fault or none for each of many pictures; the first and the last are left alone."""
    length = draw(st.integers(3, 60))
    middle = draw(st.lists(st.sampled_from(FAULTS), min_size=length, max_size=length))
    return ["none", *middle, "none", "none"]


def play(script, camera: CameraIntake, rng) -> dict[str, int]:
    """What a proxy does to pictures on their way; returns how often it did what."""
    done = dict.fromkeys(FAULTS, 0)
    order: list[tuple[int, str]] = []
    for k, fault in enumerate(script):
        if fault == "swap" and k + 1 < len(script) and script[k + 1] == "none":
            order.append((k, "held"))
        else:
            order.append((k, "none" if fault == "swap" else fault))
    queue: list[tuple[int, str]] = []
    for k, fault in order:
        if fault == "held":
            queue.append((k, "swap"))
            continue
        queue.insert(len(queue) - 1 if queue and queue[-1][1] == "swap" else len(queue), (k, fault))
    now_ns = START
    for k, fault in queue:
        taken = START + k * PERIOD + int(rng.integers(-10, 11)) * MS
        now_ns = max(now_ns + 1, taken + LATENCY)
        done[fault] += 1
        if fault == "drop":
            continue
        stamp = {"future": now_ns + 500 * MS, "zero": 0}.get(fault, taken)
        message = picture(stamp, k, 20 if fault == "small" else 16)
        received = now_ns + (700 * MS if fault == "delay" else 0)
        camera.take(message, received)
        if fault == "repeat":
            camera.take(message, received + MS)
    return done


@given(scripts(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_counters_equal_what_was_done(script, seed):
    camera = intake()
    done = play([f if f not in ("zero", "future") else "none" for f in script], camera,
                np.random.default_rng(seed))  # fmt: skip
    expected, on_time, late, repeated, dropped = counted(camera)
    assert repeated == done["repeat"]
    assert late == done["swap"] + done["delay"]
    assert dropped == done["drop"] + done["small"]
    assert expected == len(script) + done["repeat"]
    assert on_time == done["none"] + done["repeat"]
    assert camera.ledger.counts().refused == done["small"]
    assert camera.ledger.reasons["reordered"] == done["swap"]
    assert camera.ledger.reasons["delayed"] == done["delay"]


@given(scripts(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_whatever_comes_each_picture_is_counted_once(script, seed):
    camera = intake()
    done = play(script, camera, np.random.default_rng(seed))
    _, on_time, late, repeated, _ = counted(camera)
    arrived = sum(done.values()) - done["drop"] + done["repeat"]
    refused = camera.ledger.counts().refused
    assert on_time + late + repeated + refused == arrived


def test_a_stamp_of_zero_is_replaced_by_the_receive_time_and_marked():
    camera = intake()
    frames = [show(camera, k, stamp_ns=0) for k in range(5)]
    assert [f.stamp_ns for f in frames] == [START + k * PERIOD + LATENCY for k in range(5)]
    assert {(f.arrival, f.reason) for f in frames} == {(Arrival.ON_TIME, "zero")}
    show(camera, 8, stamp_ns=0)  # 5, 6 and 7 are missing
    assert counted(camera) == (9, 6, 0, 0, 3)
    assert camera.ledger.counts().restamped == 6


def test_a_frozen_stamp_is_replaced_while_the_picture_changes_and_repeated_otherwise():
    camera = intake()
    show(camera, 0)
    second = show(camera, 1, stamp_ns=START)
    assert (second.arrival, second.reason) == (Arrival.ON_TIME, "frozen")
    assert second.stamp_ns == START + PERIOD + LATENCY
    again = show(camera, 2, stamp_ns=START, value=1)
    assert again.arrival is Arrival.REPEATED
    assert counted(camera) == (3, 2, 0, 1, 0)
    camera.ledger.resume()  # the next episode does not mend the camera
    assert show(camera, 60, stamp_ns=START).reason == "frozen"


@pytest.mark.parametrize(("ahead_ms", "refused"), [(1, False), (99, False), (101, True)])
def test_a_stamp_ahead_of_the_clock_is_used_up_to_a_tenth_of_a_second(ahead_ms, refused):
    camera = intake()
    received = START + LATENCY
    frame = camera.take(picture(received + ahead_ms * MS, 1), received)
    if refused:
        assert (frame.arrival, frame.reason) == (Arrival.REFUSED, "future")
        assert "0.101 s in the future; synchronise the clocks" in frame.error
    else:
        assert (frame.arrival, frame.reason, frame.stamp_ns) == (Arrival.ON_TIME, "ahead", received)
    assert counted(camera) == ((1, 0, 0, 0, 1) if refused else (1, 1, 0, 0, 0))


def test_one_refused_for_its_stamp_leaves_no_second_gap():
    camera = intake()
    show(camera, 0)
    show(camera, 1, stamp_ns=START + 10**12)
    show(camera, 2)
    assert counted(camera) == (3, 2, 0, 0, 1)


@pytest.mark.parametrize("stall_ms", [0, 200, 900])
def test_a_stall_of_the_machine_is_no_loss_beside_a_stamp_of_no_use(stall_ms):
    camera = CameraIntake(CAMERA.model_copy(update={"max_age": 5.0}), False)
    show(camera, 0)
    show(camera, 1, stamp_ns=START + 10**13, late_ns=stall_ms * MS)
    show(camera, 2, late_ns=stall_ms * MS)
    show(camera, 4, late_ns=stall_ms * MS)
    assert counted(camera) == (5, 3, 0, 0, 2)  # the refused one and number 3


def test_an_overtaken_picture_is_late_and_no_longer_missing():
    camera = intake()
    show(camera, 0)
    show(camera, 2)
    assert counted(camera) == (3, 2, 0, 0, 1)
    frame = show(camera, 1, late_ns=PERIOD)
    assert (frame.arrival, frame.reason) == (Arrival.LATE, "reordered")
    assert counted(camera) == (3, 2, 1, 0, 0)
    assert show(camera, 1, late_ns=PERIOD).arrival is Arrival.REPEATED


def test_an_old_picture_is_late_and_says_what_to_do():
    camera = intake()
    frame = show(camera, 0, late_ns=600 * MS)
    assert (frame.arrival, frame.reason) == (Arrival.LATE, "delayed")
    assert frame.error == (
        "picture is 0.608 s old on arrival, max_age is 0.5 s; "
        "synchronise the clocks or raise max_age"
    )


def test_a_camera_that_stops_is_missed_up_to_now_and_one_that_never_came_altogether():
    camera = intake()
    for k in range(4):
        show(camera, k)
    until = START + 3 * PERIOD + LATENCY + 10 * PERIOD
    # The tenth is due only now: it may be on its way.
    assert counted(camera, START, until) == (13, 4, 0, 0, 9)
    assert counted(intake(), START, START + 20 * PERIOD) == (20, 0, 0, 0, 20)
    # The first one came six periods after the start.
    assert counted(camera, START - 6 * PERIOD + LATENCY)[4] == 5


def test_a_clock_that_was_set_back_is_followed_from_the_next_episode_on():
    camera = intake()
    show(camera, 100)
    assert show(camera, 0).arrival is Arrival.LATE
    camera.ledger.resume()
    assert show(camera, 1).arrival is Arrival.ON_TIME
    assert camera.ledger.counts().on_time == 2


def test_a_refused_picture_in_order_is_dropped_once():
    camera = intake()
    show(camera, 0)
    camera.take(picture(START + PERIOD, 1, width=20), START + PERIOD)
    show(camera, 2)
    assert counted(camera) == (3, 2, 0, 0, 1)
    assert camera.ledger.reasons == {"width": 1}
    camera.ledger.refuse("data")  # the last one was damaged inside
    assert counted(camera) == (3, 1, 0, 0, 2)


def test_in_lockstep_nothing_is_missing_and_what_comes_again_is_repeated():
    camera = intake(lockstep=True)
    for k in (0, 1, 1, 5, 0):
        camera.take(picture(START + k * PERIOD, k), 0)
    assert counted(camera, 0, 10**18) == (5, 3, 0, 2, 0)


def test_an_episode_begins_with_zero():
    ledger = FrameLedger(CAMERA, lockstep=False)
    ledger.take(START, START)
    ledger.begin()
    assert ledger.counts() == TopicCounts()


@pytest.mark.parametrize(
    ("on_time", "late", "dropped", "bad"),
    [(80, 10, 10, False), (79, 11, 10, True), (0, 0, 0, True)],
)
def test_an_episode_that_lost_too_much_says_so(on_time, late, dropped, bad):
    counts = TopicCounts(expected=on_time + late + dropped + 50, on_time=on_time, late=late,
                         repeated=50, dropped=dropped)  # fmt: skip
    assert bool(excess_loss(CAMERA, counts)) is bad


def test_the_page_names_every_field_and_every_count():
    page = (Path(__file__).resolve().parents[2] / "docs" / "cameras.md").read_text()
    names = [*CameraDescription.model_fields, *summary(TopicCounts()), "state_tolerance"]
    assert [name for name in names if f"`{name}`" not in page and name != "expected"] == []


def test_what_is_remembered_is_bounded():
    camera = intake()
    for k in range(1000):
        show(camera, k)
    assert len(camera.ledger._seen) <= 256
    assert camera.ledger.counts().on_time == 1000
