"""The pure parts of teleoperation: joystick, keys, dead man, stamps, orders, what is shown."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import termios
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efm_bringup.teleop.desk import Desk
from efm_bringup.teleop.drive import Drive
from efm_bringup.teleop.joystick import Joystick, JoystickSettings
from efm_bringup.teleop.keyboard import MOTIONS, KeyDecoder, KeyMotion
from efm_bringup.teleop.orders import Order, order_for
from efm_bringup.teleop.screen import Pace, Screen, robot_line, summary
from efm_bringup.teleop.terminal import Terminal

RELEASED, HELD = [0] * 11, [0] * 4 + [1] + [0] * 6


def pressed(*buttons: int) -> list[int]:
    return [int(i in buttons) for i in range(11)]


# ---- joystick ------------------------------------------------------------------------------------


def test_nothing_moves_without_the_dead_mans_button() -> None:
    joystick = Joystick(JoystickSettings(speed=0.2))
    assert joystick.velocity(0.0) is None
    joystick.hear([0.0, 1.0], RELEASED, 0.0)
    assert joystick.velocity(0.0) is None
    joystick.hear([0.0, 1.0], HELD, 0.1)
    velocity = joystick.velocity(0.1)
    assert velocity is not None
    assert velocity.tolist() == [0.2, 0.0, 0.0, 0.0, 0.0, 0.0]
    joystick.hear([0.0, 1.0], RELEASED, 0.2)
    assert joystick.velocity(0.2) is None


def test_a_silent_joystick_stops_and_must_be_let_go_before_it_counts_again() -> None:
    joystick = Joystick(JoystickSettings(timeout=0.3))
    joystick.hear([], RELEASED, 0.0)
    joystick.hear([1.0, 0.0], HELD, 0.1)
    assert joystick.velocity(0.39) is not None
    assert joystick.velocity(0.4) is None
    joystick.hear([1.0, 0.0], HELD, 0.5)
    assert joystick.velocity(0.5) is None
    joystick.hear([1.0, 0.0], RELEASED, 0.6)
    joystick.hear([1.0, 0.0], HELD, 0.7)
    assert joystick.velocity(0.7) is not None


def test_a_button_that_is_stuck_from_the_start_moves_nothing() -> None:
    joystick = Joystick(JoystickSettings())
    for k in range(5):
        joystick.hear([1.0, 1.0], HELD, 0.05 * k)
        assert joystick.velocity(0.05 * k) is None


def test_orders_come_once_per_press_and_not_from_before_a_silence() -> None:
    joystick = Joystick(JoystickSettings())
    assert joystick.hear([], pressed(0), 0.0) == []  # was it just pressed? nobody knows
    assert joystick.hear([], pressed(), 0.1) == []
    assert joystick.hear([], pressed(0), 0.2) == [Order.SUCCESS]
    assert joystick.hear([], pressed(0), 0.3) == []
    assert joystick.hear([], pressed(), 0.4) == []
    assert joystick.hear([], pressed(1, 2), 0.5) == [Order.END, Order.DISCARD]
    assert joystick.hear([], pressed(), 0.6) == []
    assert joystick.hear([], pressed(7), 1.0) == []


@given(
    st.lists(st.floats(-1.0, 1.0), min_size=0, max_size=8),
    st.floats(0.01, 1.0),
    st.floats(0.0, 0.9),
)
def test_no_stick_is_faster_than_the_speed(axes: list[float], speed: float, dead: float) -> None:
    joystick = Joystick(JoystickSettings(speed=speed, dead_zone=dead))
    joystick.hear(axes, RELEASED, 0.0)
    joystick.hear(axes, HELD, 0.1)
    velocity = joystick.velocity(0.1)
    assert velocity is not None
    assert np.linalg.norm(velocity[:3]) <= speed * (1 + 1e-9)
    if all(abs(a) <= dead for a in axes):
        assert (velocity == 0.0).all()


def test_dead_zone_scales_from_its_edge_and_inverts() -> None:
    joystick = Joystick(JoystickSettings(speed=1.0, dead_zone=0.2, inverted=("x",)))
    joystick.hear([0.0, 0.6], RELEASED, 0.0)
    joystick.hear([float("nan"), 0.6], HELD, 0.1)
    velocity = joystick.velocity(0.1)
    assert velocity is not None
    assert velocity[:2] == pytest.approx([-0.5, 0.0])  # (0.6 - 0.2) / (1 - 0.2)


def test_an_unknown_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="'forward' is no dimension"):
        JoystickSettings(axes={"forward": 1})


# ---- keyboard ------------------------------------------------------------------------------------


def test_keys_come_whole_however_the_bytes_are_cut() -> None:
    data = b"w\x1b[C\x1b[Dn\x1bOA\x1b[3~ \r"
    wanted = ["w", "right", "left", "n", "up", " ", "enter"]
    for cut in range(len(data) + 1):
        decoder = KeyDecoder()
        keys = decoder.feed(data[:cut], 0.0) + decoder.feed(data[cut:], 0.05)
        assert keys == wanted, cut


def test_escape_alone_is_a_key_after_a_moment() -> None:
    decoder = KeyDecoder()
    assert decoder.feed(b"\x1b", 0.0) == []
    assert decoder.feed(b"", 0.05) == []
    assert decoder.feed(b"", 0.1) == ["escape"]
    assert decoder.feed(b"\x1bq", 0.2) == ["escape", "q"]


@given(st.binary(max_size=40))
def test_no_bytes_upset_the_decoder(data: bytes) -> None:
    decoder = KeyDecoder()
    decoder.feed(data, 0.0)
    decoder.feed(b"", 1.0)
    decoder.feed(b"", 2.0)
    assert decoder.feed(b"w", 3.0)[-1:] == ["w"]


def test_a_key_moves_for_its_time_and_two_are_no_faster_than_one() -> None:
    motion = KeyMotion(speed=0.1, timeout=0.3)
    assert motion.velocity(0.0) is None
    assert motion.press("w", 0.0)
    assert motion.velocity(0.29) == pytest.approx([0.1, 0, 0, 0, 0, 0])
    assert motion.velocity(0.3) is None
    motion.press("w", 1.0)
    motion.press("a", 1.1)
    assert np.linalg.norm(motion.velocity(1.2)) == pytest.approx(0.1)  # type: ignore[arg-type]
    motion.press("s", 1.2)  # the contrary key replaces
    velocity = motion.velocity(1.2)
    assert velocity is not None
    assert velocity[0] < 0.0 < velocity[1]
    motion.press(".", 1.25)
    assert motion.velocity(1.25) is None


def test_no_motion_key_is_an_order() -> None:
    for phase in ("running", "paused", "idle", "needs_help"):
        for key in (*MOTIONS, "."):
            assert order_for(key, {"phase": phase}) is None


def test_n_ends_a_take_and_answers_between_takes() -> None:
    asked = {"mode": "demo", "last_label": "unknown"}
    assert order_for("n", {"phase": "running", **asked}) is Order.END
    assert order_for("n", {"phase": "paused", **asked}) is Order.LABEL_FAILURE
    assert order_for("n", {"phase": "paused", "last_label": "success"}) is Order.END
    keys = {"right": Order.END, "left": Order.DISCARD, "r": Order.DISCARD, " ": Order.SUCCESS,
            "escape": Order.FINISH, "q": Order.FINISH, "x": Order.DISCARD_LAST}  # fmt: skip
    assert {key: order_for(key, {"phase": "running"}) for key in keys} == keys
    phases = {"paused": Order.RESUME, "needs_help": Order.RESET_DONE, "stopped": Order.START}
    assert {p: order_for("enter", {"phase": p}) for p in phases} == phases


# ---- stamps and the dead man ---------------------------------------------------------------------

DEMO = {"phase": "running", "mode": "demo", "clock": "lockstep", "start_ns": "1000",
        "episode_id": "a"}  # fmt: skip
FORWARD = np.array([0.1, 0, 0, 0, 0, 0])


def test_lockstep_answers_each_observation_once_and_at_the_robots_rate() -> None:
    drive = Drive(rate=10.0)
    drive.on_status(DEMO)
    drive.on_observation(900)  # of the episode before
    assert drive.command(FORWARD, 0.0, 7) is None
    drive.on_observation(1000)
    first = drive.command(FORWARD, 0.0, 7)
    assert first is not None
    assert first.stamp_ns == 1000
    assert drive.command(FORWARD, 0.2, 8) is None
    assert drive.on_observation(1000) is first  # the world asks again
    drive.on_observation(1100)
    assert drive.command(FORWARD, 0.09, 9) is None  # too early
    assert drive.command(FORWARD, 0.1, 9) is not None
    drive.on_observation(1200)
    zero = drive.command(None, 0.3, 9)
    assert zero is not None
    assert (zero.stamp_ns, zero.velocity.any()) == (1200, False)
    drive.on_observation(1300)
    assert drive.command(None, 0.5, 9) is None  # the world waits


def test_real_time_sends_at_every_call_then_one_zero_then_nothing() -> None:
    drive = Drive(rate=10.0)
    drive.on_status({**DEMO, "clock": "real"})
    for now, stamp in ((0.0, 5), (0.02, 6)):
        sent = drive.command(FORWARD, now, stamp)
        assert sent is not None
        assert (sent.stamp_ns, sent.velocity[0]) == (stamp, 0.1)
    zero = drive.command(None, 0.04, 7)
    assert zero is not None
    assert not zero.velocity.any()
    assert drive.command(None, 0.06, 8) is None


@pytest.mark.parametrize("mode", ["practice", "evaluation"])
def test_an_autonomous_episode_is_left_alone_until_taken_over(mode: str) -> None:
    drive = Drive(rate=10.0)
    drive.on_status({**DEMO, "mode": mode})
    drive.on_observation(1000)
    assert drive.autonomous
    assert drive.command(FORWARD, 0.0, 7) is None
    drive.taken_over = True
    assert drive.command(FORWARD, 0.0, 7) is not None
    drive.on_status({**DEMO, "mode": mode, "phase": "ending"})
    drive.on_observation(1100)
    assert drive.command(FORWARD, 1.0, 7) is None


# ---- terminal ------------------------------------------------------------------------------------


@pytest.fixture
def line() -> Iterator[tuple[int, Any]]:
    """A pseudo terminal: (its other side, the stream)."""
    other, inner = pty.openpty()
    stream = os.fdopen(inner, "r")
    yield other, stream
    stream.close()
    with contextlib.suppress(OSError):  # closed by the test
        os.close(other)


def test_keys_come_at_once_and_the_terminal_is_given_back(line: tuple[int, Any]) -> None:
    other, stream = line
    before = termios.tcgetattr(stream.fileno())
    assert Terminal.usable(stream)
    with contextlib.suppress(KeyboardInterrupt), Terminal(stream) as terminal:
        changed = termios.tcgetattr(stream.fileno())
        assert not changed[3] & (termios.ICANON | termios.ECHO)
        assert changed[3] & termios.ISIG  # Ctrl-C still interrupts
        assert terminal.read() == b""
        os.write(other, b"n\x1b[C")
        assert terminal.read() == b"n\x1b[C"
        raise KeyboardInterrupt
    assert termios.tcgetattr(stream.fileno()) == before


def test_a_terminal_that_is_gone_is_closed_and_no_error(line: tuple[int, Any]) -> None:
    other, stream = line
    with Terminal(stream) as terminal:
        os.close(other)
        assert terminal.read() == b""
        assert terminal.closed


def test_a_pipe_is_no_terminal(tmp_path: Any) -> None:
    with open(os.devnull) as nothing:
        assert not Terminal.usable(nothing)
    assert not Terminal.usable(io.StringIO())


# ---- desk and screen -----------------------------------------------------------------------------


class Robots:
    """Plays `PlanClient`: keeps the calls."""

    def __init__(self, **status: Mapping[str, str]) -> None:
        self.status = status
        self.calls: list[tuple[str, str]] = []

    def call(self, robot: str, name: str, answer: Any) -> None:
        self.calls.append((robot, name))
        answer(True, "done")


def test_a_key_pressed_twice_ends_one_take_only() -> None:
    robots = Robots(a={"phase": "running", "episode_id": "1"})
    desk = Desk("t", ["a"], robots, Screen(io.StringIO()))
    desk.keys(b"nn\x1b[C", 0.0)
    assert robots.calls == [("a", "episode/end")]
    robots.status = {"a": {"phase": "running", "episode_id": "2"}}
    desk.keys(b"n", 0.0)
    assert robots.calls == [("a", "episode/end")] * 2


def test_keys_go_to_the_chosen_robot_and_finish_to_all() -> None:
    robots = Robots(a={"phase": "running"}, b={"phase": "paused"})
    desk = Desk("t", ["a", "b"], robots, Screen(io.StringIO()))
    desk.keys(b"2\rq", 0.0)
    assert robots.calls == [("b", "episode/resume"), ("a", "episode/finish"),
                            ("b", "episode/finish")]  # fmt: skip
    assert (desk.finishing, desk.leaving) == (True, False)
    desk.keys(b"q", 0.0)
    assert desk.leaving


def test_counters_count_from_the_beginning_of_the_session() -> None:
    robots = Robots(a={"redone_total": "5"}, b={})
    desk = Desk("t", ["a", "b"], robots, Screen(io.StringIO()))
    assert desk.count("redone_total") == 0
    robots.status = {"a": {"redone_total": "7"}, "b": {"redone_total": "1"}}
    assert desk.count("redone_total") == 2  # b was never heard before: its 1 may be old


def test_each_take_is_followed_by_one_pause() -> None:
    status = {"phase": "running", "episode_id": "1"}
    robots = Robots(a=status)
    desk = Desk("t", ["a"], robots, Screen(io.StringIO()), pause=True)
    desk.hold_between()
    desk.hold_between()
    assert robots.calls == [("a", "episode/pause_next")]
    robots.status = {"a": {**status, "episode_id": "2"}}
    desk.hold_between()
    desk.release()
    assert robots.calls == [("a", "episode/pause_next")] * 2 + [("a", "episode/resume")]


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_screen_replaces_its_lines_and_a_log_stays_quiet() -> None:
    terminal = Tty()
    screen = Screen(terminal, width=20)
    screen.show(["one", "a line that is far too long"])
    screen.show(["two", "b"], final=True)
    text = terminal.getvalue()
    assert "\x1b[2A\r\x1b[Ktwo\n" in text
    assert "a line that is far \n"[:-2] in text
    assert "too long" not in text
    log = io.StringIO()
    quiet = Screen(log)
    for k in range(20):
        quiet.show([f"{k}"])
    quiet.show(["end"], final=True)
    assert log.getvalue() == "0\nend\n"


def test_counts_time_left_free_disk_and_rates_are_shown() -> None:
    status = {"phase": "running", "episode_id": "e", "tick": "43", "free_mb": "12345",
              "mode": "demo", "last_label": "unknown",
              "rates": '{"camera/front/image_raw": 9.9, "joint_states": 10.0}'}  # fmt: skip
    pace = Pace(100.0)
    assert pace.seconds_left(2, 10, 100.0) is None
    assert pace.seconds_left(4, 10, 120.0) == pytest.approx(60.0)  # 2 in 20 s, 6 are left
    line = summary("demo", 4, 10, {"a": status}, 60.0, redone=1, discarded=2)
    assert line == "demo: 4/10 saved, 1 redone, 2 discarded, about 1 min 00 s left, 12.3 GB free"
    assert robot_line("a", status) == "  a: running, tick 43 | front 9.9 Hz, joint_states 10 Hz"
    stuck = {"phase": "needs_help", "reason": "drawer shut"}
    assert summary("t", 0, 1, {"a": stuck}, None) == "t: 0/1 saved, a needs_help: drawer shut"
    waiting = {"phase": "paused", "mode": "demo", "last_label": "unknown"}
    assert robot_line("a", waiting, True) == (
        "> a: paused | set the scene, then Enter | success? y/n"
    )
