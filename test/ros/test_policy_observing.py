"""Messages become observations: which picture, which instruction, which tick."""

from __future__ import annotations

import numpy as np
import pytest

from efm_core import messages
from efm_core.camera_intake import Frame
from efm_ros.observing import EpisodeView, ObservationBuilder

PERIOD = 100_000_000
START = 7_000_000_000
READY = EpisodeView("ready", "e1", "practice", START, "p1", "r1", 0.8, 3)
IDLE = EpisodeView()


def frame(camera: str, stamp_ns: int, value: int) -> Frame:
    rgb = np.full((2, 2, 3), value, np.uint8)
    return Frame(camera, messages.image(stamp_ns, camera, rgb), stamp_ns)


def builder(
    clock="lockstep", cameras=("front",), episode=READY, camera_rate=10.0
) -> ObservationBuilder:
    made = ObservationBuilder(cameras, 10.0, clock, camera_rate=camera_rate)
    made.on_instruction("push a to b", 0.0)
    made.on_episode(episode, 0.0)
    return made


def test_status_pairs_are_read_and_bad_ones_named():
    view = EpisodeView.from_status(
        {"phase": "running", "episode_id": "e", "start_ns": "12", "temperature": "0.5", "seed": "9"}
    )
    assert (view.start_ns, view.temperature, view.seed, view.live) == (12, 0.5, 9, True)
    with pytest.raises(ValueError, match="start_ns is 'soon'"):
        EpisodeView.from_status({"start_ns": "soon"})
    assert not EpisodeView.from_status({"temperature": ""}).live


@pytest.mark.parametrize("phase", ["idle", "resetting", "saving", "needs_help", "stopped"])
def test_nothing_is_observed_outside_an_episode(phase):
    made = builder(episode=EpisodeView(phase, "e1", "practice", START))
    assert made.on_frame(frame("front", START, 1), 0.0) is None


def test_the_tick_counts_periods_since_the_start():
    made = builder()
    for k in (0, 1, 2, 7):
        observed = made.on_frame(frame("front", START + k * PERIOD, k), 1.0)
        assert observed is not None
        assert (observed.observation.tick, observed.repeated) == (k, False)
        assert observed.observation.instruction == "push a to b"


def test_an_announced_episode_takes_the_newest_picture_unless_it_is_older():
    made = ObservationBuilder(("front",), 10.0, "lockstep")
    made.on_instruction("push a to b", 0.0)
    made.on_frame(frame("front", START, 4), 1.0)
    observed = made.on_episode(READY, 2.0)
    assert observed is not None
    assert observed.observation.stamp_ns == START
    assert observed.received_s == 2.0
    other = ObservationBuilder(("front",), 10.0, "lockstep")
    other.on_instruction("push a to b", 0.0)
    other.on_frame(frame("front", START - PERIOD, 4), 1.0)
    assert other.on_episode(READY, 2.0) is None


def test_a_repeated_stamp_is_marked_and_an_older_one_ignored():
    made = builder()
    made.on_frame(frame("front", START + PERIOD, 1), 0.0)
    again = made.on_frame(frame("front", START + PERIOD, 1), 0.0)
    assert again is not None
    assert again.repeated
    assert made.on_frame(frame("front", START, 1), 0.0) is None


def test_the_instruction_of_the_last_episode_is_not_used_for_the_next():
    made = builder()
    assert made.on_frame(frame("front", START, 1), 0.0) is not None
    made.on_episode(EpisodeView("saving", "e1"), 0.0)
    made.on_frame(frame("front", START + 5 * PERIOD, 2), 0.0)
    later = EpisodeView("ready", "e2", "practice", START + 5 * PERIOD)
    assert made.on_episode(later, 0.0) is None
    observed = made.on_instruction("push c to d", 0.0)
    assert observed is not None
    assert observed.observation.instruction == "push c to d"


def test_an_instruction_before_the_announcement_counts_even_if_idle_was_not_heard():
    made = builder()
    assert made.on_frame(frame("front", START, 1), 0.0) is not None
    made.on_instruction("push c to d", 0.0)
    made.on_frame(frame("front", START + PERIOD, 2), 0.0)
    observed = made.on_episode(EpisodeView("ready", "e2", "practice", START + PERIOD), 0.0)
    assert observed is not None
    assert observed.observation.tick == 0


def test_an_instruction_heard_before_the_end_of_the_last_episode_is_the_next_ones():
    made = builder()
    assert made.on_frame(frame("front", START, 1), 0.0) is not None
    made.on_instruction("push c to d", 0.0)  # overtook the news that e1 is over
    made.on_episode(EpisodeView("resetting"), 0.0)
    made.on_frame(frame("front", START + 5 * PERIOD, 2), 0.0)
    later = EpisodeView("ready", "e2", "practice", START + 5 * PERIOD)
    observed = made.on_episode(later, 0.0)
    assert observed is not None
    assert observed.observation.instruction == "push c to d"


def test_lockstep_waits_until_every_camera_shows_the_same_instant():
    made = builder(cameras=("front", "wrist"))
    assert made.on_frame(frame("front", START, 1), 0.0) is None
    first = made.on_frame(frame("wrist", START, 2), 0.0)
    assert first is not None
    assert first.offsets == {"front": 0.0, "wrist": 0.0}
    assert made.on_frame(frame("wrist", START + PERIOD, 3), 0.0) is None
    second = made.on_frame(frame("front", START + PERIOD, 4), 0.0)
    assert second is not None
    assert second.observation.images["wrist"][0, 0, 0] == 3


def test_real_time_pairs_the_newest_pictures_and_records_the_offsets():
    made = builder("real", ("front", "wrist"))
    made.on_state("joint_states", START - 20_000_000, {"joint_1": 0.5})
    assert made.on_frame(frame("wrist", START - 30_000_000, 2), 0.0) is None
    observed = made.on_frame(frame("front", START, 1), 0.0)
    assert observed is not None
    assert observed.offsets == {"front": 0.0, "wrist": -0.03, "joint_states": -0.02}
    assert observed.observation.state == {"joint_1": 0.5}


@pytest.mark.parametrize("camera_rate", [10, 15, 30, 60])
def test_a_camera_faster_than_the_control_rate_is_thinned_out(camera_rate):
    made = builder("real", camera_rate=camera_rate)
    count = 4 * camera_rate  # four seconds at 10 Hz control
    stamps = [START + round(i * 1e9 / camera_rate) for i in range(count)]
    taken = [made.on_frame(frame("front", s, 1), 0.0) is not None for s in stamps]
    assert 39 <= sum(taken) <= 41


@pytest.mark.parametrize("camera_rate", [20, 30])
def test_of_a_faster_camera_the_picture_nearest_to_the_time_due_is_taken(camera_rate):
    made = builder("real", camera_rate=camera_rate)
    jitter = np.random.default_rng(0).uniform(-0.002, 0.002, 200) * 1e9
    stamps = [START + round(k * 1e9 / camera_rate + jitter[k]) for k in range(1, 200)]
    taken = [s for s in stamps if made.on_frame(frame("front", s, 1), 0.0) is not None]
    gaps = np.diff(taken) / 1e9
    assert np.abs(gaps - 0.1).max() < 0.005


def test_a_camera_at_the_control_rate_may_jitter_and_lose_a_picture():
    made = builder("real")
    jitter = np.random.default_rng(0).uniform(-0.024, 0.024, 60) * 1e9
    stamps = [START + k * PERIOD + round(jitter[k]) for k in range(1, 60) if k not in (17, 18)]
    assert all(made.on_frame(frame("front", s, 1), 0.0) is not None for s in stamps)


def test_real_time_ignores_a_picture_that_was_overtaken():
    made = builder("real")
    assert made.on_frame(frame("front", START + PERIOD, 1), 0.0) is not None
    assert made.on_frame(frame("front", START, 2), 0.0) is None
    observed = made.on_frame(frame("front", START + 2 * PERIOD, 3), 0.0)
    assert observed is not None
