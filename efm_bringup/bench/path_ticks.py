"""From a recorded real-time episode: when each picture's command arrived.

In real time `command/<group>/twist` is stamped when it is sent, so it does not say which picture
it answers. `guard/state` does: the guard sends both together, the state stamped with the picture
whose chunk made it act, or with the time of sending when its timer acted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcap.reader import make_reader
from mcap.records import Message

from efm_core import messages
from efm_core.bags import EpisodeReader
from efm_core.guard import Source
from efm_core.topics import DECISION, GUARD_STATE, camera, twist_command


@dataclass(frozen=True, slots=True)
class Tick:
    """One answered picture, with the stamp `stamp_ns`.

    published: the robot sent it; sent: the guard sent the command; received: it came to the
    recorder; all in s after the picture's stamp, which is taken before it is rendered.
    inference: s that the model took for the batch. latency: s from the picture's receipt by the
    policy to its decision, waiting and inference included. missed: whether the policy says that
    it was later than one period.
    """

    stamp_ns: int
    published: float
    sent: float
    received: float
    inference: float
    latency: float
    missed: bool

    @property
    def path(self) -> float:
        """From the picture's publication to the receipt of its command, less inference, s."""
        return self.received - self.published - self.inference


@dataclass(frozen=True, slots=True)
class PathTicks:
    """The answered pictures of an episode, and those between them that got no command of theirs.

    unanswered: their stamps in ns. undecided: how many of the unanswered have no decision either:
    lost, thinned out because they came too close behind another, or overtaken while they waited
    for the model.
    """

    ticks: tuple[Tick, ...]
    unanswered: tuple[int, ...]
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
    pictures: dict[int, int] = {}  # stamp -> time of sending
    commands: list[tuple[int, int]] = []  # sent, received
    states: list[State] = []
    decisions: dict[int, dict[str, float]] = {}
    for name, kind, entry in _entries(path, list(names)):
        message, topic = messages.deserialize(entry.data, kind), names[name]
        stamp_ns = messages.stamp_of(message)
        if topic.qos == "image":
            pictures.setdefault(stamp_ns, entry.publish_time)
        elif topic == GUARD_STATE:
            source = int(messages.read_named_scalars(message)["source"])
            states.append(State(stamp_ns, source == Source.POLICY))
        elif topic == DECISION:
            decisions[stamp_ns] = messages.read_named_scalars(message)
        else:
            commands.append((stamp_ns, entry.log_time))
    return _ticks(pictures, sorted(commands), states, decisions)


def _entries(path: Path, names: Sequence[str]) -> Iterator[tuple[str, str, Message]]:
    """(topic, type, MCAP message) of an episode; efm's own reader knows no time of sending."""
    for file in sorted(path.glob("*.mcap")):
        with file.open("rb") as stream:
            for schema, channel, message in make_reader(stream).iter_messages(names):
                if schema is not None:
                    yield channel.topic, schema.name, message


def _ticks(
    pictures: Mapping[int, int],
    commands: Sequence[tuple[int, int]],
    states: Sequence[State],
    decisions: Mapping[int, Mapping[str, float]],
) -> PathTicks:
    pairs = pair_commands(states, [sent for sent, _ in commands], frozenset(pictures))
    answered = sorted(stamp for stamp in pairs if stamp in decisions)
    if not answered:
        return PathTicks((), (), 0)
    ticks = []
    for stamp in answered:
        sent, received = commands[pairs[stamp]]
        scalars = decisions[stamp]
        after = [(time_ns - stamp) / 1e9 for time_ns in (pictures[stamp], sent, received)]
        missed = scalars["deadline_missed"] > 0.5
        ticks.append(Tick(stamp, *after, scalars["inference"], scalars["latency"], missed))
    within = [stamp for stamp in pictures if answered[0] <= stamp <= answered[-1]]
    undecided = sum(stamp not in decisions for stamp in within)
    unanswered = tuple(sorted(set(within) - set(answered)))
    return PathTicks(tuple(ticks), unanswered, undecided)
