"""The operator's desk: keys of one terminal for the takes of several robots, and what is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from efm_bringup.teleop.keyboard import KeyDecoder
from efm_bringup.teleop.orders import Order, order_for
from efm_bringup.teleop.screen import HELP, Pace, Screen, asks, robot_line, summary

Status = Mapping[str, Mapping[str, str]]


class Line(Protocol):
    """The way to the robots; `efm_bringup.plan_client.PlanClient` is one."""

    @property
    def status(self) -> Status:
        """Robot -> pairs of its newest `episode/status`."""
        ...

    def call(self, robot: str, name: str, answer: Callable[[bool, str], None]) -> None:
        """Call the robot's service `name`."""
        ...


class Driver(Protocol):
    """What moves a robot by keys; `efm_bringup.teleop.drivers.KeyboardDriver` is one."""

    @property
    def taken_over(self) -> bool:
        """Whether it has taken its robot over from the policy."""
        ...

    def press(self, key: str, order: Order | None) -> bool:
        """A key and what it means to the desk; whether the driver has dealt with it."""
        ...


class Desk:
    """Keys in, orders out, lines shown.

    pause: wait for Enter before each further take. driver: gets the keys first. owner:
    whether finishing ends the robots' lists, not this program alone.
    `finishing`: the operator wants no more takes; `leaving`: and not to wait for anything either.
    """

    def __init__(
        self,
        title: str,
        robots: Sequence[str],
        line: Line,
        screen: Screen,
        pause: bool = False,
        driver: Driver | None = None,
        owner: bool = True,
    ) -> None:
        self._title, self._robots, self._line = title, list(robots), line
        self._screen, self._pause = screen, pause
        self._driver, self._owner = driver, owner
        self._decoder = KeyDecoder()
        self._pace = Pace(time.monotonic())
        self._held: dict[str, str] = {}
        self._before: dict[tuple[str, str], int] = {}
        self._given: dict[str, tuple[str, Order]] = {}
        self.chosen = self._robots[0]
        self.finishing = False
        self.leaving = False

    def keys(self, data: bytes, now: float) -> None:
        """What was typed (may be empty) at steady time `now`, s."""
        for key in self._decoder.feed(data, now):
            self._key(key)

    def _key(self, key: str) -> None:
        if key.isdigit() and 0 < int(key) <= len(self._robots):
            self.chosen = self._robots[int(key) - 1]
            return
        order = order_for(key, self._line.status.get(self.chosen, {}))
        if self._driver is not None and self._driver.press(key, order):
            return
        if order is Order.FINISH:
            self._finish()
        elif order is not None and not order.is_takeover:
            self._give(self.chosen, order)

    def _finish(self) -> None:
        held = self._driver is not None and self._driver.taken_over
        self.leaving = self.finishing or not (self._owner or held)
        self.finishing = True
        if held:
            self._screen.say("the robot is still taken over: g gives it back, q leaves it so")
        for robot in self._robots if self._owner else ():
            self._give(robot, Order.FINISH)

    def _give(self, robot: str, order: Order) -> None:
        """A second one of those that end a take might hit the next one."""
        episode = self._line.status.get(robot, {}).get("episode_id", "")
        if order.is_once and self._given.get(robot) == (episode, order):
            return
        self._given[robot] = (episode, order)

        def answer(good: bool, text: str) -> None:
            self._screen.say(f"{robot}: {order.value}{'' if good else ' refused'}: {text}")
            if not good:
                self._given.pop(robot, None)

        self._line.call(robot, f"episode/{order.value}", answer)

    def hold_between(self) -> None:
        """Have each robot pause after its running take: it may be redone, even the last."""
        for robot in self._robots if self._pause and not self.finishing else ():
            status = self._line.status.get(robot, {})
            episode = status.get("episode_id", "")
            if status.get("phase") == "running" and self._held.get(robot) != episode:
                self._held[robot] = episode
                self._line.call(robot, "episode/pause_next", _ignore)

    def release(self) -> None:
        """Undo what `hold_between` asked for: whoever comes next finds no pause."""
        for robot in self._robots if self._pause else ():
            self._line.call(robot, "episode/resume", _ignore)

    def show(self, done: int, total: int, keys: bool, final: bool = False) -> None:
        """Draw the counts, a line per robot, and the keys."""
        robots = {robot: self._line.status.get(robot, {}) for robot in self._robots}
        left = self._pace.seconds_left(done, total, time.monotonic())
        several = len(robots) > 1 and keys
        counts = self.count("redone_total"), self.count("discarded_total")
        lines = [summary(self._title, done, total, robots, left, *counts)]
        lines += [robot_line(r, s, several and r == self.chosen) for r, s in robots.items()]
        self._screen.show([*lines, *HELP] if keys and not final else lines, final)

    def count(self, key: str) -> int:
        """How far the robots' counters `key` of `episode/status` went up since first heard."""
        total = 0
        for robot in self._robots:
            value = self._line.status.get(robot, {}).get(key)
            if value:
                now = int(value)
                total += now - min(self._before.setdefault((robot, key), now), now)
        return total

    @property
    def asking(self) -> bool:
        """Whether a newest take of some robot is not judged yet."""
        return any(asks(self._line.status.get(robot, {})) for robot in self._robots)


def _ignore(good: bool, text: str) -> None:
    """The pause shows in the robot's status."""
