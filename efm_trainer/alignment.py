"""Messages of one bag -> the rows of an `EpisodeData`: everything is paired by stamp."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efm_core import messages
from efm_core.actions import ActionSpace
from efm_core.camera_intake import Frame
from efm_core.episode import EpisodeRecord
from efm_core.observation import Decision
from efm_trainer.episode_data import SOURCE_NONE, EpisodeData
from efm_trainer.pictures import CameraTrack, Inputs, StateTrack, restamp
from efm_trainer.stored_pictures import Pictures, decoded


@dataclass(slots=True)
class _HeardDecision:
    version: str
    decision: Decision


@dataclass(slots=True)
class HeardMessages:
    """Messages by role and stamp (ns); of a repeated stamp the first counts.

    record: whose cameras and tolerances say how pictures and state are judged and paired.
    """

    space: ActionSpace
    record: EpisodeRecord
    cameras: dict[str, CameraTrack] = field(default_factory=dict)
    state: dict[str, StateTrack] = field(default_factory=dict)
    decision: dict[int, _HeardDecision] = field(default_factory=dict)
    guard: dict[int, dict[str, float]] = field(default_factory=dict)
    reward: dict[int, tuple[str, float]] = field(default_factory=dict)
    inputs: dict[int, Inputs] = field(default_factory=dict)

    def take(self, role: str, message: Any, received_ns: int = 0) -> None:
        """File one message under its role, received by the recorder at a wall time in ns.

        role: image/<camera>, state/<source>, decision, guard or reward.
        """
        if role.startswith("image/"):
            self._camera(role.removeprefix("image/")).take(message, received_ns)
            return
        if role.startswith("state/"):
            source = role.removeprefix("state/")
            self.state.setdefault(source, StateTrack(source, self.record)).take(message)
            return
        stamp, scalars = messages.stamp_of(message), messages.read_named_scalars(message)
        if role == "decision":
            version, decision = messages.read_decision(message, self.space)
            self.decision.setdefault(stamp, _HeardDecision(version, decision))
        elif role == "reward":
            self.reward.setdefault(stamp, (message.header.frame_id, scalars["steps_to_go"]))
        else:
            self.guard.setdefault(stamp, scalars)
            return
        found = Inputs(*messages.read_inputs(scalars))
        if found.offsets:
            self.inputs.setdefault(stamp, found)

    def _camera(self, name: str) -> CameraTrack:
        if name not in self.cameras:
            self.cameras[name] = CameraTrack(name, self.record)
        return self.cameras[name]

    def assemble(
        self,
        record: EpisodeRecord,
        cameras: Sequence[str],
        join: Callable[[Sequence[Frame]], Pictures] = decoded,
    ) -> EpisodeData:
        """Pair everything by stamp. Raises ValueError when a camera recorded nothing.

        join: a camera's frames, one per row -> what `EpisodeData.images` holds.
        """
        for camera in cameras:
            if not self._camera(camera):
                raise ValueError(f"camera '{camera}' has no image; check the camera names")
        answered = set(self.decision) | set(self.reward)
        primary = self.cameras[cameras[0]]
        restamp(primary, {t: i for t, i in self.inputs.items() if t in answered})
        period = 1e9 / record.rate
        rows = _control_rows([t for t in primary.stamps if t >= record.start_ns], answered, period)
        stamps = [t for t in rows if self._complete(t, cameras)]
        if not stamps:
            raise ValueError(f"camera '{cameras[0]}' has no image from {record.start_ns} ns on")
        guard = [self._guard(t, t + period) for t in stamps]
        heard = [self.decision.get(t) for t in stamps]
        tokens = self.space.tokens
        none = np.full(tokens, -1, dtype=np.int64)
        last = record.start_ns + (record.ticks + 0.5) * period
        return EpisodeData(
            record=record,
            space=self.space,
            images={c: join([self._frame(c, t) for t in stamps]) for c in cameras},
            state=_columns([self._state(t) for t in stamps]),
            stamps=np.array(stamps, dtype=np.int64),
            bins=np.stack([h.decision.bins.reshape(tokens) if h else none for h in heard]),
            log_prob=np.array([h.decision.log_prob if h else np.nan for h in heard]),
            temperature=np.array([h.decision.temperature if h else np.nan for h in heard]),
            policy_versions=tuple(h.version if h else "" for h in heard),
            executed=np.stack([g[0] for g in guard]),
            source=np.array([g[1] for g in guard], dtype=np.int64),
            modified=np.array([g[2] for g in guard], dtype=bool),
            steps_to_go=np.array([self.reward.get(t, ("", np.nan))[1] for t in stamps]),
            reward_versions=tuple(self.reward.get(t, ("", np.nan))[0] for t in stamps),
            end_row=max(int(np.searchsorted(stamps, last)) - 1, 0),
        )

    def _complete(self, stamp: int, cameras: Sequence[str]) -> bool:
        inputs = self.inputs.get(stamp)
        return all(self.cameras[camera].find(stamp, inputs) is not None for camera in cameras)

    def _frame(self, camera: str, stamp: int) -> Frame:
        used = self.cameras[camera].find(stamp, self.inputs.get(stamp))
        assert used is not None  # rows without it were dropped by _complete
        return used

    def _state(self, stamp: int) -> dict[str, float]:
        inputs = self.inputs.get(stamp)
        found: dict[str, float] = {}
        for track in self.state.values():
            found.update(track.find(stamp, inputs))
        return found

    def _guard(self, start: int, end: float) -> tuple[NDArray[np.float64], int, bool]:
        """Executed (D,), source and modified over one period.

        Lockstep stamps its answer exactly with the observation; in real time the guard ticks
        faster than the policy, and a period counts as one source only if it was that throughout.
        """
        exact = self.guard.get(start)
        states = [exact] if exact else [s for t, s in self.guard.items() if start <= t < end]
        if not states:
            return np.full(self.space.size, np.nan), SOURCE_NONE, False
        names = [f"executed/{name}" for name in self.space.names]
        executed = np.array([[s[name] for name in names] for s in states])
        sources = {int(s["source"]) for s in states}
        source = sources.pop() if len(sources) == 1 else SOURCE_NONE
        value = executed.mean(axis=0) if self.space.kind == "delta" else executed[-1]
        return value, source, any(s["modified"] > 0.5 for s in states)


def _control_rows(stamps: Sequence[int], wanted: set[int], period: float) -> list[int]:
    """Image stamps at the control rate.

    A camera faster than the policy gives more images than decisions: kept are those that a
    decision or a reward answered, and, where nothing answered (demonstrations), one per period.
    """
    if len(stamps) < 3 or float(np.median(np.diff(stamps))) >= 0.75 * period:
        return list(stamps)
    answered = [t for t in stamps if t in wanted]
    if answered:
        return answered
    kept = [stamps[0]]
    for stamp in stamps[1:]:
        if stamp - kept[-1] >= 0.9 * period:
            kept.append(stamp)
    return kept


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Rows of named scalars -> name -> float64 (N,), NaN where a row lacks the name."""
    names = sorted({name for row in rows for name in row})
    return {n: np.array([row.get(n, np.nan) for row in rows], dtype=np.float64) for n in names}
