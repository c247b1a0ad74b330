"""Bringing the nodes of one robot up in order, and down and up again when one is lost.

Pure: heartbeats and times come in, transitions to ask for come out. The life cycle:

    unconfigured --configure--> inactive --activate--> active --deactivate--> inactive

Everything that is there is configured at once, for that moves nothing; activation goes in the
order of `roles`, deactivation in the reverse one, and each waits for the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ROLES = ("guard", "policy", "reward", "episode_manager")
"""A robot's managed nodes. The guard first: nothing moves without it; the manager, who begins
episodes, last."""

Transition = Literal["configure", "activate", "deactivate"]
Goal = Literal["up", "down", "held"]
OPTIONAL = frozenset({"policy", "reward"})
"""A robot comes up without these when they stay away: demonstrations need no network, and whoever
plans episodes that do is told by the manager what it waits for."""
WITHOUT_MODELS = ("guard", "episode_manager")
"""What runs where nobody needs a network: demonstrations."""
LONGEST_DELAY = 30.0
"""Longest pause in s between two tries of a transition that fails; doubled from `retry_s` on."""


@dataclass(frozen=True, slots=True)
class Request:
    """A transition to ask of the robot's node `role`."""

    role: str
    transition: Transition


@dataclass(slots=True)
class Member:
    """What is known of one node. state: "" while it is not heard. process: tells its starts apart.

    heard, asked_at, not_before: steady s. asked: the transition that was asked for and did not
    happen yet. failures: in a row.
    """

    state: str = ""
    process: str = ""
    reason: str = ""
    heard: float = 0.0
    lost: bool = False
    asked: str = ""
    asked_at: float = 0.0
    failures: int = 0
    not_before: float = 0.0


class BringUp:
    """One robot's nodes. `goal`: where it is going; `why`: the last reason to go down."""

    def __init__(
        self,
        roles: Sequence[str] = ROLES,
        lost_s: float = 1.0,
        answer_s: float = 0.5,
        retry_s: float = 1.0,
        configure_s: float = 30.0,
        wait_s: float = 10.0,
    ) -> None:
        """lost_s: silence that means lost; configure_s: while a node is being configured.

        answer_s: after it an unanswered request is repeated. retry_s: pause after the first
        failure of a transition. wait_s: absence of an `OPTIONAL` role after which the robot comes
        up without it.
        """
        self._configure_s, self._wait_s = configure_s, wait_s
        self._began: float | None = None
        self._skipped: set[str] = set()
        self.members = {role: Member() for role in roles}
        self.goal: Goal = "up"
        self.why = ""
        self.downs = 0
        self._held_by = ""
        self._lost_s, self._answer_s, self._retry_s = lost_s, answer_s, retry_s

    # ---- what is heard -----------------------------------------------------------------------

    def hear(self, role: str, state: str, process: str, reason: str, now: float) -> None:
        """A heartbeat of `role`; those of other roles are ignored."""
        member = self.members.get(role)
        if member is None:
            return
        before, known = member.state, member.process
        if state != before:
            member.asked = ""
        member.state, member.process, member.reason, member.heard = state, process, reason, now
        if known and process != known:
            member.failures, member.not_before = 0, 0.0
            if not member.lost:
                self._go_down(f"{role} was started anew")
        elif member.lost and state == "active":
            self._go_down(f"{role} is back")  # it does not know what it missed
        elif self.goal == "up" and before == "active" and state != "active":
            self.goal, self._held_by = "held", role
            self.why = f"{role} was taken to '{state}' by hand"
        elif self.goal == "held" and role == self._held_by and state == "active":
            self.goal, self.why = "up", ""
        member.lost = False

    def failed(self, role: str, now: float) -> None:
        """The node answered that the transition asked for failed."""
        member = self.members[role]
        member.asked = ""
        member.failures += 1
        delay = self._retry_s * 2.0 ** min(member.failures - 1, 10)
        member.not_before = now + min(delay, LONGEST_DELAY)

    def not_sent(self, role: str) -> None:
        """The request could not be sent: its service is not there yet."""
        self.members[role].asked = ""

    def excuse(self, now: float) -> None:
        """Nobody could have been heard until now: the listener itself was held up."""
        for member in self.members.values():
            member.heard = now

    def _go_down(self, why: str) -> None:
        if self.goal != "down":
            self.downs += 1
        self.goal, self.why, self._held_by = "down", why, ""

    # ---- what is to be done ------------------------------------------------------------------

    def step(self, now: float) -> list[Request]:
        """What to ask for now; call it after every heartbeat and a few times per second."""
        self._began = now if self._began is None else self._began
        for role, member in self.members.items():
            # Making channels and recovering a bag keep an executor busy, and nothing moves yet.
            limit = self._configure_s if member.state == "configuring" else self._lost_s
            if member.state and now - member.heard > limit:
                member.state, member.asked, member.lost = "", "", True
                self._go_down(f"{role} was not heard for {limit:g} s")
        if self.goal != "up":
            last = next((r for r in reversed(self.members) if self._is_going(r)), None)
            if last is not None:
                return self._ask(last, "deactivate", now)
            if self.goal == "down":
                self.goal = "up"
        return self._up(now) if self.goal == "up" else []

    def _is_going(self, role: str) -> bool:
        return self.members[role].state in ("active", "activating", "deactivating")

    def _up(self, now: float) -> list[Request]:
        requests = []
        for role, member in self.members.items():
            if member.state == "unconfigured":
                requests += self._ask(role, "configure", now)
        self._skipped = {role for role in self.members if self._stays_away(role, now)}
        first = next((role for role in self._waited if not self._is_active(role)), None)
        if first is not None:
            requests += self._ask(first, "activate", now)
        return requests

    def _stays_away(self, role: str, now: float) -> bool:
        member = self.members[role]
        absent = now - max(member.heard, self._began or 0.0)
        return role in OPTIONAL and not member.state and absent >= self._wait_s

    @property
    def _waited(self) -> list[str]:
        return [role for role in self.members if role not in self._skipped]

    def _is_active(self, role: str) -> bool:
        return self.members[role].state == "active"

    def _ask(self, role: str, transition: Transition, now: float) -> list[Request]:
        """The request, unless its answer is awaited, it failed lately, or is not possible now."""
        member = self.members[role]
        possible = {"configure": "unconfigured", "activate": "inactive", "deactivate": "active"}
        if member.state != possible[transition] or now < member.not_before:
            return []
        if member.asked == transition and now - member.asked_at < self._answer_s:
            return []
        member.asked, member.asked_at = transition, now
        return [Request(role, transition)]

    # ---- what is reported --------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether every node is active, but for optional ones that stay away."""
        return self.goal == "up" and all(self._is_active(role) for role in self._waited)

    @property
    def is_whole(self) -> bool:
        """Whether every node is active."""
        return self.is_up and not self._skipped

    @property
    def summary(self) -> str:
        """In words: where the robot is and what it waits for."""
        if self.is_up:
            away = ", ".join(role for role in self.members if role in self._skipped)
            return f"up without {away}" if away else "up"
        if self.goal == "held":
            return f"held: {self.why}; activate it, and the robot comes up again"
        if self.goal == "down":
            return f"going down: {self.why}"
        waiting = next(role for role in self._waited if not self._is_active(role))
        member = self.members[waiting]
        text = f"coming up: {waiting} is {member.state or 'not heard'}"
        return f"{text}: {member.reason}" if member.reason else text
