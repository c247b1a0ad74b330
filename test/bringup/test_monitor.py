"""What the monitor draws: where it lies, in which colour, in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efm_bringup.monitor import trail as trails
from efm_bringup.monitor.layout import BOARD, Place, places, workspace
from efm_bringup.monitor.picture import (
    LAYERS,
    OUTCOME_COLORS,
    OUTCOMES,
    RobotPicture,
    chunk_path,
)
from efm_bringup.monitor.trail import UNKNOWN, Trail, steps_colors
from efm_bringup.monitor.viewing import of_size
from efm_core import messages, topics
from efm_core.actions import ActionDim, ActionSpace
from efm_core.fleet import FleetDescription, load_fleet, save_fleet
from efm_core.fleet_processes import processes
from efm_core.guard_report import Fault
from efm_core.markers import Kind, Shape, marker_array

FLEET = load_fleet(Path(__file__).resolve().parents[2] / "config" / "fleet.yaml")
ROBOT = FLEET.robots[0]
BLUE, YELLOW = [0.30, 0.45, 1.00, 1.0], [1.00, 0.90, 0.20, 1.0]
OFFSET = np.array([0.0, -0.7, 0.0])


def picture(robot=ROBOT) -> RobotPicture:
    return RobotPicture(robot, Place(BOARD, OFFSET))


def layers(drawn: RobotPicture) -> dict[str, Shape]:
    shapes = drawn.shapes()
    assert tuple(shape.ns for shape in shapes) == LAYERS
    return {shape.ns: shape for shape in shapes}


def running(drawn: RobotPicture, episode: str = "a", **more: str) -> None:
    drawn.on_status({"phase": "running", "episode_id": episode, "start_ns": "100", **more})


# ---- places ----------------------------------------------------------------------------------


def test_one_robot_is_drawn_in_its_own_frame_where_it_is() -> None:
    (place,) = places(of_size(FLEET, 1)).values()
    assert place.frame == ROBOT.space.frame
    assert not place.offset.any()


@pytest.mark.parametrize("count", [2, 4, 9])
def test_several_robots_stand_apart_on_one_board(count: int) -> None:
    fleet = of_size(FLEET, count)
    place = places(fleet)
    boxes = [workspace(robot) + place[robot.name].offset for robot in fleet.robots]
    assert {p.frame for p in place.values()} == {BOARD}
    assert not place["robot1"].offset.any()
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            apart = np.maximum(a[0] - b[1], b[0] - a[1])[:2]
            assert apart.max() >= 0.3 - 1e-9  # at least the gap, in x or in y


def test_robots_stand_from_left_to_right_seen_from_behind() -> None:
    place = places(of_size(FLEET, 4))
    y = [place[f"robot{i}"].offset[1] for i in (1, 2, 3, 4)]
    assert y == sorted(y, reverse=True)  # x forward, so y points to the left


# ---- trail -----------------------------------------------------------------------------------


def test_the_trail_is_coloured_by_the_estimate_of_each_pose() -> None:
    trail = Trail()
    for k, steps in enumerate((10.0, 5.0, 0.0)):
        trail.add_pose(100 + k, np.array([0.1 * k, 0.0, 0.0]))
        trail.add_steps(100 + k, steps)
    assert trail.points()[:, 0].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert trail.colors()[0].tolist() == BLUE
    assert trail.colors()[1].tolist() == [0.90, 0.35, 0.60, 1.0]
    assert trail.colors()[2].tolist() == YELLOW


def test_a_pose_takes_the_newest_estimate_before_it_and_is_grey_before_the_first() -> None:
    trail = Trail()
    for k in range(4):
        trail.add_pose(100 + 10 * k, np.array([0.1 * k, 0.0, 0.0]))
    trail.add_steps(105, 8.0)
    trail.add_steps(125, 0.0)
    assert trail.colors()[0].tolist() == list(UNKNOWN)
    assert trail.colors()[1:].tolist() == [BLUE, BLUE, YELLOW]


def test_an_episode_begins_at_its_first_observation_and_its_trail_stays_after_the_end() -> None:
    trail = Trail()
    for k in range(4):
        trail.add_pose(100 + k, np.array([0.1 * k, 0.0, 0.0]))
    trail.begin(102)  # the news of the episode comes after its first pose
    trail.end()
    trail.add_pose(110, np.array([5.0, 0.0, 0.0]))  # reset motion
    assert trail.points()[:, 0].tolist() == pytest.approx([0.2, 0.3])
    trail.begin(110)
    assert trail.points()[:, 0].tolist() == [5.0]


def test_repeated_stamps_and_standing_still_add_nothing() -> None:
    trail = Trail()
    for stamp, x in ((100, 0.0), (100, 0.5), (101, 0.0005), (102, 0.1)):
        trail.add_pose(stamp, np.array([x, 0.0, 0.0]))
    assert trail.points()[:, 0].tolist() == [0.0, 0.1]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2000))
def test_a_trail_keeps_both_ends_and_a_bounded_length(count: int) -> None:
    trail = Trail()
    for k in range(count):
        trail.add_pose(k, np.array([0.01 * k, 0.0, 0.0]))
        trail.add_steps(k, float(count - k))
    points = trail.points()
    assert len(points) == len(trail.colors()) <= trails.LONGEST
    if count:
        assert points[[0, -1], 0].tolist() == pytest.approx([0.0, 0.01 * (count - 1)])


@given(st.lists(st.floats(-10, 1e6), max_size=20), st.floats(0, 1e6))
def test_every_estimate_has_a_colour(steps: list[float], largest: float) -> None:
    colors = steps_colors(np.array(steps), largest)
    assert colors.shape == (len(steps), 4)
    assert ((colors >= 0) & (colors <= 1)).all()


# ---- chunk -----------------------------------------------------------------------------------


def test_deltas_add_up_from_the_pose_of_the_decision() -> None:
    space = ROBOT.space.model_copy(update={"chunk": 3})
    values = np.array([[0.01, 0.0], [0.01, 0.02], [0.0, -0.01]])
    path = chunk_path(space, values, np.array([0.3, 0.1, 0.02]))
    expected = [[0.3, 0.1, 0.02], [0.31, 0.1, 0.02], [0.32, 0.12, 0.02], [0.32, 0.11, 0.02]]
    assert path == pytest.approx(np.array(expected))


def test_targets_stand_as_they_are_and_joints_are_not_drawn() -> None:
    dims = tuple(ActionDim(name=n, unit="m", low=-1, high=1) for n in ("z", "x"))
    space = ActionSpace(dims=dims, kind="absolute")
    path = chunk_path(space, np.array([[0.5, 0.4]]), np.array([0.3, 0.1, 0.02]))
    assert path.tolist() == [[0.3, 0.1, 0.02], [0.4, 0.1, 0.5]]
    joints = ActionSpace(dims=(ActionDim(name="elbow", unit="rad", low=-1, high=1),))
    assert chunk_path(joints, np.array([[0.5]]), np.zeros(3)).shape == (0, 3)
    assert chunk_path(space, np.array([[np.nan, 0.4]]), np.zeros(3)).shape == (0, 3)


def test_a_chunk_is_drawn_from_its_own_pose_while_its_episode_runs() -> None:
    drawn = picture()
    running(drawn)
    for k in range(3):
        drawn.on_pose(100 + k, np.array([0.3 + 0.1 * k, 0.0, 0.02]))
    drawn.on_chunk(101, "a", np.array([[0.02, 0.01]]))
    path = layers(drawn)["chunk"].points - OFFSET
    assert path == pytest.approx(np.array([[0.4, 0.0, 0.02], [0.42, 0.01, 0.02]]))
    running(drawn, "b")
    assert not layers(drawn)["chunk"].visible  # of another episode
    running(drawn, "a")
    drawn.on_status({"phase": "saving", "episode_id": "a"})
    assert not layers(drawn)["chunk"].visible


# ---- picture ---------------------------------------------------------------------------------


def test_the_workspace_is_the_guards_box() -> None:
    shape = layers(picture())["workspace"]
    points = shape.points - OFFSET
    assert (shape.kind, len(points)) == (Kind.LINE_LIST, 24)
    corners = {tuple(np.round(p, 9)) for p in points}
    assert corners == {(x, y, 0.0) for x in (0.2, 0.6) for y in (-0.2, 0.2)}
    steps = np.abs(points[0::2] - points[1::2])
    assert (np.count_nonzero(steps > 1e-9, axis=1) <= 1).all()  # along an axis, never diagonal


def test_a_robot_without_limits_has_no_box_but_a_picture() -> None:
    drawn = picture(ROBOT.model_copy(update={"guard": {}}))
    assert not layers(drawn)["workspace"].visible
    assert all(np.isfinite(shape.points).all() for shape in layers(drawn).values())


def test_outcomes_are_coloured_cubes_in_the_order_of_the_episodes() -> None:
    drawn = picture()
    said = ["success", "failure", "fault", "interrupted"] * 6
    for k, outcome in enumerate(said):
        running(drawn, f"e{k}")
        drawn.on_status({"phase": "saving", "episode_id": f"e{k}", "outcome": outcome})
        drawn.on_status({"phase": "saving", "episode_id": f"e{k}", "outcome": outcome})
    shape = layers(drawn)["history"]
    assert shape.kind is Kind.CUBE_LIST
    assert len(shape.points) == OUTCOMES
    grey = (0.6, 0.6, 0.6, 1.0)
    wanted = [OUTCOME_COLORS.get(outcome, grey) for outcome in said[-OUTCOMES:]]
    assert [tuple(color) for color in shape.colors] == wanted
    y = shape.points[:, 1] - OFFSET[1]
    assert (np.diff(y) < 0).all()
    assert y.min() > -0.2
    assert y.max() < 0.2
    assert (shape.points[:, 0] < 0.2).all()  # beside the box, not in it
    assert "success 5 of the last 20" in drawn.state_text()


def test_the_text_says_phase_episode_instruction_steps_and_success() -> None:
    drawn = picture()
    assert drawn.state_text() == "robot1: silent"
    running(drawn, plan_done="2", plan_total="8")
    drawn.on_instruction("push the red moon to the left of the yellow star")
    drawn.on_reward(101, {"steps_to_go": 12.34, "steps_to_go_std": 2.0})
    assert drawn.state_text().splitlines() == [
        "robot1: running, episode 3 of 8",
        "push the red moon to the left of",
        "the yellow star",
        "d = 12.3 +- 2.0 steps",
    ]
    drawn.on_status({"phase": "idle", "plan_done": "8", "plan_total": "8"})
    assert drawn.state_text().splitlines()[0] == "robot1: idle, episode 8 of 8"


def test_faults_are_a_text_of_their_own_while_they_last() -> None:
    drawn = picture()
    assert not layers(drawn)["fault"].visible
    drawn.on_guard({"fault": float(Fault.STALE_CHUNK)})
    assert layers(drawn)["fault"].text == "holding: stale_chunk"
    drawn.on_status({"phase": "needs_help", "reason": "reset failed 3 times"})
    drawn.on_guard({"fault": 0.0})
    assert layers(drawn)["fault"].text == "needs help: reset failed 3 times"
    drawn.on_guard({"fault": 99.0})
    assert "holding: 99" in drawn.fault_text()


def test_what_changes_nothing_to_see_asks_for_no_new_picture() -> None:
    drawn = picture()
    running(drawn)
    drawn.changed = False
    running(drawn)
    drawn.on_guard({"fault": 0.0})
    assert not drawn.changed
    drawn.on_pose(101, np.zeros(3))
    assert drawn.changed


# ---- messages --------------------------------------------------------------------------------


def test_markers_survive_the_wire_and_invisible_ones_are_deleted() -> None:
    drawn = picture()
    running(drawn)
    for k in range(3):
        drawn.on_pose(100 + k, np.array([0.3 + 0.1 * k, 0.0, 0.02]))
    sent = marker_array(BOARD, drawn.shapes(), 3.0)
    data = messages.serialize(sent, topics.MARKERS.type)
    heard = {m.ns: m for m in messages.deserialize(data, topics.MARKERS.type).markers}
    assert tuple(heard) == LAYERS
    assert {m.header.frame_id for m in heard.values()} == {BOARD}
    assert {messages.stamp_of(m) for m in heard.values()} == {0}
    assert {m.lifetime.sec for m in heard.values()} == {3}
    trail = heard["trail"]
    assert (trail.type, trail.action) == (Kind.LINE_STRIP, 0)
    assert len(trail.points) == len(trail.colors) == 3
    assert (trail.points[2].x, trail.points[2].y) == (pytest.approx(0.5), pytest.approx(-0.7))
    assert heard["effector"].pose.position.x == pytest.approx(0.5)
    assert heard["state"].text == drawn.state_text()
    assert (heard["fault"].action, heard["history"].action) == (2, 2)


def test_colours_and_points_must_agree() -> None:
    shape = Shape("trail", Kind.LINE_STRIP, np.zeros((2, 3)), 0.01, colors=np.zeros((3, 4)))
    with pytest.raises(ValueError, match="'trail' has 3 colours for 2 points"):
        marker_array(BOARD, [shape])


# ---- processes -------------------------------------------------------------------------------


def test_a_fleet_runs_one_monitor_when_it_asks_for_it(tmp_path: Path) -> None:
    def monitors(fleet: FleetDescription) -> list[str]:
        return [spec.name for spec in processes(fleet) if spec.executable == "efm_monitor"]

    assert monitors(FLEET) == []
    asked = save_fleet(FLEET.model_copy(update={"monitor": True}), tmp_path / "fleet.yaml")
    assert monitors(asked) == ["monitor"]
