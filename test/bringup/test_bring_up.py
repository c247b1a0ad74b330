"""The rules by which a robot's nodes are brought up, down and up again; no ROS in here."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efm_bringup.bring_up import LONGEST_DELAY, ROLES, BringUp, Request

AFTER = {"configure": "inactive", "activate": "active", "deactivate": "inactive"}


class Robot:
    """Nodes that do at once what they are asked for, and beat every 0.25 s while they live."""

    def __init__(self, roles: Iterable[str] = ROLES) -> None:
        self.bring_up = BringUp(tuple(roles))
        self.now = 100.0
        self.states = dict.fromkeys(roles, "unconfigured")
        self.process = dict.fromkeys(roles, 0)
        self.dead: set[str] = set()
        self.done: list[Request] = []
        self.begin_s = 0.0

    def beat(self, role: str) -> None:
        self.bring_up.hear(role, self.states[role], str(self.process[role]), "", self.now)

    def run(self, seconds: float) -> list[Request]:
        """What was asked for in the next `seconds` s, in order."""
        first = len(self.done)
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            if round(self.now / 0.05) % 5 == 0:
                for role in self.states:
                    if role not in self.dead:
                        self.beat(role)
            self.obey()
        return self.done[first:]

    def obey(self) -> None:
        while requests := self.bring_up.step(self.now):
            for request in requests:
                self.done.append(request)
                if request.role not in self.dead:
                    self.states[request.role] = AFTER[request.transition]
                    self.beat(request.role)

    def die(self, role: str) -> None:
        self.dead.add(role)

    def respawn(self, role: str) -> None:
        self.dead.discard(role)
        self.states[role], self.process[role] = "unconfigured", self.process[role] + 1


def order(requests: Iterable[Request], transition: str) -> list[str]:
    return [request.role for request in requests if request.transition == transition]


@pytest.fixture
def robot() -> Robot:
    made = Robot()
    made.run(1.0)
    assert made.bring_up.is_up
    return made


def test_a_robot_comes_up_in_order() -> None:
    robot = Robot()
    asked = robot.run(1.0)
    assert sorted(order(asked, "configure")) == sorted(ROLES)
    assert order(asked, "activate") == list(ROLES)
    assert robot.bring_up.summary == "up"


def test_nobody_is_activated_before_the_one_before_him() -> None:
    robot = Robot()
    robot.die("policy")
    asked = robot.run(2.0)
    assert order(asked, "activate") == ["guard"]
    assert "policy is not heard" in robot.bring_up.summary
    robot.dead.clear()
    assert order(robot.run(1.0), "activate") == ["policy", "reward", "episode_manager"]


def test_models_that_stay_away_do_not_keep_a_robot_down_and_join_later() -> None:
    robot = Robot()
    for role in ("policy", "reward"):
        robot.die(role)
    assert order(robot.run(9.5), "activate") == ["guard"]
    assert order(robot.run(1.0), "activate") == ["episode_manager"]
    assert robot.bring_up.summary == "up without policy, reward"
    assert robot.bring_up.is_up
    assert not robot.bring_up.is_whole
    robot.dead.clear()
    asked = robot.run(1.0)
    assert order(asked, "activate") == ["policy", "reward"]
    assert order(asked, "deactivate") == []
    assert robot.bring_up.is_whole


def test_a_robot_without_a_guard_never_comes_up() -> None:
    robot = Robot()
    robot.die("guard")
    assert order(robot.run(60.0), "activate") == []


def test_a_steady_robot_is_left_alone(robot: Robot) -> None:
    assert robot.run(30.0) == []


@pytest.mark.parametrize("role", ROLES)
def test_a_lost_node_brings_the_robot_down_and_up_in_order(robot: Robot, role: str) -> None:
    robot.die(role)
    assert robot.run(0.7) == []  # last heard at most 0.25 s before; lost after 1 s
    down = robot.run(0.6)
    assert order(down, "deactivate") == [r for r in reversed(ROLES) if r != role]
    assert robot.bring_up.downs == 1
    before = ROLES[: ROLES.index(role)]
    assert order(down, "activate") == list(before)  # up again, as far as the lost one
    robot.respawn(role)
    up = robot.run(1.0)
    assert order(up, "configure") == [role]
    assert robot.bring_up.is_up
    assert order(up, "deactivate") == []
    assert order(up, "activate") == list(ROLES[ROLES.index(role) :])
    assert robot.bring_up.downs == 1


def test_a_node_that_is_started_anew_within_the_second_is_noticed(robot: Robot) -> None:
    robot.respawn("guard")
    asked = robot.run(0.5)
    assert order(asked, "deactivate") == ["episode_manager", "reward", "policy"]
    assert order(asked, "activate") == list(ROLES)
    assert "guard was started anew" in robot.bring_up.why


def test_a_node_that_was_stopped_and_woken_is_brought_down_too(robot: Robot) -> None:
    """SIGSTOP and SIGCONT: it is still active and knows nothing of what it missed."""
    robot.die("episode_manager")
    robot.run(3.0)
    robot.dead.clear()
    asked = robot.run(0.5)
    assert order(asked, "deactivate") == list(reversed(ROLES))
    assert order(asked, "activate") == list(ROLES)
    assert robot.bring_up.is_up


def test_a_hand_that_takes_a_node_down_is_respected(robot: Robot) -> None:
    robot.states["policy"] = "inactive"
    asked = robot.run(1.0)
    assert order(asked, "deactivate") == ["episode_manager", "reward", "guard"]
    assert order(asked, "activate") == []
    assert "policy was taken to 'inactive' by hand" in robot.bring_up.summary
    assert robot.run(10.0) == []
    robot.states["policy"] = "active"
    robot.run(1.0)
    assert robot.bring_up.is_up


def test_a_failing_transition_is_tried_again_ever_more_rarely() -> None:
    bring_up = BringUp(("guard",), retry_s=1.0)
    tries = []
    for step in range(2400):
        now = step * 0.1
        bring_up.hear("guard", "unconfigured", "1", "no such file", now)
        for request in bring_up.step(now):
            assert request == Request("guard", "configure")
            tries.append(now)
            bring_up.failed("guard", now)
    pauses = [round(b - a, 3) for a, b in pairwise(tries)]
    assert pauses[:6] == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_DELAY], abs=0.11)
    assert "no such file" in bring_up.summary


def test_a_node_that_is_busy_configuring_is_not_lost() -> None:
    bring_up = BringUp(("guard",), lost_s=1.0, configure_s=5.0)
    bring_up.hear("guard", "configuring", "1", "", 0.0)
    bring_up.step(4.9)
    assert bring_up.downs == 0
    bring_up.step(5.1)
    assert bring_up.downs == 1


def test_an_unanswered_request_is_repeated() -> None:
    bring_up = BringUp(("guard",), answer_s=0.5)
    asked = []
    for step in range(20):
        now = step * 0.1
        bring_up.hear("guard", "unconfigured", "1", "", now)
        asked += [now] * len(bring_up.step(now))
    assert asked == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_a_pause_of_the_listener_is_nobodys_loss(robot: Robot) -> None:
    robot.now += 20.0
    robot.bring_up.excuse(robot.now)
    assert robot.run(2.0) == []
    assert robot.bring_up.downs == 0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("die", "respawn", "wake")),
            st.sampled_from(ROLES),
            st.sampled_from((0.05, 0.3, 0.9, 1.4)),
        ),
        max_size=12,
    )
)
def test_whatever_happens_the_order_holds_and_it_ends_up(
    events: list[tuple[str, str, float]],
) -> None:
    """A node is activated only while all before it are active, and in the end all are."""
    robot = Robot()
    for kind, role, seconds in events:
        if kind == "wake":
            robot.dead.discard(role)
        else:
            getattr(robot, kind)(role)
        first = len(robot.done)
        robot.run(seconds)
        _check_order(robot, robot.done[first:])
    for role in tuple(robot.dead):
        robot.respawn(role)
    robot.run(4.0)
    assert robot.bring_up.is_up
    assert set(robot.states.values()) == {"active"}


def _check_order(robot: Robot, asked: list[Request]) -> None:
    activated = [ROLES.index(r.role) for r in asked if r.transition == "activate"]
    for before, after in pairwise(activated):
        assert after == before + 1 or after <= before  # the next one, or from further down again
