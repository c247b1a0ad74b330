"""Where episodes begin and end in a recording, what was asked for and how it was judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from efm_core.cutting.mapping import (
    CutMapping,
    Interval,
    LabelTopic,
    MappingError,
    MarkedEpisodes,
    Marker,
    TextTopic,
)
from efm_core.cutting.scan import Scan

Events = list[tuple[int, Any]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An episode to cut: [start_ns, end_ns], both included.

    problem: why it cannot be, "" when it can.
    """

    start_ns: int
    end_ns: int
    instruction: str = ""
    success: bool | None = None
    problem: str = ""


def wanted_episodes(mapping: CutMapping, scan: Scan, bag: str) -> list[Wanted]:
    """The episodes of a recording in order. Raises MappingError when a list has another length.

    bag: name of its folder.
    """
    spans = list(_spans(mapping, scan, bag))
    whole = [span for span in spans if not span.problem]
    for field in ("instruction", "success"):
        given = getattr(mapping, field)
        if isinstance(given, tuple) and len(given) != len(whole):
            raise MappingError(
                f"{field}: the mapping lists {len(given)}, {bag} holds {len(whole)} episodes; "
                "give one for each, a topic, or one for all"
            )
    place, found = 0, []
    for span in spans:
        found.append(span if span.problem else _described(mapping, scan, span, place))
        place += not span.problem
    return found


def _spans(mapping: CutMapping, scan: Scan, bag: str) -> Iterator[Wanted]:
    stamps = [p.stamp_ns for p in next(iter(scan.pictures.values()))]
    if not stamps:
        return
    first, last = min(stamps), max(stamps)
    if mapping.episodes == "whole":
        yield Wanted(first, last)
    elif isinstance(mapping.episodes, MarkedEpisodes):
        yield from marked(mapping.episodes, scan.events, first, last)
    else:
        for interval in mapping.episodes:
            if interval.bag in ("", bag):
                yield _timed(interval, scan.begin_ns, last)


def _timed(interval: Interval, begin_ns: int, last_ns: int) -> Wanted:
    start = begin_ns + round(interval.start * 1e9)
    end = begin_ns + round(interval.end * 1e9)
    problem = ""
    if start >= last_ns:
        problem = f"begins at {interval.start:g} s, the pictures end before"
    return Wanted(start, end, interval.instruction, interval.success, problem)


def marked(
    episodes: MarkedEpisodes, events: dict[str, Events], first: int, last: int
) -> Iterator[Wanted]:
    """Episodes between markers; first, last: stamps of the recording's pictures, ns."""
    order = {"discard": 0, "end": 1, "start": 2}  # at one instant an end comes before a start
    moments = sorted(
        (at, order[role], role) for role in order for at in _moments(role, episodes, events)
    )
    begun: int | None = first if episodes.start is None else None
    for at, _, role in moments:
        if role == "start":
            if begun is not None and episodes.end is None:
                yield Wanted(begun, at - 1)
            elif begun is not None:
                problem = "it begins and another begins before it ends; mark it as discarded"
                yield Wanted(begun, at, problem=problem)
            begun = at
        elif role == "end" and begun is not None:
            yield Wanted(begun, at)
            begun = at if episodes.start is None else None
        elif role == "discard":
            begun = at if episodes.start is None else None
    if begun is not None and episodes.end is None:
        yield Wanted(begun, last)
    elif begun is not None and episodes.start is not None:
        yield Wanted(begun, last, problem="it begins and is never ended; give it by its times")


def _moments(role: str, episodes: MarkedEpisodes, events: dict[str, Events]) -> Iterator[int]:
    marker: Marker | None = getattr(episodes, role)
    if marker is None:
        return
    matched = False
    for at, value in sorted(events.get(marker.topic, []), key=lambda event: event[0]):
        now = marker.equals is None or value == marker.equals
        # A status repeats its value: its turning to it is the moment.
        if now and (marker.equals is None or not matched):
            yield at
        matched = now


def _described(mapping: CutMapping, scan: Scan, span: Wanted, place: int) -> Wanted:
    instruction = span.instruction or _instruction(mapping, scan, span, place)
    success = span.success
    if success is None:
        success = _success(mapping, scan, span, place)
    problem = ""
    if not instruction.strip():
        problem = "nobody says what was asked for; give the mapping an instruction"
    return Wanted(span.start_ns, span.end_ns, instruction, success, problem)


def _instruction(mapping: CutMapping, scan: Scan, span: Wanted, place: int) -> str:
    given = mapping.instruction
    if isinstance(given, tuple):
        return given[place]
    if not isinstance(given, TextTopic):
        return given
    heard = sorted(scan.events[given.topic], key=lambda event: event[0])
    before = [text for at, text in heard if at <= span.start_ns]
    within = [text for at, text in heard if span.start_ns < at <= span.end_ns]
    return str(before[-1]) if before else str(within[0]) if within else ""


def _success(mapping: CutMapping, scan: Scan, span: Wanted, place: int) -> bool | None:
    given = mapping.success
    if isinstance(given, tuple):
        return given[place]
    if not isinstance(given, LabelTopic):
        return given
    whole = mapping.episodes == "whole"  # whatever the bag says is about its one episode
    until = span.end_ns + round(given.within * 1e9)
    heard = sorted(scan.events[given.topic], key=lambda event: event[0])
    verdicts = [
        value == given.success
        for at, value in heard
        if (whole or span.start_ns <= at <= until) and value in (given.success, given.failure)
    ]
    return verdicts[-1] if verdicts else None
