"""A joystick session over DDS: takes kept, redone, judged and discarded by one person."""

from __future__ import annotations

import pytest

pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")
pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from ros.operated import DISCARD, DISCARD_LAST, END, FINISH, SUCCESS, OperatedFleet
from ros.test_loop import heard, plan

from efm_core import messages, topics
from efm_core.bags import EpisodeReader, check_episode, list_episodes
from efm_core.episode import Mode, Outcome
from efm_trainer.data import load_episode
from efm_trainer.samples import labels_of

TELEOP = 2


@pytest.fixture
def fleet(context, executor, probe, spin_until, space, tmp_path):
    made = OperatedFleet(context, executor, probe, spin_until, space, tmp_path)
    made.start("sim", "guard", "manager")
    return made


def done(fleet) -> int:
    return int(fleet.status().get("plan_done", 0))


def drive(fleet, ticks=8) -> str:
    """Move in the running take for some ticks, let go; returns the take's id."""
    fleet.spin_until(lambda: fleet.phase == "running")
    episode, before = fleet.status()["episode_id"], fleet.acted_by(TELEOP)
    fleet.steer(-0.6, 0.8)
    fleet.spin_until(lambda: fleet.acted_by(TELEOP) >= before + ticks)
    fleet.steer(0.0, 0.0, enable=False)
    return episode


def take(fleet, button, saved=True) -> str:
    """One take, ended by a button."""
    before, redone = done(fleet), fleet.status().get("redone_total")
    episode = drive(fleet)
    fleet.tap(button, lambda: fleet.status()["episode_id"] != episode)
    if saved:
        fleet.spin_until(lambda: done(fleet) == before + 1)
    else:
        fleet.spin_until(lambda: fleet.status()["redone_total"] != redone)
    return episode


@pytest.mark.parametrize("wanted", [3, 10])
def test_takes_redone_and_discarded_leave_nothing_behind(fleet, wanted):
    """All but the last remain: even ones marked in the take, odd ones judged after it."""
    fleet.take_seat()
    listed = plan("session", Mode.DEMO, range(20, 20 + wanted), limit=150)
    fleet.plans.send(messages.text(listed.model_dump_json()))
    kept, gone, expected = [], [], {}
    for index in range(wanted):
        if index == 1:
            gone.append(take(fleet, DISCARD, saved=False))
        kept.append(take(fleet, END if index % 2 else SUCCESS))
        expected[kept[-1]] = (index, not index % 2)
        if index % 2:
            assert fleet.status()["last_label"] == "unknown"
            answer = fleet.call("label_failure")
            assert (answer.success, answer.message) == (True, kept[-1])
    assert len(list_episodes(fleet.data / "session")) == wanted
    gone.append(kept.pop())
    fleet.tap(DISCARD_LAST, lambda: fleet.status()["discarded_total"] == "1")
    assert not fleet.call("discard_last").success  # once is enough
    assert (fleet.status()["redone_total"], done(fleet)) == ("1", wanted)

    folders = list_episodes(fleet.data / "session")
    assert sorted(path.name for path in folders) == sorted(kept)
    assert len(kept) == wanted - 1
    for folder in folders:
        check_take(folder, *expected[folder.name], others={*kept, *gone} - {folder.name})
    assert not list(fleet.data.rglob("*.partial"))
    (away,) = (fleet.data / "session" / ".discarded").iterdir()
    assert away.name == gone[-1]


def check_take(folder, index, success, others):
    """Whole, labelled right, and nothing in it is another take's."""
    reader = EpisodeReader(folder)
    record = reader.record
    assert check_episode(folder) == []
    assert (record.index, record.labels.operator) == (index, success)
    assert record.labels.operator_source == "person"
    assert record.termination_reason == "operator"
    assert record.outcome is (Outcome.SUCCESS if success else Outcome.UNKNOWN)
    content = b"".join(file.read_bytes() for file in folder.iterdir())
    messages_raw = b"".join(raw for *_, raw in reader.messages(None))
    for other in others:
        assert other.encode() not in content + messages_raw
    last = record.end_ns + round(5e9 / record.rate)
    for topic in (topics.JOINT_STATES, topics.TELEOP_TWIST, topics.camera("front")):
        for _, kind, _, raw in reader.messages([f"/robot_1/{topic.name}"]):
            stamp = messages.stamp_of(messages.deserialize(raw, kind))
            assert record.start_ns <= stamp <= last
    guard = heard(reader, topics.GUARD_STATE)
    sources = [messages.read_named_scalars(guard[k])["source"] for k in range(record.ticks)]
    assert sources == [TELEOP] * record.ticks
    assert record.ticks >= 8
    labels = labels_of(load_episode(folder))
    # 0.2 m/s, more than the guard's 0.25 never; a failed take teaches nothing by default.
    assert ((labels.bins >= 0).any(), (labels.steps >= 0).any()) == (success, success)


def test_finish_saves_the_running_take_and_begins_no_other(fleet):
    fleet.take_seat()
    listed = plan("short", Mode.DEMO, range(5), limit=150)
    fleet.plans.send(messages.text(listed.model_dump_json()))
    take(fleet, SUCCESS)
    episode = drive(fleet)
    fleet.tap(FINISH, lambda: fleet.phase == "idle")
    fleet.spin_until(lambda: done(fleet) == 2)
    assert fleet.status()["plan_total"] == "2"
    records = [EpisodeReader(p).record for p in list_episodes(fleet.data / "short")]
    assert {r.episode_id: r.outcome for r in records}[episode] is Outcome.UNKNOWN
    # The same list again goes on where it was.
    fleet.plans.send(messages.text(listed.model_dump_json()))
    fleet.spin_until(lambda: fleet.phase == "running" and fleet.status()["plan_total"] == "5")


def test_an_unplugged_joystick_stops_the_robot(fleet):
    fleet.probe.hear(topics.TELEOP_TWIST)
    fleet.take_seat(timeout=0.5)
    # longer than what is driven between the unplugging and its being noticed
    lost = plan("lost", Mode.DEMO, [1], limit=5000)
    fleet.plans.send(messages.text(lost.model_dump_json()))
    fleet.spin_until(lambda: fleet.phase == "running")
    fleet.steer(1.0, 0.0)
    fleet.spin_until(lambda: fleet.acted_by(TELEOP) > 5)
    fleet.plugged = False
    twists = fleet.probe.heard[topics.TELEOP_TWIST.name]
    fleet.spin_until(lambda: twists[-1].twist.linear.x == 0.0)
    fleet.spin_until(lambda: fleet.acted_by(TELEOP) == len(twists))
    count = len(twists)
    fleet.plugged = True  # still held: it was not seen released, so nothing moves
    moved = []
    fleet.probe.create_timer(0.7, lambda: moved.append(fleet.acted_by(TELEOP)))
    fleet.spin_until(lambda: moved)
    assert moved[0] == count
    fleet.steer(1.0, 0.0, enable=False)
    fleet.spin_until(lambda: len(moved) > 1)
    fleet.steer(1.0, 0.0)
    fleet.spin_until(lambda: fleet.acted_by(TELEOP) > count + 5)
