"""Who of the robot's nodes was heard from lately, by a steady clock."""

from __future__ import annotations

from collections.abc import Iterable


class Liveness:
    """Steady times (s) at which each party was last heard.

    limit_s: silence longer than this means gone.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._heard: dict[str, float] = {}

    def hear(self, party: str, now_s: float) -> None:
        """`party` gave a sign of life."""
        self._heard[party] = now_s

    def expect(self, parties: Iterable[str], now_s: float) -> None:
        """Give every party its full time from now on."""
        for party in parties:
            self._heard[party] = now_s

    def forget(self, party: str) -> None:
        """`party` is known to be gone: it must be heard again before it counts as there."""
        self._heard.pop(party, None)

    def quietest(self, parties: Iterable[str], now_s: float) -> tuple[str, float]:
        """The one of `parties` not heard for longest, and for how long (s)."""
        silence = {p: now_s - self._heard.get(p, float("-inf")) for p in parties}
        return max(silence.items(), key=lambda item: item[1])

    def silent(self, parties: Iterable[str], now_s: float) -> list[str]:
        """Those of `parties` that were not heard within the limit, in the order given."""
        return [
            p for p in parties if p not in self._heard or now_s - self._heard[p] > self.limit_s
        ]
