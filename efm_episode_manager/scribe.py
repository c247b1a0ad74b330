"""The bag of the running episode: opened at its start, finished in a worker thread."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from efm_core.bags import EpisodeWriter
from efm_core.camera_ledger import excess_loss
from efm_core.episode import EpisodeRecord
from efm_core.topics import Topic
from efm_episode_manager.recorder import Recorder
from efm_episode_manager.session import Session
from efm_episode_manager.settings import ManagerSettings
from efm_episode_manager.truth_label import truth_label

Job = Callable[[], "Path | None"]


class Scribe:
    """Owns the recorder and the writer of the episode that it hears."""

    def __init__(self, settings: ManagerSettings, topics: tuple[Topic, ...]) -> None:
        self._settings = settings
        self._prefix = f"/{settings.robot}/"
        self._topics = {self._prefix + t.name: (t.type, t.qos) for t in topics}
        self.recorder = Recorder(
            topics, self._prefix, settings.lockstep, settings.camera_descriptions
        )
        self._writer: EpisodeWriter | None = None

    def free_space(self) -> int:
        """Bytes free below the data directory."""
        return shutil.disk_usage(self._settings.data_dir).free

    def open(self, session: Session, data_set: Path) -> None:
        """Begin the bag of `session`.

        Raises efm_core.bags.DiskFullError below the reserve, OSError when the disk refuses.
        """
        data_set.mkdir(parents=True, exist_ok=True)
        self._writer = EpisodeWriter(
            data_set,
            session.record,
            self._topics,
            reserve_bytes=self._settings.reserve_bytes,
        )
        self.recorder.start(self._writer, session.grid, ANSWERS)

    def close(self, session: Session) -> Job:
        """Stop recording; the job that finishes the bag and returns its directory.

        The job returns None for a discarded episode and raises what the writer raises.
        """
        writer, self._writer = self._writer, None
        assert writer is not None
        record = session.record
        record.topics = self.recorder.stop(record.start_ns, record.end_ns)
        record.unusable = self._too_much_lost(record)
        truth = self.recorder.truth
        grid = session.grid

        def job() -> Path | None:
            if session.discarded:
                writer.discard()
                return None
            record.labels.truth = truth_label(truth, grid, record.ticks)
            return writer.finish(record)

        return job


    def _too_much_lost(self, record: EpisodeRecord) -> str:
        if self._settings.lockstep:
            return ""
        complaints = (
            excess_loss(camera, record.topics[self._prefix + camera.topic.name])
            for camera in self._settings.camera_descriptions
        )
        return "; ".join(filter(None, complaints))


ANSWERS = frozenset({"policy/action_chunk", "policy/decision", "reward/state"})
"""Topics whose frame_id says which episode or version they belong to."""
