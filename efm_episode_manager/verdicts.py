"""What a person says of the newest take: at once if it is saved, else as soon as it is."""

from __future__ import annotations

import logging
from pathlib import Path

from efm_episode_manager.afterwards import LastTake, put_away, relabel
from efm_episode_manager.core import Core
from efm_episode_manager.session import Session

_log = logging.getLogger(__name__)


class Verdicts:
    """Labels and discards the core's `last` take; without state of its own."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def ended(self, session: Session) -> None:
        """From now on `session` is the newest take."""
        self._core.last = LastTake(session, label=session.record.labels.operator)

    def saved(self, session: Session, path: Path) -> None:
        """It is on disk: do what was asked for meanwhile; a failure becomes the core's reason."""
        last = self._core.last
        if last is None or last.session is not session:
            return
        last.path = path
        try:
            if last.discarded:
                self.discard(last)
            elif last.label is not None and last.label is not session.record.labels.operator:
                self.label(last, last.label)
        except (OSError, ValueError) as error:
            self._core.reason = f"{path}: {error}"
            _log.error("%s", self._core.reason)

    def label(self, last: LastTake, success: bool) -> None:
        """Raises efm_core.bags.BagError for an unreadable record, OSError from the disk."""
        if last.path is not None:
            relabel(last.path, success, self._core.settings.operator_source)
        last.label = success
        self._core.publish_status()

    def discard(self, last: LastTake) -> None:
        """Throw it away. Raises OSError."""
        if last.path is not None:
            _log.info("discarded: %s", put_away(last.path))
            self._core.counters.discarded += 1
        last.discarded = True
        self._core.publish_status()
