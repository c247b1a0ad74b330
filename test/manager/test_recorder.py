"""The recorder: what is stored, counted and left out, in lockstep and in real time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_core import messages, topics
from efm_episode_manager import cdr
from efm_episode_manager.recorder import Recorder, recorded_topics
from efm_episode_manager.session import TickGrid
from efm_episode_manager.truth_label import truth_label

START, PERIOD = 10_000_000_000, 100_000_000
TOPICS = recorded_topics(["front"], ["arm"])
GRID = TickGrid(START, 10.0)


class Bag:
    def __init__(self) -> None:
        self.kept: list[tuple[str, bytes, int]] = []
        self.sent_ns: list[int] = []

    def write(self, topic, data, log_ns, sent_ns=0):
        self.kept.append((topic, data, log_ns))
        self.sent_ns.append(sent_ns)

    def stamps(self, topic):
        return [cdr.stamp_ns(d) for name, d, _ in self.kept if name == f"/arm0/{topic}"]


def joints(tick: int, value: float = 0.0, off: int = 0) -> bytes:
    message = messages.named_scalars(START + tick * PERIOD + off, "base", {"j": value})
    return messages.serialize(message, topics.NAMED_SCALARS)


def plain(message, kind: str) -> bytes:
    return messages.serialize(message, f"std_msgs/msg/{kind}")


def started(grid=GRID, lockstep=True) -> tuple[Recorder, Bag]:
    recorder, bag = Recorder(TOPICS, "/arm0/", lockstep), Bag()
    recorder.start(bag, grid)
    return recorder, bag


@given(
    stamp=st.integers(0, 2**31 * 10**9 - 1),
    frame=st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=20),
)
def test_header_is_read_like_the_whole_message(stamp, frame):
    for message, kind in (
        (messages.named_scalars(stamp, frame, {"a": 1.0}), topics.NAMED_SCALARS),
        (messages.pose(stamp, frame, (1, 2, 3)), topics.EE_POSE.type),
        (messages.image(stamp, frame, np.zeros((2, 2, 3), np.uint8)), "sensor_msgs/msg/Image"),
    ):
        data = messages.serialize(message, kind)
        assert cdr.has_stamp(kind)
        assert cdr.stamp_ns(data) == stamp
        assert cdr.frame_id(data) == frame


def test_types_without_a_header_are_known_as_such():
    for topic in TOPICS:
        has = "header" in messages.typestore.types[topic.type].__dataclass_fields__
        assert cdr.has_stamp(topic.type) is has, topic


def test_cut_bytes_are_refused():
    with pytest.raises(ValueError, match="too short"):
        cdr.stamp_ns(b"\x00\x01\x00\x00\x01")
    with pytest.raises(ValueError, match="does not fit"):
        cdr.frame_id(joints(0)[:18])


def test_a_repeated_stamp_is_counted_and_stored_once():
    recorder, bag = started()
    for tick in (0, 1, 1, 1, 2):
        recorder.hear("joint_states", joints(tick), 0)
    assert bag.stamps("joint_states") == [START, START + PERIOD, START + 2 * PERIOD]
    counts = recorder.stop()["/arm0/joint_states"]
    assert (counts.expected, counts.on_time, counts.repeated) == (5, 3, 2)
    assert (counts.late, counts.dropped) == (0, 0)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40))
def test_counts_always_add_up(ticks):
    recorder, bag = started()
    for tick in ticks:
        recorder.hear("joint_states", joints(tick), 0)
    counts = recorder.stop()["/arm0/joint_states"]
    distinct = set(ticks)
    assert len(bag.kept) == len(distinct) == counts.on_time + counts.late
    assert counts.repeated == len(ticks) - len(distinct)
    assert counts.dropped == max(ticks) + 1 - len(distinct)
    total = counts.on_time + counts.late + counts.repeated + counts.dropped
    assert counts.expected == total


def test_the_guards_second_answer_to_a_tick_is_kept():
    recorder, bag = started()
    for value in (0.5, 0.0, 0.0):  # the policy's command, the hold that replaces it, a repetition
        recorder.hear("guard/state", joints(3, value), 0)
    assert len(bag.kept) == 2
    counts = recorder.stop()["/arm0/guard/state"]
    assert (counts.on_time, counts.repeated, counts.expected) == (1, 2, 3)


def test_latched_values_come_first_and_early_messages_of_the_episode_follow():
    recorder, bag = Recorder(TOPICS, "/arm0/", True), Bag()
    status = messages.serialize(messages.status(5, "reset", {"state": "done"}), topics.STATUS)
    recorder.hear("joint_states", joints(-7), 0)
    recorder.forget_tail()
    recorder.hear("joint_states", joints(0), 0)
    recorder.hear("truth/success", plain(messages.boolean(False), "Bool"), 0)
    recorder.hear("guard/state", joints(0, off=12345), 0)  # a timer's hold before the start
    recorder.hear("policy/decision", joints(0), 0)
    recorder.hear("reset/status", status, 0)
    recorder.start(bag, GRID, {"policy/decision"})
    assert [name.removeprefix("/arm0/") for name, _, _ in bag.kept] == [
        "reset/status", "joint_states", "truth/success",
    ]  # fmt: skip
    assert {log_ns for _, _, log_ns in bag.kept} == {START}


def test_log_times_are_virtual_in_lockstep_and_receipts_in_real_time():
    recorder, bag = started()
    recorder.hear("joint_states", joints(2), 111, 101)
    recorder.hear("guard/state", joints(2, off=5), 222)  # off the grid: the present tick
    recorder.hear("reward/reward", plain(messages.float32(1.0), "Float32"), 3)
    assert [log_ns for _, _, log_ns in bag.kept] == [START + 2 * PERIOD] * 3
    assert bag.sent_ns == [0, 0, 0]  # else two runs of a plan would differ
    recorder, bag = started(TickGrid(START, 10.0, exact=False), lockstep=False)
    recorder.hear("joint_states", joints(2, off=17), 111, 101)
    assert ([log_ns for _, _, log_ns in bag.kept], bag.sent_ns) == ([111], [101])


def test_complete_waits_for_everything_that_answers_observations():
    recorder, _ = started()
    for name in ("camera/front/image_raw", "joint_states", "reward/state", "policy/decision"):
        recorder.hear(name, joints(0), 0)
    recorder.hear("guard/state", joints(0), 0)
    assert recorder.complete(START)
    for name in ("camera/front/image_raw", "joint_states", "reward/state"):
        recorder.hear(name, joints(1), 0)
    assert not recorder.complete(START + PERIOD)
    recorder.hear("policy/decision", joints(1), 0)
    assert recorder.complete(START + PERIOD)


def truth(tick: int, success: float) -> bytes:
    message = messages.named_scalars(START + tick * PERIOD, "base", {"success": success})
    return messages.serialize(message, topics.NAMED_SCALARS)


def test_truth_label_is_success_at_any_observation_of_the_episode():
    states = [truth(k, float(k == 3)) for k in range(8)]
    assert truth_label(states, GRID, ticks=3) is True
    assert truth_label(states, GRID, ticks=7) is True
    assert truth_label(states, GRID, ticks=2) is False  # success lies in its still frames
    assert truth_label([], GRID, ticks=5) is None
