"""The bookkeeping of one episode: its ticks, who has answered, how it ended.

No ROS and no clock in here: stamps and steady times come in as arguments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from efm_core.episode import EpisodeRecord, Intervention, Mode, Outcome
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_core.topics import ACTION_CHUNK, DECISION, REWARD_STATE

STILL_TICKS = 4
_TELEOP_SOURCE = 2


class Verdict(str, Enum):
    """What an observation of the lockstep world leads to."""

    IGNORE = "ignore"  # not of this episode, or out of turn
    REPEAT = "repeat"  # the world asks again: the last tick was lost
    GO = "go"  # send the next tick
    CONCLUDE = "conclude"  # success: still frames follow
    TIMEOUT = "timeout"
    FINISHED = "finished"  # the last still frame is there


class Purpose(str, Enum):
    """What an episode is run for."""

    EPISODE = "episode"  # it is on the plan
    RESET = "reset"  # the policy follows a reset's instruction


@dataclass(frozen=True, slots=True)
class TickGrid:
    """Stamps of an episode: stamp(k) = start_ns + round(k * 1e9 / rate), ns; rate in Hz.

    exact: in lockstep a stamp is a tick's or nobody's; in real time it belongs to the period it
    falls into.
    """

    start_ns: int
    rate: float
    exact: bool = True

    def stamp(self, tick: int) -> int:
        """Stamp of tick `tick` in ns."""
        return self.start_ns + round(tick * 1e9 / self.rate)

    def tick(self, stamp_ns: int) -> int | None:
        """The tick that this stamp belongs to, None for none (before the start, off the grid)."""
        elapsed = (stamp_ns - self.start_ns) * self.rate / 1e9
        if not self.exact:
            return math.floor(elapsed) if elapsed >= 0.0 else None
        tick = round(elapsed)
        return tick if tick >= 0 and self.stamp(tick) == stamp_ns else None


@dataclass(slots=True)
class Session:
    """One episode from its reset to its last still frame.

    plan, planned: what was asked for. record: filled in as facts become known.
    sent: the last tick sent, -1 before the first. seen: the last tick observed. acted, chunk: the
    last ticks that guard and policy answered. ended: the tick at whose observation the episode
    was over (the number of decisions, T), None while it goes on. taken_over: whether a person moved
    the robot in the last tick that the guard answered.
    """

    plan: EpisodePlan
    planned: PlannedEpisode
    record: EpisodeRecord
    grid: TickGrid
    still_ticks: int = STILL_TICKS
    sent: int = -1
    seen: int = -1
    acted: int = -1
    chunk: int = -1
    ended: int | None = None
    answered: set[str] = field(default_factory=set)
    echoed: set[str] = field(default_factory=set)
    discarded: bool = False
    taken_over: bool = False
    purpose: Purpose = Purpose.EPISODE

    @property
    def needs_policy(self) -> bool:
        """A person moves the robot in demonstrations, the policy in everything else."""
        return self.plan.mode is not Mode.DEMO

    @property
    def needs_reward(self) -> bool:
        """A demonstration asks for the reward model only when it names a version."""
        return self.needs_policy or bool(self.plan.reward_version)

    @property
    def models(self) -> tuple[str, ...]:
        """Which of "policy" and "reward" must echo and answer."""
        needs = (("policy", self.needs_policy), ("reward", self.needs_reward))
        return tuple(name for name, needed in needs if needed)

    @property
    def ready(self) -> bool:
        """Whether every echo and every answer to the first observation is there."""
        models = set(self.models)
        return self.echoed >= models and self.answered >= models | {"robot"}

    def wanted_version(self, party: str) -> str:
        """The version that "policy" or "reward" must echo, "" for any."""
        plan, record = self.plan, self.record
        if party == "policy":
            return plan.policy_version or record.policy_version
        return plan.reward_version or record.reward_version

    def echo(self, party: str, version: str) -> None:
        """`party` is ready with a version: where the plan names none the episode keeps to it."""
        self.echoed.add(party)
        if party == "policy":
            self.record.policy_version = self.record.policy_version or version
        else:
            self.record.reward_version = self.record.reward_version or version

    def accepts(self, topic: str, frame_id: str) -> bool:
        """Whether an answer of the policy or the reward model belongs to this episode.

        Chunks bear the episode's id, decisions and rewards the version that gave them; an answer
        given by the version before the swap is none.
        """
        if topic == ACTION_CHUNK.name:
            return frame_id == self.record.episode_id
        party = {DECISION.name: "policy", REWARD_STATE.name: "reward"}.get(topic)
        wanted = self.wanted_version(party) if party else ""
        return not wanted or frame_id == wanted

    def observed(self, stamp_ns: int, success: bool) -> Verdict:
        """An observation is there, judged by the detector."""
        tick = self.grid.tick(stamp_ns)
        if tick is None:
            return Verdict.IGNORE
        return self._in_step(tick, success) if self.grid.exact else self._in_time(tick, success)

    def _in_time(self, tick: int, success: bool) -> Verdict:
        """Real time: nobody waits, the limit is watched by the clock."""
        if self.ended is not None:
            return Verdict.IGNORE
        self.seen = max(self.seen, tick)
        self.note_success(tick, success)
        return Verdict.CONCLUDE if success and self.plan.end_on_success else Verdict.IGNORE

    def _in_step(self, tick: int, success: bool) -> Verdict:
        """Lockstep: the world waits for the next tick."""
        if not self.sent <= tick <= self.sent + 1:
            return Verdict.IGNORE
        if tick == self.sent:
            return Verdict.REPEAT
        self.seen = tick
        if self.ended is not None:
            return Verdict.GO if tick < self.ended + self.still_ticks else Verdict.FINISHED
        self.note_success(tick, success)
        if success and self.plan.end_on_success:
            return Verdict.CONCLUDE
        return Verdict.TIMEOUT if tick >= self.planned.limit else Verdict.GO

    def note_success(self, tick: int, success: bool) -> None:
        """Keep the first tick at which the detector saw success."""
        if success and self.record.success_tick is None:
            self.record.success_tick = tick

    def guard_acted(self, stamp_ns: int, source: int) -> None:
        """The guard answered the tick of `stamp_ns` with a command from `source`."""
        tick = self.grid.tick(stamp_ns)
        if tick is None or self.ended is not None:
            return
        self.acted = max(self.acted, tick)
        self.taken_over = source == _TELEOP_SOURCE
        if source == _TELEOP_SOURCE and self.plan.mode is not Mode.DEMO:
            self._note_intervention(tick)

    def _note_intervention(self, tick: int) -> None:
        start, end = self.grid.stamp(tick), self.grid.stamp(tick + 1)
        stretches = self.record.interventions
        if stretches and stretches[-1].end_ns >= start:
            stretches[-1].end_ns = max(stretches[-1].end_ns, end)
        else:
            stretches.append(Intervention(start_ns=start, end_ns=end))

    def decisions(self, wall_ns: int) -> int:
        """T if the episode ended now (wall time in ns): decisions executed or bound to be.

        In lockstep the tick sent last counts once the guard has answered it.
        """
        if not self.grid.exact:
            return self.grid.tick(wall_ns) or 0
        return self.sent + 1 if self.acted >= self.sent else max(self.sent, 0)

    def end(self, tick: int, outcome: Outcome, reason: str) -> None:
        """The episode is over at observation `tick`: T, outcome, reason and end stamp."""
        self.ended = tick
        self.sent = min(self.sent, tick - 1)
        self.record.ticks = tick
        self.record.outcome = outcome
        self.record.termination_reason = reason
        self.record.end_ns = self.grid.stamp(tick)

    def conclusion(self, reward_alive: bool) -> Outcome:
        """The robot's own verdict at the time limit: success if the detector ever fired.

        Without a detector's word (nobody labelled the demonstration, the reward node is silent)
        it is unknown, never success.
        """
        if self.record.success_tick is not None:
            return Outcome.SUCCESS
        return Outcome.FAILURE if self.needs_reward and reward_alive else Outcome.UNKNOWN
