from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_core import messages
from efm_core.actions import ActionDim, ActionSpace
from efm_core.observation import Decision

STAMP = 1_700_000_000_123_456_789
JOINT_STATE = "sensor_msgs/msg/JointState"


def there_and_back(msg, kind):
    return messages.deserialize(messages.serialize(msg, kind), kind)


@given(
    st.dictionaries(st.text(min_size=1, max_size=12), st.floats(allow_nan=False), max_size=6),
    st.integers(0, (2**31 - 1) * 10**9),  # seconds travel as int32
)
def test_named_scalars_survive_the_wire(scalars, stamp):
    back = there_and_back(messages.named_scalars(stamp, "frame", scalars), JOINT_STATE)
    assert messages.read_named_scalars(back) == scalars
    assert list(back.name) == list(scalars)
    assert messages.stamp_of(back) == stamp


def test_names_without_positions_are_refused():
    msg = messages.named_scalars(0, "", {"a": 1.0})
    msg.name.append("b")
    with pytest.raises(ValueError, match="2 names and 1 positions"):
        messages.read_named_scalars(msg)


def picture(height=3, width=5):
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def test_images_keep_their_bytes_without_a_copy():
    back = there_and_back(messages.image(STAMP, "front", picture()), "sensor_msgs/msg/Image")
    view = messages.read_image(back)
    np.testing.assert_array_equal(view, picture())
    assert np.shares_memory(view, np.asarray(back.data))
    assert (back.encoding, back.step) == ("rgb8", 15)


def test_other_encodings_and_padded_rows():
    msg = messages.image(STAMP, "front", picture())
    msg.encoding = "bgr8"
    np.testing.assert_array_equal(messages.read_image(msg), picture()[:, :, ::-1])
    padded = np.zeros((3, 20), dtype=np.uint8)
    padded[:, :15] = picture().reshape(3, 15)
    msg.encoding, msg.step, msg.data = "rgb8", 20, padded.reshape(-1)
    np.testing.assert_array_equal(messages.read_image(msg), picture())
    msg.encoding, msg.step, msg.width, msg.data = "mono8", 5, 5, np.arange(15, dtype=np.uint8)
    grey = messages.read_image(msg)
    assert grey.shape == (3, 5, 3)
    np.testing.assert_array_equal(grey[1, 2], [7, 7, 7])


@pytest.mark.parametrize(("field", "value"), [("encoding", "yuv422"), ("step", 3), ("height", 9)])
def test_images_that_lie_are_refused(field, value):
    msg = messages.image(STAMP, "front", picture())
    setattr(msg, field, value)
    with pytest.raises(ValueError, match=r"encoding 'yuv422'|height x step"):
        messages.read_image(msg)


def test_a_chunk_of_deltas_travels_as_rates(space):
    space = space.model_copy(update={"chunk": 3})
    values = np.array([[0.01, -0.02], [0.0, 0.013], [0.02, 0.02]])
    msg = messages.action_chunk(STAMP, "episode", space, values)
    back = there_and_back(msg, "trajectory_msgs/msg/JointTrajectory")
    # 0.01 m per tick at 10 Hz is 0.1 m/s, and the third point begins after 2 / 10 s
    np.testing.assert_allclose(back.points[0].velocities, [0.1, -0.2])
    assert len(back.points[0].positions) == 0
    assert back.points[2].time_from_start.nanosec == 200_000_000
    assert back.header.frame_id == "episode"
    np.testing.assert_allclose(messages.read_action_chunk(back, space), values, atol=1e-17)


def test_absolute_targets_travel_as_positions():
    dim = ActionDim(name="joint1", unit="rad", low=-3.0, high=3.0)
    space = ActionSpace(dims=(dim,), kind="absolute", rate=5.0)
    msg = messages.action_chunk(STAMP, "e", space, [[1.25]])
    assert msg.points[0].positions.tolist() == [1.25]
    assert messages.read_action_chunk(msg, space).tolist() == [[1.25]]


@given(st.lists(st.integers(0, 20), min_size=2, max_size=2))
def test_velocities_survive_the_wire_bit_by_bit_at_ten_hertz(bins):
    # m / n * n == m in binary floating point for n = 2^i + 2^j (Kahan), and 10 = 8 + 2
    dims = tuple(ActionDim(name=n, unit="m", low=-0.02, high=0.02, bins=21) for n in "xy")
    space = ActionSpace(dims=dims)
    values = space.decode([bins])
    sent = messages.action_chunk(0, "e", space, values)
    received = messages.read_action_chunk(sent, space)
    np.testing.assert_array_equal(received * space.rate, values * space.rate)


def test_chunks_that_do_not_fit_are_refused_by_field(space):
    good = messages.action_chunk(0, "e", space, [[0.0, 0.0]])
    with pytest.raises(ValueError, match="shape"):
        messages.action_chunk(0, "e", space, [0.0, 0.0])
    with pytest.raises(ValueError, match="points holds 1 actions, expected 2"):
        messages.read_action_chunk(good, space.model_copy(update={"chunk": 2}))
    good.points[0].velocities = np.zeros(3)
    with pytest.raises(ValueError, match=r"points\[0\]\.velocities has 3 values"):
        messages.read_action_chunk(good, space)
    good.joint_names = ["y", "x"]
    with pytest.raises(ValueError, match="joint_names"):
        messages.read_action_chunk(good, space)


def test_point_times_are_checked(space):
    space = space.model_copy(update={"chunk": 2})
    msg = messages.action_chunk(0, "e", space, np.zeros((2, 2)))
    msg.points[1].time_from_start.nanosec = 150_000_000
    with pytest.raises(ValueError, match=r"points\[1\]\.time_from_start is 0\.15"):
        messages.read_action_chunk(msg, space)


@pytest.mark.parametrize("chunk", [1, 2])
def test_decisions_come_back_whole(space, chunk):
    space = space.model_copy(update={"chunk": chunk})
    bins = np.arange(2 * chunk).reshape(chunk, 2) + 3
    sent = Decision(bins=bins, log_prob=-3.25, entropy=1.5, temperature=0.8)
    msg = messages.decision(STAMP, "v7", sent, space, 0.004, True, {"joint_states": -0.01})
    names = ["bin/x", "bin/y"] if chunk == 1 else ["bin/0/x", "bin/0/y", "bin/1/x", "bin/1/y"]
    assert list(msg.name)[: 2 * chunk] == names
    version, back = messages.read_decision(there_and_back(msg, JOINT_STATE), space)
    assert version == "v7"
    assert back.bins.tolist() == bins.tolist()
    assert (back.log_prob, back.entropy, back.temperature) == (-3.25, 1.5, 0.8)
    scalars = messages.read_named_scalars(msg)
    assert scalars["offset/joint_states"] == -0.01
    assert (scalars["latency"], scalars["deadline_missed"]) == (0.004, 1.0)


def test_a_decision_without_its_temperature_is_refused(space):
    msg = messages.named_scalars(0, "v", {"bin/x": 1.0, "bin/y": 2.0, "log_prob": 0.0})
    with pytest.raises(ValueError, match="temperature"):
        messages.read_decision(msg, space)


def test_guard_state_names_what_was_executed(space):
    msg = messages.guard_state(STAMP, [0.01, -0.02], space, 2, True, 5, 0.03, 0)
    scalars = messages.read_named_scalars(msg)
    assert messages.read_executed(scalars, space).tolist() == [0.01, -0.02]
    assert (scalars["source"], scalars["modified"], scalars["fault"]) == (2.0, 1.0, 5.0)
    with pytest.raises(ValueError, match="executed/x"):
        messages.read_executed({}, space)


def test_twists_carry_named_dimensions():
    names = ("y", "rz")
    space = ActionSpace(
        dims=tuple(ActionDim(name=n, unit="", low=-1.0, high=1.0) for n in names), frame="base"
    )
    msg = messages.twist_from_action(STAMP, space, [0.5, -0.25])
    assert (msg.twist.linear.x, msg.twist.linear.y, msg.twist.angular.z) == (0.0, 0.5, -0.25)
    assert msg.header.frame_id == "base"
    assert messages.action_from_twist(msg, space).tolist() == [0.5, -0.25]


def test_dimensions_without_a_place_in_a_twist_are_refused():
    space = ActionSpace(dims=(ActionDim(name="joint1", unit="rad", low=-1.0, high=1.0),))
    with pytest.raises(ValueError, match="joint1"):
        messages.twist_from_action(0, space, [0.0])


def test_positions_are_known_only_for_cartesian_dimensions(space):
    msg = messages.pose(STAMP, "base", (0.4, -0.1, 0.05))
    assert messages.read_position(msg).tolist() == [0.4, -0.1, 0.05]
    assert messages.position_of(msg, space).tolist() == [0.4, -0.1]


def test_status_pairs_and_small_messages():
    msg = messages.status(STAMP, "episode", {"phase": "running", "tick": "3"})
    back = there_and_back(msg, "diagnostic_msgs/msg/DiagnosticArray")
    assert messages.read_status(back) == {"phase": "running", "tick": "3"}
    assert messages.text("a").data == "a"
    assert messages.boolean(True).data is True
    assert there_and_back(messages.float32(0.5), "std_msgs/msg/Float32").data == 0.5
    assert messages.read_named_scalars(messages.tick(0, 7)) == {"tick": 7.0, "still": 0.0}
    reward = messages.reward_state(STAMP, "v1", 7.5, 2.0, 0.25, True)
    assert messages.read_named_scalars(reward) == {
        "steps_to_go": 7.5, "steps_to_go_std": 2.0, "reward": 0.25, "success": 1.0,
    }  # fmt: skip
    assert reward.header.frame_id == "v1"
