"""From a recorded real-time episode: when each picture's command arrived.

In real time `command/<group>/twist` is stamped when it is sent, so it does not say which picture
it answers. `guard/state` does: the guard sends both together, the state stamped with the picture
whose chunk made it act, or with the time of sending when its timer acted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efm_core import messages
from efm_core.bags import EpisodeReader
from efm_core.guard import Source
from efm_core.topics import DECISION, GUARD_STATE, camera, twist_command


@dataclass(frozen=True, slots=True)
class Tick:
    """One answered picture; all times in s after its stamp.

    sent: the guard sent the command. received: the recorder had it. latency: from the picture's
    receipt by the policy to its decision, waiting for a batch included (not after the stamp).
    missed: whether the policy says that it was later than one period.
    """

    sent: float
    received: float
    latency: float
    missed: bool


@dataclass(frozen=True, slots=True)
class PathTicks:
    """The answered pictures of an episode, and those between them that got no command of theirs.

    undecided: how many of the unanswered have no decision either: lost, thinned out because they
    came too close behind another, or overtaken while they waited for the model.
    """

    ticks: tuple[Tick, ...]
    unanswered: int
    undecided: int


@dataclass(frozen=True, slots=True)
class State:
    """A guard/state: its stamp in ns and whether a policy's chunk made it."""

    stamp_ns: int
    by_policy: bool


def pair_commands(
    states: Sequence[State], sent_ns: Sequence[int], pictures: frozenset[int]
) -> dict[int, int]:
    """Picture stamp -> index of the command that answers it.

    states: in the order of sending. sent_ns: stamps of the commands, ascending. A state of the
    timer is stamped just before its command; one that answers a picture belongs to the command
    behind that of the state before it. What a lost message leaves ambiguous is left out.
    """
    pairs: dict[int, int] = {}
    index: int | None = None
    for position, state in enumerate(states):
        if state.stamp_ns not in pictures:
            index = bisect_left(sent_ns, state.stamp_ns)
            continue
        if index is None:
            continue
        index += 1
        if index >= len(sent_ns) or not state.by_policy:
            continue
        following = states[position + 1] if position + 1 < len(states) else None
        overtaken = (
            following is not None
            and following.stamp_ns not in pictures
            and sent_ns[index] > following.stamp_ns
        )
        if sent_ns[index] >= state.stamp_ns and not overtaken:
            pairs[state.stamp_ns] = index
    return pairs


def read_ticks(path: Path, camera_name: str, group: str) -> PathTicks:
    """The ticks of one recorded real-time episode. Raises BagError."""
    reader = EpisodeReader(path)
    names = {
        f"/{reader.record.robot}/{topic.name}": topic
        for topic in (camera(camera_name), twist_command(group), GUARD_STATE, DECISION)
    }
    pictures: list[int] = []
    commands: list[tuple[int, int]] = []  # sent, received
    states: list[State] = []
    decisions: dict[int, tuple[float, bool]] = {}
    for name, kind, received_ns, raw in reader.messages(list(names)):
        message, topic = messages.deserialize(raw, kind), names[name]
        stamp_ns = messages.stamp_of(message)
        if topic.qos == "image":
            pictures.append(stamp_ns)
        elif topic == GUARD_STATE:
            source = int(messages.read_named_scalars(message)["source"])
            states.append(State(stamp_ns, source == Source.POLICY))
        elif topic == DECISION:
            scalars = messages.read_named_scalars(message)
            decisions[stamp_ns] = scalars["latency"], scalars["deadline_missed"] > 0.5
        else:
            commands.append((stamp_ns, received_ns))
    return _ticks(sorted(pictures), sorted(commands), states, decisions)


def _ticks(
    pictures: Sequence[int],
    commands: Sequence[tuple[int, int]],
    states: Sequence[State],
    decisions: dict[int, tuple[float, bool]],
) -> PathTicks:
    pairs = pair_commands(states, [sent for sent, _ in commands], frozenset(pictures))
    answered = sorted(stamp for stamp in pairs if stamp in decisions)
    if not answered:
        return PathTicks((), 0, 0)
    ticks = []
    for stamp in answered:
        sent, received = commands[pairs[stamp]]
        latency, missed = decisions[stamp]
        ticks.append(Tick((sent - stamp) / 1e9, (received - stamp) / 1e9, latency, missed))
    within = [stamp for stamp in pictures if answered[0] <= stamp <= answered[-1]]
    undecided = sum(stamp not in decisions for stamp in within)
    return PathTicks(tuple(ticks), len(within) - len(answered), undecided)
