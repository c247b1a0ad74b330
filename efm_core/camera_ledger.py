"""What became of every picture of one camera: received + dropped + repeated + late = expected."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from efm_core.camera_description import CameraDescription
from efm_core.episode import TopicCounts

FUTURE_NS = 100_000_000
"""A stamp further ahead of the clock than this, in ns, is refused."""
_SECOND = 1_000_000_000
_REMEMBERED = 256


class Arrival(IntEnum):
    """What a picture is, in the order in which it is asked; each is one of them."""

    REPEATED = 0
    LATE = 1
    REFUSED = 2
    ON_TIME = 3


class Verdict(NamedTuple):
    """What a picture is, the stamp to use (ns), and why if not on time or not as stamped.

    reason: reordered or delayed (late); the wrong field (refused); zero, frozen or ahead where
    the receive time is used instead of the stamp.
    """

    arrival: Arrival
    stamp_ns: int
    reason: str = ""


def summary(counts: TopicCounts) -> dict[str, int]:
    """The counts of a topic as status topics give them: expected = received + dropped + ..."""
    return {
        "expected": counts.expected, "received": counts.on_time, "dropped": counts.dropped,
        "repeated": counts.repeated, "late": counts.late, "refused": counts.refused,
        "restamped": counts.restamped,
    }  # fmt: skip


def excess_loss(description: CameraDescription, counts: TopicCounts) -> str:
    """Why an episode with these counts is of no use for learning, "" when it is of use."""
    lost, sent = counts.dropped + counts.late, counts.expected - counts.repeated
    if not sent:
        return f"camera '{description.name}': no picture came"
    if lost <= description.max_loss * sent:
        return ""
    return (
        f"camera '{description.name}': {lost} of {sent} pictures were lost or late, max_loss is "
        f"{description.max_loss:g}"
    )


class FrameLedger:
    """Judges the pictures of one camera by their stamps and counts them.

    Real time (`lockstep` False): all times are wall time, ns. Missing are the pictures that a gap
    of n periods between two stamps leaves out, round(n) - 1; one that comes later after all
    changes from missing to late. So the sum is exact while two consecutive stamps jitter by less
    than half a period. Dropped = missing + refused.

    Lockstep: the world waits and asks again, so nothing is missing, late or refused by its stamp.
    """

    def __init__(self, description: CameraDescription, lockstep: bool) -> None:
        self._period_ns = _SECOND / description.rate
        self._max_age_ns = description.max_age * _SECOND
        self._lockstep = lockstep
        self.reasons: Counter[str] = Counter()
        self._header: int | None = None  # the last stamp in order, of use or not
        self.begin()

    def begin(self) -> None:
        """Count from zero: an episode begins."""
        self._arrivals = [0] * len(Arrival)
        self._missing = 0
        self._restamped = 0
        self._first_ns: int | None = None  # receipt of the first
        self._last_ns = 0  # and of the last
        self.reasons.clear()
        self.resume()

    def resume(self) -> None:
        """Go on counting with stamps that may begin anew: the clock or the camera was changed."""
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._newest: int | None = None  # stamp in order
        self._since = 0  # pictures since then that came without a stamp of use, or are missing
        self._followed_ns: int | None = None  # receipt of the last in order

    def take(
        self,
        stamp_ns: int,
        received_ns: int,
        problem: str = "",
        same: Callable[[], bool] = bool,
    ) -> Verdict:
        """Judge and count one picture.

        problem: the field that is wrong with it, "" for none. same: whether its contents are
        those of the last picture in order; asked in real time, when the stamps are.
        """
        verdict = self._judge(stamp_ns, received_ns, problem, same)
        self._arrivals[verdict.arrival] += 1
        if verdict.reason:
            self.reasons[verdict.reason] += 1
        if self._first_ns is None:
            self._first_ns = received_ns
        self._last_ns = received_ns
        return verdict

    def refuse(self, reason: str) -> None:
        """A picture counted as on time turned out to be unusable when it was decoded."""
        self._arrivals[Arrival.ON_TIME] -= 1
        self._arrivals[Arrival.REFUSED] += 1
        self.reasons[reason] += 1

    def counts(self, since_ns: int | None = None, until_ns: int | None = None) -> TopicCounts:
        """The counts so far.

        since_ns, until_ns: wall times between which pictures were expected; what is missing
        before the first and after the last that came is counted too. None: from the first, to
        the last.
        """
        missing = self._missing
        if self._first_ns is not None and not self._lockstep:
            first, last = self._first_ns, self._last_ns
            missing += self._gap(0 if since_ns is None else first - since_ns)
            begun = last if since_ns is None else max(last, since_ns)
            missing += self._gap(0 if until_ns is None else until_ns - begun)
        elif since_ns is not None and until_ns is not None and not self._lockstep:
            missing = max(round((until_ns - since_ns) / self._period_ns), 0)
        came = self._arrivals
        return TopicCounts(
            expected=sum(came) + missing,
            on_time=came[Arrival.ON_TIME],
            late=came[Arrival.LATE],
            repeated=came[Arrival.REPEATED],
            dropped=missing + came[Arrival.REFUSED],
            refused=came[Arrival.REFUSED],
            restamped=self._restamped,
        )

    def _judge(
        self, stamp_ns: int, received_ns: int, problem: str, same: Callable[[], bool]
    ) -> Verdict:
        if self._lockstep:
            return self._in_step(stamp_ns, problem)
        again = stamp_ns > 0 and stamp_ns == self._header
        frozen = again and not same()
        if not frozen and (again or stamp_ns in self._seen):
            return Verdict(Arrival.REPEATED, stamp_ns)
        ahead_ns = stamp_ns - received_ns
        if stamp_ns <= 0 or frozen or ahead_ns > FUTURE_NS:
            self._follow(None, received_ns)
        elif self._newest is not None and stamp_ns < self._newest:
            return self._overtaken(stamp_ns)
        else:
            self._follow(stamp_ns, received_ns)
        self._header = stamp_ns
        if problem:
            return Verdict(Arrival.REFUSED, received_ns, problem)
        if ahead_ns > FUTURE_NS:
            return Verdict(Arrival.REFUSED, received_ns, "future")
        if stamp_ns <= 0 or frozen or ahead_ns > 0:
            self._restamped += 1
            reason = "zero" if stamp_ns <= 0 else "frozen" if frozen else "ahead"
            return Verdict(Arrival.ON_TIME, received_ns, reason)
        if -ahead_ns > self._max_age_ns:
            return Verdict(Arrival.LATE, stamp_ns, "delayed")
        return Verdict(Arrival.ON_TIME, stamp_ns)

    def _in_step(self, stamp_ns: int, problem: str) -> Verdict:
        if stamp_ns in self._seen:
            return Verdict(Arrival.REPEATED, stamp_ns)
        self._remember(stamp_ns)
        if problem:
            return Verdict(Arrival.REFUSED, stamp_ns, problem)
        return Verdict(Arrival.ON_TIME, stamp_ns)

    def _overtaken(self, stamp_ns: int) -> Verdict:
        """A newer picture came before this one: it was counted as missing."""
        if min(self._seen) < stamp_ns and self._missing:
            self._missing -= 1
        self._remember(stamp_ns)
        return Verdict(Arrival.LATE, stamp_ns, "reordered")

    def _follow(self, stamp_ns: int | None, received_ns: int) -> None:
        """The next picture in order; stamp None: it has none of use.

        Gaps are measured between stamps, by receipts only where there are none: those jitter
        with the load of the machine. Between two stamps, `_since` are accounted for already.
        """
        if stamp_ns is not None and self._newest is not None:
            missed = max(self._gap(stamp_ns - self._newest) - self._since, 0)
        elif self._followed_ns is not None and (self._newest is None or self._since):
            missed = self._gap(received_ns - self._followed_ns)
        else:
            missed = 0
        self._missing += missed
        self._followed_ns = received_ns
        if stamp_ns is None:
            self._since += 1 + missed
        else:
            self._newest, self._since = stamp_ns, 0
            self._remember(stamp_ns)

    def _gap(self, gap_ns: int) -> int:
        """Pictures that belong into a gap between two others."""
        return max(round(gap_ns / self._period_ns) - 1, 0)

    def _remember(self, stamp_ns: int) -> None:
        self._seen[stamp_ns] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
