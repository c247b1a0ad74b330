"""The rules of cutting one by one: ticks, commands, frames, marks, mapping files."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_core.actions import ActionDim, ActionSpace
from efm_core.camera_description import CameraDescription
from efm_core.camera_ledger import Arrival
from efm_core.cutting import MappingError, commands, load_mapping
from efm_core.cutting.events import marked
from efm_core.cutting.frames import FrameTree, rotation_vector
from efm_core.cutting.mapping import (
    ArrayAction,
    MarkedEpisodes,
    NextAction,
    TrajectoryAction,
    TwistAction,
    check_mapping,
)
from efm_core.cutting.rows import Pairing
from efm_core.cutting.tracks import CameraFrame, Entry, Picture, Track

MS = 1_000_000
DELTA = ActionSpace(
    dims=tuple(ActionDim(name=n, unit="m", low=-1.0, high=1.0) for n in ("x", "y")), rate=10.0
)
ABSOLUTE = DELTA.model_copy(update={"kind": "absolute"})


def pictures(stamps) -> list[Picture]:
    frames = [CameraFrame(i, s, s, "", "", i) for i, s in enumerate(stamps)]
    return [Picture(f, Arrival.ON_TIME, f.header_ns, None) for f in frames]


def rows(stamps, camera_rate: float, rate: float = 10.0) -> list[int]:
    camera = CameraDescription(rate=camera_rate)
    pairing = Pairing((camera,), {"front": pictures(stamps)}, rate)
    return [row.stamp_ns for row in pairing.rows(0, 2**62)[0]]


@pytest.mark.parametrize("camera_rate", [10.0, 20.0, 30.0, 50.0, 60.0, 100.0])
def test_a_camera_at_a_multiple_of_the_rate_gives_even_ticks(camera_rate):
    start = 1_700_000_000_000_000_000
    stamps = [start + round(k * 1e9 / camera_rate) for k in range(round(10 * camera_rate))]
    found = rows(stamps, camera_rate)
    assert len(found) == 100
    assert np.abs(np.diff(found) - 100 * MS).max() <= 1


@given(st.lists(st.integers(-20, 20), min_size=40, max_size=40), st.sampled_from([10, 20, 30]))
def test_jitter_neither_adds_nor_loses_ticks(jitter, camera_rate):
    period = 1000 / camera_rate
    share = 1000 / camera_rate / 100  # jitter of at most a fifth of the camera's period
    stamps = [round((k * period + j * share) * MS) for k, j in enumerate(jitter)]
    stamps = [stamp - stamps[0] for stamp in stamps]
    found = rows(stamps, camera_rate)
    assert abs(len(found) - (stamps[-1] / (100 * MS) + 1)) <= 1
    assert all(50 * MS < gap < 150 * MS for gap in np.diff(found).tolist())


@given(st.lists(st.integers(0, 1000), unique=True), st.integers(0, 1000), st.integers(0, 200))
def test_the_latest_is_never_later_nor_too_old(stamps, at, tolerance):
    track: Track[int] = Track()
    for number, stamp in enumerate(stamps):
        track.add(stamp, stamp, number)
    best = max((s for s in stamps if at - tolerance <= s <= at), default=None)
    found = track.latest(at, tolerance)
    assert (None if found is None else found.value) == best


def heard(source, *entries: tuple[int, list[float]]) -> Track:
    track: Track = Track()
    for number, (stamp, values) in enumerate(entries):
        track.add(stamp * MS, np.array(values), number)
    return track


TWIST = TwistAction(source="twist", topic="/t")


@pytest.mark.parametrize(
    ("source", "space", "entries", "expected"),
    [
        # (0.1 + 0.3) / 2 m/s for 0.1 s; 200 ms is the next period's.
        (TWIST, DELTA, [(100, [0.1, 0]), (199, [0.3, 0]), (200, [9, 9])], [0.02, 0.0]),
        (TWIST, DELTA, [(50, [0.1, 0.2])], [0.01, 0.02]),  # still in force, 50 ms old
        (TWIST.model_copy(update={"hold": 0.04}), DELTA, [(50, [0.1, 0.2])], None),
        (TWIST, DELTA, [(200, [9, 9])], None),
        ("step", DELTA, [(110, [0.1, 0]), (150, [0.3, 0])], [0.2, 0.0]),
        ("rate", DELTA, [(110, [0.1, 0]), (150, [0.3, 0])], [0.02, 0.0]),
        ("target", DELTA, [(90, [1.0, 1]), (110, [1.1, 1]), (150, [1.2, 1])], [0.2, 0.0]),
        ("target", DELTA, [(110, [1.1, 1])], None),  # from where is not known
        ("target", DELTA, [(90, [1.0, 1])], None),  # nothing new was asked for
        ("target", ABSOLUTE, [(90, [1.0, 1]), (150, [1.2, 1])], [1.2, 1.0]),
        ("target", ABSOLUTE, [(90, [1.0, 1])], [1.0, 1.0]),
    ],
)
def test_commands_of_one_period(source, space, entries, expected):
    if isinstance(source, str):
        source = ArrayAction(source="array", topic="/a", dims=("x", "y"), values=source)
    track = heard(source, *entries)
    value = commands.commanded(source, track, space, 100 * MS, 200 * MS)
    assert (value is None) == (expected is None)
    if expected is not None:
        np.testing.assert_allclose(value, expected, atol=1e-12)


def test_what_a_robot_did():
    def state(ms: int, x: float, turn: float, grip: float):
        pose = (np.array([x, 0.0, 0.0]), np.array([0, 0, np.sin(turn / 2), np.cos(turn / 2)]))
        return Entry(ms * MS, 0, 0, pose), Entry(ms * MS, 0, 0, {"finger": grip})

    names = (("x", "m"), ("rz", "rad"), ("g", "rad"))
    dims = tuple(ActionDim(name=n, unit=u, low=-1.0, high=1.0) for n, u in names)
    space = ActionSpace(dims=dims, rate=10.0)
    source = NextAction(source="next", dims={"x": "x", "rz": "rz", "g": "finger"})
    here, there = state(0, 0.1, 3.0, 0.5), state(80, 0.18, -3.2, 0.1)
    # 0.08 m, 2 pi - 6.2 rad the short way and -0.4 rad in 80 ms, for 100 ms.
    expected = np.array([0.08, 2 * np.pi - 6.2, -0.4]) * 100 / 80
    np.testing.assert_allclose(commands.moved(source, space, here, there), expected, atol=1e-9)
    assert commands.moved(source, space, here, (None, there[1])) is None
    assert commands.moved(source, space, here, here) is None


def test_messages_that_do_not_fit_the_mapping():
    source = ArrayAction(source="array", topic="/a", dims=("x", "y"), values="rate")
    read = commands.reader(source, DELTA)
    with pytest.raises(MappingError, match=r"holds 3 numbers, action\.0\.dims names 2"):
        read(SimpleNamespace(data=[1.0, 2.0, 3.0]), "action.0.topic")
    with pytest.raises(ValueError, match="NaN"):
        read(SimpleNamespace(data=[1.0, np.nan]), "action.0.topic")
    trajectory = TrajectoryAction(source="trajectory", topic="/t", dims={"x": "j2", "y": "j1"})
    point = SimpleNamespace(positions=[1.0, 2.0], velocities=[])
    message = SimpleNamespace(joint_names=["j1", "j2"], points=[point])
    found = commands.reader(trajectory, DELTA)(message, "action.0.topic")
    np.testing.assert_array_equal(found, [2.0, 1.0])
    message.joint_names = ["j1", "j3"]
    with pytest.raises(MappingError, match="commands j1, j3 and not 'j2'"):
        commands.reader(trajectory, DELTA)(message, "action.0.topic")


def test_a_pose_through_a_tree_of_frames():
    tree = FrameTree("base", "tool")
    quarter = np.array([0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)])  # 90 degrees about z
    none = np.array([0.0, 0.0, 0.0, 1.0])
    tree.hear("world", "base", (np.array([1.0, 0.0, 0.0]), quarter), 0)
    assert tree.pose() is None
    tree.hear("world", "arm", (np.array([1.0, 2.0, 0.0]), none), 5)
    tree.hear("arm", "tool", (np.array([0.0, 0.0, 3.0]), quarter), 7)
    stamp, (position, rotation) = tree.pose()
    # In the world the tool is 2 m along y and 3 m up from base, whose x axis is the world's y.
    assert stamp == 7
    np.testing.assert_allclose(position, [2.0, 0.0, 3.0], atol=1e-12)
    np.testing.assert_allclose(rotation_vector(rotation), np.zeros(3), atol=1e-9)


def spans(episodes: dict, **events: list[tuple[int, str]]) -> list[tuple[int, int, bool]]:
    given = MarkedEpisodes.model_validate(episodes)
    found = marked(given, {f"/{name}": list(e) for name, e in events.items()}, 0, 100)
    return [(s.start_ns, s.end_ns, bool(s.problem)) for s in found]


START, END = {"topic": "/a", "equals": "go"}, {"topic": "/b"}


def test_marks():
    assert spans({"start": START}, a=[(10, "go"), (20, "no"), (30, "go")]) == [
        (10, 29, False), (30, 100, False),
    ]  # fmt: skip
    assert spans({"end": END}, b=[(10, ""), (30, "")]) == [(0, 10, False), (10, 30, False)]
    both = {"start": START, "end": END}
    assert spans(both, a=[(10, "go"), (15, "go")], b=[(30, ""), (40, "")]) == [(10, 30, False)]
    assert spans(both, a=[(10, "go")], b=[(5, "")]) == [(10, 100, True)]
    redone = {**both, "discard": {"topic": "/c"}}
    marks = [(10, "go"), (18, "no"), (20, "go")]
    assert spans(redone, a=marks, b=[(30, "")], c=[(15, "")]) == [(20, 30, False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("robot: [", "not valid YAML"),
        ("- 1", "holds no fields"),
        ("robot: ur", "field 'cameras'"),
        ("robot: ur\ncameras: {front: {topic: cam}}", r"field 'cameras\.front\.topic'"),
        ("robot: ur\ncameras: {front: {topic: /c}}\naction: [{source: mind}]", "field 'action.0'"),
        (
            "robot: ur\ncameras: {front: {topic: /c}}\naction: [{source: next}]\n"
            "episodes: [{start: 3, end: 2}]",
            r"field 'episodes\.0': end 2 s is not after start 3 s",
        ),
    ],
)
def test_a_mapping_that_cannot_be_used_says_where(tmp_path, text, message):
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(MappingError, match=message):
        load_mapping(path)
    with pytest.raises(MappingError, match="no such file"):
        load_mapping(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("[{source: twist, topic: /t, dims: [x]}]", "'y' is given by 0 sources"),
        ("[{source: twist, topic: /t}, {source: next}]", "'x' is given by 2 sources"),
        ("[{source: twist, topic: /t, dims: [x, y, z]}]", "'z' is given by 1 sources"),
        ("[{source: next}]", "give pose a source"),
        ("[{source: next, dims: {x: j1, y: j2}}]", "give joints a topic"),
    ],
)
def test_a_mapping_that_does_not_fit_the_robot(tmp_path, action, message):
    path = tmp_path / "mapping.yaml"
    path.write_text(f"robot: ur\ncameras: {{front: {{topic: /c}}}}\naction: {action}\n")
    robot = SimpleNamespace(name="ur", cameras=(CameraDescription(),), space=DELTA)
    with pytest.raises(MappingError, match=message):
        check_mapping(load_mapping(path), robot)
