"""One tick of a lockstep world: what must have come before it may move."""

from __future__ import annotations

Velocity = tuple[float, float]

_HOLD = 0


class Turn:
    """Collects the answers to the observation of one stamp.

    The world moves once command, guard/state and episode/tick of this very stamp are there. A
    still tick asks for the arm at rest: an answer from the policy that was given before the
    episode ended is waited out until the guard has replaced it by a hold (`settle` gives up).
    """

    def __init__(self) -> None:
        self.begin(-1)

    def begin(self, stamp_ns: int) -> None:
        """A new observation was sent, stamped `stamp_ns` (ns)."""
        self.stamp_ns = stamp_ns
        self._velocity: Velocity | None = None
        self._source: int | None = None
        self._ticked = False
        self._still = False

    def hear_command(self, stamp_ns: int, velocity: Velocity) -> None:
        """A command in m/s, base frame; the newest of this stamp counts."""
        if stamp_ns == self.stamp_ns:
            self._velocity = velocity

    def hear_guard(self, stamp_ns: int, source: int) -> None:
        """The guard's account of its command (0 = hold)."""
        if stamp_ns == self.stamp_ns:
            self._source = source

    def hear_tick(self, stamp_ns: int, still: bool) -> None:
        """The manager's go-ahead."""
        if stamp_ns == self.stamp_ns:
            self._ticked, self._still = True, still

    def settle(self) -> None:
        """Nothing more came for long: take what the guard said last."""
        self._still = False

    def due(self) -> Velocity | None:
        """The velocity to move with now, None while something is missing."""
        if not self._ticked or self._velocity is None or self._source is None:
            return None
        if self._still and (self._source != _HOLD or self._velocity != (0.0, 0.0)):
            return None
        return self._velocity
