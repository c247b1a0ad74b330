"""Every way of resetting, with a played robot and clock: tries, time limits, checks, help."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from manager.test_conductor import PERIOD, SPACE, Played

from efm_core import messages, topics
from efm_core.actions import ActionDim, ActionSpace
from efm_core.command_groups import CommandGroup
from efm_core.reset_settings import RobotReset
from efm_episode_manager.resets.checks import grid
from efm_episode_manager.resets.drive import Drive
from efm_episode_manager.state_machine import Phase

POLL = 0.05


class Lab(Played):
    """A robot that goes where a reset's motion sends it, in real time unless told otherwise."""

    def __init__(self, tmp_path, method, simulated=True, clock="real", **settings) -> None:
        described = {"method": method, "simulated": simulated, "speed": (0.2, 0.2), **settings}
        super().__init__(tmp_path, clock=clock, reset=RobotReset.model_validate(described))
        self.place = np.array([0.4, 0.0])
        self.velocity = np.zeros(2)
        self.blocked = False

    @property
    def lead(self):
        return self.conductor.course.lead

    @property
    def status(self):
        return self.conductor.core.status()

    def motions(self):
        found = [m for name, m in self.sent if name == topics.RESET_TRAJECTORY.name]
        return [messages.read_action_chunk(m, SPACE)[0] * SPACE.rate for m in found]

    def live(self, seconds):
        """Time passes in polls: the arm obeys the newest motion, everybody is heard."""
        for _ in range(round(seconds / POLL)):
            self.newest = self.wall_ns()
            self.beat(POLL)
            moving = self.motions()
            if moving and self.phase is Phase.RESETTING and not self.blocked:
                self.velocity = moving[-1]
                self.place = self.place + POLL * self.velocity
            self.hear(topics.EE_POSE, messages.pose(self.wall_ns(), "base", (*self.place, 0.02)))

    def answer_scene(self, state="done", **values):
        """What a simulated robot says to the newest request."""
        pairs = {"state": state, "stamp_ns": str(self.wall_ns()), "scene_seed": "",
                 "request": self.scenes[-1]["request"], "reason": "stuck", **values}  # fmt: skip
        self.start = self.newest = self.wall_ns()
        self.hear(topics.RESET_STATUS, messages.status(0, "reset", pairs))

    def run(self, steps=9.0, success=False):
        """From READY on: first answers, running, and in the end a detector's success."""
        self.answer(0, steps)
        self.beat(POLL)
        if success:
            assert self.phase is Phase.RUNNING
            self.answer(3, 0.1, True)
            self.live(0.6)

    def answer(self, tick, steps, success=False):
        stamp = self.wall_ns() + tick * PERIOD
        self.newest = stamp
        image = messages.image(stamp, "front", np.full((8, 8, 3), 90, np.uint8))
        self.hear(topics.camera("front"), image)
        self.hear(topics.JOINT_STATES, messages.named_scalars(stamp, "base", {"j": 0.0}))
        chunk = messages.action_chunk(stamp, self.episode_id, SPACE, [[0.0, 0.0]])
        self.hear(topics.ACTION_CHUNK, chunk)
        self.hear(topics.REWARD_STATE, messages.reward_state(stamp, "v1", steps, 1.0, 0, success))


@pytest.fixture
def lab(tmp_path):
    """`lab(method, ...)`: a robot that is reset so, its plan begun."""

    def make(method, count=3, begin=True, **settings):
        made = Lab(tmp_path, method, **settings)
        made.beat()
        if begin:
            made.plan(count=count, limit=400)
        return made

    return make


# ---- scripted motions ----------------------------------------------------------------------------


def pose(**fields):
    return {"kind": "pose", "poses": [{"x": 0.3, "y": 0.1}, {"x": 0.25}], **fields}


def test_the_arm_goes_from_pose_to_pose_and_then_the_scene_is_announced(lab):
    world = lab(pose())
    assert world.phase is Phase.RESETTING
    assert not world.scenes
    world.live(4.0)
    assert np.abs(world.place - [0.25, 0.1]).max() <= 0.01
    assert (np.abs(world.motions()) <= 0.5 * 0.2 + 1e-12).all()  # half of the guard's limit
    assert world.motions()[-1].tolist() == [0.0, 0.0]
    assert world.scenes[-1]["present"] is True  # the motion made the scene, not the simulator
    world.answer_scene()
    assert world.phase is Phase.READY
    world.run()
    assert world.phase is Phase.RUNNING
    record = world.conductor.core.session.record
    assert (record.reset, record.reset_attempts, record.reset_asked) == ("pose", 1, False)
    assert record.scene_seed is None


def test_a_blocked_arm_calls_for_help_after_three_tries(lab):
    world = lab(pose(time_limit_s=2.0))
    world.blocked = True
    for attempt in (1, 2, 3):
        assert (world.phase, world.status["reset_attempt"]) == (Phase.RESETTING, str(attempt))
        world.live(2.1)
    assert world.phase is Phase.NEEDS_HELP
    reason = world.conductor.core.reason
    assert "3 tries (not done within 2 s: still to go: x -0.1, y 0.1)" in reason
    assert world.status["helps_total"] == "1"
    count = len(world.motions())
    world.live(1.0)
    assert len(world.motions()) == count  # nothing moves while a person may be at it
    world.blocked = False
    assert world.operator.reset_done() == (True, "thank you")
    world.live(4.0)
    assert world.scenes


def test_a_robot_that_does_not_know_where_it_is_never_moves(lab):
    world = lab({"kind": "pose", "poses": [{"x": 0.3}], "time_limit_s": 1.0, "attempts": 1})
    for _ in range(30):
        world.beat(POLL)
    assert world.phase is Phase.NEEDS_HELP
    assert "x unknown" in world.conductor.core.reason
    assert not np.any(world.motions())


def test_a_real_robot_needs_no_reset_service(lab):
    world = lab({"kind": "pose", "poses": [{"x": 0.4}]}, begin=False, simulated=False)
    world.reset_ready = lambda: False
    world.plan(limit=9)
    world.live(0.5)
    assert world.phase is Phase.READY
    assert not world.scenes


def test_the_arm_goes_back_the_way_it_came(lab):
    world = lab({"kind": "reverse", "speed": 1.0})
    world.live(0.1)
    world.answer_scene()
    world.run()
    assert world.phase is Phase.RUNNING
    way = [world.place]
    for velocity in ([0.1, 0.0],) * 20 + ([0.0, -0.1],) * 20:  # two sides of a square
        world.beat(POLL)
        world.place = world.place + POLL * np.array(velocity)
        world.hear(topics.EE_POSE, messages.pose(world.wall_ns(), "base", (*world.place, 0.0)))
        executed = np.array(velocity) / SPACE.rate
        state = messages.guard_state(world.wall_ns(), executed, SPACE, 1, False, 0, 0.0, 0)
        world.hear(topics.GUARD_STATE, state)
        way.append(world.place)
    assert way[-1] == pytest.approx([0.5, -0.1])
    world.operator.failure()
    while world.phase is not Phase.RESETTING:
        world.beat(POLL)
    back, count = [], len(world.scenes)
    while world.phase is Phase.RESETTING and len(world.scenes) == count:
        world.live(POLL)
        back.append(world.place)
        assert len(back) < 80  # 2 s there, as long back, and 2 s for coming to rest
    nearest = [min(math.dist(place, passed) for passed in way) for place in back]
    assert max(nearest) < 0.012  # it keeps to its own way
    assert back[-1] == pytest.approx(way[0], abs=0.01)
    assert max(place[0] for place in back) == pytest.approx(0.5, abs=0.012)


def test_nothing_done_is_nothing_to_undo(lab):
    world = lab({"kind": "reverse"})
    world.live(POLL)
    assert world.scenes
    assert not np.any(world.motions())


def test_absolute_targets_go_in_a_straight_line_at_a_common_speed():
    space = ActionSpace(
        kind="absolute",
        dims=tuple(ActionDim(name=n, unit="rad", low=-2.0, high=2.0) for n in ("a", "b")),
    )
    drive = Drive(space, np.array([0.5, 0.5]), np.array([0.01, 0.01]))
    drive.begin()
    at, goal, seen = np.array([0.0, 1.0]), np.array([1.0, 0.5]), []
    for _ in range(100):
        at = drive.toward(goal, at, 0.05)
        seen.append(at)
        if drive.there(goal, at):
            break
    assert len(seen) == pytest.approx(1.0 / 0.5 / 0.05, abs=1)  # the longest way rules
    for a, b in seen:
        assert b == pytest.approx(1.0 - 0.5 * a)
    steps = np.abs(np.diff(np.array(seen), axis=0))
    assert (steps <= 0.5 * 0.05 + 1e-12).all()


# ---- people --------------------------------------------------------------------------------------


def test_a_person_is_asked_and_answers_by_a_service(lab):
    world = lab({"kind": "person", "request": "block back to the middle"}, simulated=False)
    assert world.phase is Phase.RESETTING
    assert world.conductor.core.reason == (
        "block back to the middle, then call episode/reset_done"
    )
    assert world.status["waits_for"] == "person"
    status = [m for name, m in world.sent if name == topics.EPISODE_STATUS.name][-1]
    assert status.status[0].level == 1  # shown as a warning
    world.live(120.0)
    assert world.phase is Phase.RESETTING  # nobody types, nothing blocks
    assert world.operator.reset_done() == (True, "thank you")
    assert world.phase is Phase.READY
    assert world.status["waits_for"] == ""
    assert world.operator.reset_done()[0] is False


def test_a_person_who_does_not_come_is_called_for_help_and_then_not_asked_twice(lab):
    world = lab({"kind": "person", "time_limit_s": 5.0}, simulated=False)
    world.live(5.2)
    assert world.phase is Phase.NEEDS_HELP
    assert "nobody answered" in world.conductor.core.reason
    world.operator.reset_done()
    assert world.phase is Phase.READY  # it was put right just now


def test_a_stop_ends_the_asking(lab):
    world = lab({"kind": "person"}, simulated=False)
    world.conductor.set_fleet_stopped(True)
    assert (world.phase, world.status["waits_for"]) == (Phase.STOPPED, "")
    assert world.operator.reset_done()[0] is False
    world.conductor.set_fleet_stopped(False)
    world.operator.start()
    assert (world.phase, world.status["waits_for"]) == (Phase.RESETTING, "person")


# ---- the policy ----------------------------------------------------------------------------------

POLICY = {"kind": "policy", "instruction": "take it back", "ticks": 20, "attempts": 2}


def begin_reset_run(world):
    """The reset's own episode, up to RUNNING."""
    assert world.scenes[-1]["instruction"] == "take it back"
    assert world.scenes[-1]["present"] is True
    world.answer_scene()
    assert (world.status["purpose"], world.phase) == ("reset", Phase.READY)
    instruction = [m for name, m in world.sent if name == topics.INSTRUCTION.name][-1]
    assert instruction.data == "take it back"
    world.run()
    assert world.phase is Phase.RUNNING


def test_the_policy_resets_and_the_reward_model_judges(lab):
    world = lab(POLICY)
    begin_reset_run(world)
    world.answer(3, 0.1, True)
    world.live(0.6)  # still frames
    assert (world.phase, world.status["purpose"]) == (Phase.RESETTING, "episode")
    assert "instruction" not in world.scenes[-1]  # the plan's own is drawn
    session, _ = world.jobs[0]
    assert session.record.task == "reset"
    assert session.plan.data_set == "set-resets"
    world.finish_job()
    assert world.status["episodes_total"] == "0"
    assert world.status["plan_done"] == "0"
    world.answer_scene()
    world.run()
    record = world.conductor.core.session.record
    assert (record.reset, record.reset_attempts, record.index) == ("policy", 1, 0)
    assert record.instruction == "push it"


def test_a_policy_that_fails_twice_calls_for_help(lab):
    world = lab(POLICY)
    for attempt in (1, 2):
        assert world.status["reset_attempt"] == str(attempt)
        begin_reset_run(world)
        world.live(2.5)  # 20 ticks at 10 Hz, and the bag's last messages
        world.finish_job()
        world.live(POLL)
    assert world.phase is Phase.NEEDS_HELP
    assert "2 tries (the policy did not reset the scene (timeout))" in world.conductor.core.reason
    assert len(list((world.data / "set-resets").iterdir())) == 2
    assert not (world.data / "set").exists()


def test_finishing_the_plan_in_the_middle_of_a_policys_reset(lab):
    world = lab(POLICY)
    begin_reset_run(world)
    accepted, _ = world.operator.finish()
    assert accepted
    world.live(0.5)
    assert world.phase is Phase.IDLE
    assert world.status["plan_total"] == world.status["plan_done"] == "0"


# ---- none at all ---------------------------------------------------------------------------------


def free(**fields):
    return {"kind": "none", "asked": {"kind": "simulator", "attempts": 2}, **fields}


def test_practice_without_resets_goes_on_from_where_things_lie(lab):
    world = lab(free())
    for index in range(3):
        scene = world.scenes[-1]
        assert (scene["present"], scene["draw"]) == (True, 0)
        world.answer_scene()
        world.run()
        record = world.conductor.core.session.record
        assert (record.index, record.reset, record.reset_asked) == (index, "none", False)
        world.operator.success()
        world.live(0.6)
        world.finish_job()
    assert world.status["interventions_per_100"] == "0.00"


def test_a_reset_asked_for_comes_next_and_is_an_intervention(lab):
    world = lab(free())
    world.answer_scene()
    world.run()
    assert world.operator.ask_reset()[0]
    assert world.operator.ask_reset()[0]  # asking twice is asking once
    record = world.ended()
    assert (record.outcome.value, record.termination_reason) == ("interrupted", "operator")
    world.live(POLL)
    assert "present" not in world.scenes[-1]  # a new scene
    world.finish_job()
    world.answer_scene(scene_seed="5")
    world.run()
    record = world.conductor.core.session.record
    assert (record.index, record.reset, record.reset_asked) == (1, "simulator", True)
    assert world.status["interventions_per_100"] == "100.00"  # one in one episode saved
    world.operator.success()
    world.live(0.6)
    world.finish_job()
    assert world.scenes[-1]["present"] is True  # and without resets again


def test_a_scene_in_which_nothing_is_left_to_do_is_reset(lab):
    world = lab(free(attempts=2))
    world.answer_scene("failed")
    assert (world.scenes[-1]["present"], world.scenes[-1]["draw"]) == (True, 1)
    world.answer_scene("failed")
    assert "present" not in world.scenes[-1]
    assert (world.status["reset"], world.status["resets_asked_total"]) == ("simulator", "1")
    for _ in range(2):
        world.answer_scene("failed")
    assert world.phase is Phase.NEEDS_HELP
    world.operator.reset_done()
    assert "present" not in world.scenes[-1]  # a reset is still owed
    world.answer_scene(scene_seed="5")
    world.run()
    assert world.status["resets_asked_total"] == "1"


# ---- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0.4, math.nan, math.inf])
def test_the_reward_model_refuses_a_scene_that_is_no_start(lab, steps):
    world = lab({"kind": "simulator", "check": {"by": "reward"}})
    seen = []
    for _ in range(3):
        world.answer_scene()
        seen.append(world.episode_id)
        world.run(steps)
    assert world.phase is Phase.NEEDS_HELP
    assert f"{steps:.2f} steps to go, it needs more than 1" in world.conductor.core.reason
    assert len(set(seen)) == 3  # an id is never used twice
    assert not list(world.data.glob("set/*"))  # no trace of them
    world.operator.reset_done()
    world.answer_scene()
    world.run(9.0)
    assert world.phase is Phase.RUNNING


def test_without_a_reward_model_nobody_judges(lab):
    world = lab({"kind": "simulator", "check": {"by": "reward"}}, begin=False)
    world.present -= {"policy", "reward"}
    world.plan(mode="demo")
    world.answer_scene()
    world.live(2 * POLL)
    assert world.phase is Phase.RUNNING


@pytest.mark.parametrize(("grey", "ready"), [(90, True), (96, True), (120, False)])
def test_a_picture_is_compared_with_the_reference(lab, tmp_path, grey, ready):
    cv2.imwrite(str(tmp_path / "start.png"), np.full((8, 8, 3), grey, np.uint8))
    check = {"by": "image", "reference": str(tmp_path / "start.png"), "distance": 8.0}
    world = lab({"kind": "simulator", "attempts": 1, "check": check})
    world.answer_scene()
    world.run()  # its pictures are of grey 90
    assert world.phase is (Phase.RUNNING if ready else Phase.NEEDS_HELP)
    if not ready:
        assert "30.0 grey levels, allowed are 8" in world.conductor.core.reason


def test_a_recorded_episode_is_a_reference(lab):
    world = lab({"kind": "simulator"}, count=1)
    world.answer_scene()
    world.run()
    world.answer(1, 8.0)
    world.operator.failure()
    world.live(0.4)
    world.finish_job()
    (folder,) = (world.data / "set").iterdir()
    check = {"by": "image", "reference": str(folder)}
    again = lab({"kind": "simulator", "check": check})
    again.conductor.course.lead._usual.check.begin(None)
    image = messages.image(1, "front", np.full((8, 8, 3), 92, np.uint8))
    again.lead._usual.check.look(messages.serialize(image, topics.camera("front").type))
    assert again.lead._usual.check.verdict == ""


@pytest.mark.parametrize(("make", "said"), [
    (lambda path: None, "is not there"), (lambda path: path.mkdir(), "start.png"),
    (lambda path: path.write_text("x"), "is no picture"),
])  # fmt: skip
def test_a_reference_that_is_none_is_refused_at_the_start(tmp_path, make, said):
    path = tmp_path / "start.png"
    make(path)
    with pytest.raises(ValueError, match=said):
        Lab(tmp_path, {"kind": "simulator", "check": {"by": "image", "reference": str(path)}})


def test_the_grid_is_the_mean_brightness_of_its_cells():
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = (255, 0, 0)
    cells = grid(picture)
    assert cells.shape == (32, 32)
    assert cells[:16, :16] == pytest.approx(0.299 * 255)
    assert not cells[16:].any()
    assert not cells[:, 16:].any()
    assert grid(np.full((4, 4, 3), 7, np.uint8)) == pytest.approx(7.0)


# ---- what must not happen ------------------------------------------------------------------------


def test_an_answer_to_an_older_try_is_none_to_this_one(lab):
    world = lab({"kind": "simulator", "time_limit_s": 1.0})
    old = world.scenes[-1]["request"]
    world.live(1.1)
    assert world.status["reset_attempt"] == "2"
    world.conductor.course.reset_refused("too late", old)
    assert world.status["reset_attempt"] == "2"
    world.answer_scene("failed", request=old)
    assert world.status["reset_attempt"] == "2"
    world.answer_scene()
    assert world.phase is Phase.READY


def test_tries_are_counted_anew_for_every_reset(lab):
    world = lab({"kind": "simulator"})
    for _ in range(3):
        world.answer_scene("failed")
        world.answer_scene("failed")
        world.answer_scene()
        world.run()
        assert world.conductor.core.session.record.reset_attempts == 3
        world.operator.failure()
        world.live(0.4)
        world.finish_job()
    assert world.status["helps_total"] == "0"


def test_a_stop_in_the_middle_of_a_motion_is_the_end_of_it(lab):
    world = lab(pose())
    world.live(0.3)
    world.conductor.set_fleet_stopped(True)
    assert world.motions()[-1].tolist() == [0.0, 0.0]
    count = len(world.motions())
    world.live(1.0)
    assert len(world.motions()) == count


def test_a_policy_that_died_just_before_the_limit_was_interrupted(lab):
    """The manager's patience is 2 s; the arm was held for the last one."""
    world = lab({"kind": "simulator"}, begin=False)
    world.plan(limit=30)
    world.answer_scene()
    world.run()
    world.live(2.0)
    world.present.remove("policy")
    world.live(1.5)
    record = world.ended()
    assert (record.outcome.value, record.termination_reason) == ("interrupted", "fault:policy")


def test_a_group_of_joints_is_measured_by_its_joints(tmp_path):
    groups = (CommandGroup(name="arm", output="positions", dims=("x", "y"), joints=("j1", "j2")),)
    world = Lab(tmp_path, {"kind": "pose", "poses": [{"x": 0.3}]}, groups=groups)
    scalars = messages.named_scalars(1, "", {"j2": 2.0, "j1": 1.0, "other": 3.0})
    world.hear(topics.JOINT_STATES, scalars)
    assert world.lead.station.position.tolist() == [1.0, 2.0]


def test_whoever_resumes_after_a_pause_was_at_the_robot(lab):
    world = lab({"kind": "person"}, begin=False, simulated=False)
    world.operator.pause()
    world.plan(limit=9)
    assert world.phase is Phase.PAUSED
    world.operator.resume()
    assert world.phase is Phase.READY


def test_a_policys_reset_that_is_thrown_away_begins_anew(lab):
    world = lab(POLICY)
    begin_reset_run(world)
    assert world.operator.discard()[0]
    world.live(0.4)
    world.finish_job()
    assert (world.phase, world.status["reset_attempt"]) == (Phase.RESETTING, "1")
    begin_reset_run(world)
