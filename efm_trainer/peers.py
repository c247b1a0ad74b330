"""Who of several processes is alive, who failed and who is behind: signs of life in a store."""

from __future__ import annotations

import logging
import os
import threading
import time

from torch.distributed.distributed_c10d import Store

_log = logging.getLogger(__name__)

_BEAT_S = 0.5
_MISSED = 60
"""Beats missed, as counted by a process that itself ran all the time, after which one is dead."""
_SUSPECT = 4
"""Beats missed after which one is to blame for a connection that broke."""
_GRACE_S = 10.0
"""How long a process has to end in order when another is lost, in s; then it is ended."""
_OVER = b"over"


class PeerLostError(ConnectionError):
    """Another process failed, died or hangs; says which. What was saved can be resumed."""


class ToldElsewhereError(ConnectionError):
    """The error that ended this process was told by the named one already."""


class PeerWatch:
    """A thread that gives signs of life, reads those of the others and ends what cannot go on.

    A collective over gloo breaks when a process dies, one over nccl or beside a stopped process
    just waits: then this process is ended, with a line in the log, `_GRACE_S` after it is known.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        """store: reached by all; nothing else writes there."""
        self.names = ["?"] * size
        self._store, self._rank, self._size = store, rank, size
        self._arrived = 0
        self._beats = 0
        self._seen = [b""] * size
        self._missed = [0] * size
        self._failure: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self._beat()

    def start(self) -> None:
        """Begin; all processes have made theirs, and `names` is known."""
        self._thread.start()

    def stop(self) -> None:
        """End; this process is not missed from now on."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._store.set(self._key(self._rank), _OVER)
        except RuntimeError as error:
            _log.debug("the store is gone: %s", error)

    def arrive(self) -> None:
        """Count a collective that this process is about to enter: who counts less is behind."""
        self._arrived += 1

    def fail(self, error: BaseException | None) -> str | None:
        """Tell the others what ended this process; gives the name of who told before, if any."""
        try:
            if self._store.add("failures", 1) == 1:
                told = " ".join(str(error).split()) or type(error).__name__
                self._store.set("failed", f"{self._name(self._rank)}\n{told}")
                return None
            told_by: str = self._store.get("failed").decode().split("\n")[0]
            return told_by
        except RuntimeError as gone:
            _log.debug("the store is gone: %s", gone)
            return None

    def why(self, error: RuntimeError) -> str:
        """A collective broke off with `error`: says who is to blame, after a few beats."""
        limit = time.monotonic() + 2 * _SUSPECT * _BEAT_S
        while time.monotonic() < limit and not self._over.wait(_BEAT_S):
            if self._failure is not None:
                return self._failure
            silent = [r for r in range(self._size) if self._missed[r] >= _SUSPECT]
            if silent:
                return self._lost(silent, "died")
        counts = [int(seen.split()[1]) if b" " in seen else self._arrived for seen in self._seen]
        behind = [r for r, count in enumerate(counts) if count < self._arrived]
        if behind:
            return self._lost(behind, "did not come in time")
        return f"{self._name(self._rank)} cannot reach the others: {str(error).splitlines()[0]}"

    def _run(self) -> None:
        while not self._over.wait(_BEAT_S):
            try:
                self._beat()
                self._look()
            except RuntimeError:
                self._failure = self._failure or self._lost([0], "cannot be reached: it died, or")
            if self._failure is not None:
                break
        if self._over.wait(_GRACE_S) or self._failure is None:
            return
        _log.critical("efm train: %s", self._failure)
        logging.shutdown()
        os._exit(1)  # the main thread waits in a call that nothing can interrupt

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(self._key(self._rank), f"{self._beats} {self._arrived}")

    def _look(self) -> None:
        if self._store.check(["failed"]):
            name, _, told = self._store.get("failed").decode().partition("\n")
            self._failure = f"{name} failed: {told}"
            return
        found = self._store.multi_get([self._key(rank) for rank in range(self._size)])
        for rank, beat in enumerate(found):
            same = beat == self._seen[rank] and beat != _OVER
            self._missed[rank] = self._missed[rank] + 1 if same else 0
            self._seen[rank] = beat
        silent = [rank for rank in range(self._size) if self._missed[rank] >= _MISSED]
        if silent:
            seconds = _MISSED * _BEAT_S
            self._failure = self._lost(silent, f"gave no sign of life for {seconds:.0f} s")

    def _lost(self, ranks: list[int], what: str) -> str:
        names = " and ".join(self._name(rank) for rank in ranks)
        return f"{names} {what}; start again: training goes on from the last resume point"

    def _name(self, rank: int) -> str:
        return f"rank {rank} of {self._size} ({self.names[rank]})"

    def _key(self, rank: int) -> str:
        return f"beat/{rank}"
