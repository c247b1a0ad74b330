"""Messages of one bag -> the rows of an `EpisodeData`: everything is paired by stamp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efm_core import messages
from efm_core.actions import ActionSpace
from efm_core.episode import EpisodeRecord
from efm_core.observation import Decision
from efm_trainer.episode_data import SOURCE_NONE, EpisodeData


@dataclass(slots=True)
class _HeardDecision:
    version: str
    decision: Decision
    offsets: dict[str, float]


@dataclass(slots=True)
class HeardMessages:
    """Messages by role and stamp (ns); of a repeated stamp the first counts."""

    space: ActionSpace
    images: dict[str, dict[int, NDArray[np.uint8]]] = field(default_factory=dict)
    state: dict[int, dict[str, float]] = field(default_factory=dict)
    decision: dict[int, _HeardDecision] = field(default_factory=dict)
    guard: dict[int, dict[str, float]] = field(default_factory=dict)
    reward: dict[int, tuple[str, float]] = field(default_factory=dict)

    def take(self, role: str, message: Any) -> None:
        """File one message under its role: image/<camera>, state, decision, guard or reward."""
        stamp = messages.stamp_of(message)
        if role.startswith("image/"):
            camera = self.images.setdefault(role.removeprefix("image/"), {})
            camera.setdefault(stamp, messages.read_image(message))
        elif role == "decision":
            version, decision = messages.read_decision(message, self.space)
            scalars = messages.read_named_scalars(message)
            offsets = {n[7:]: v for n, v in scalars.items() if n.startswith("offset/")}
            self.decision.setdefault(stamp, _HeardDecision(version, decision, offsets))
        elif role == "reward":
            mean = messages.read_named_scalars(message)["steps_to_go"]
            self.reward.setdefault(stamp, (message.header.frame_id, mean))
        else:
            kept = self.state if role == "state" else self.guard
            kept.setdefault(stamp, messages.read_named_scalars(message))

    def assemble(self, record: EpisodeRecord, cameras: Sequence[str]) -> EpisodeData:
        """Pair everything by stamp. Raises ValueError when a camera recorded nothing."""
        for camera in cameras:
            if not self.images.get(camera):
                raise ValueError(f"camera '{camera}' has no image; check the camera names")
        primary = sorted(t for t in self.images[cameras[0]] if t >= record.start_ns)
        wanted = set(self.decision) | set(self.reward)
        period = 1e9 / record.rate
        stamps = [t for t in _control_rows(primary, wanted, period) if self._complete(t, cameras)]
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
            images={c: np.stack([self._image(c, t) for t in stamps]) for c in cameras},
            state=_columns([self.state.get(t, {}) for t in stamps]),
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

    def _image_stamp(self, camera: str, stamp: int) -> int | None:
        """The stamp of `camera`'s image that the policy used with the observation at `stamp`."""
        if stamp in self.images[camera]:
            return stamp
        heard = self.decision.get(stamp)
        if heard is not None and camera in heard.offsets:
            target = stamp + round(heard.offsets[camera] * 1e9)
            near = min(self.images[camera], key=lambda t: abs(t - target))
            return near if abs(near - target) <= 1000 else None
        before = [t for t in self.images[camera] if t < stamp]
        return max(before, default=None)

    def _complete(self, stamp: int, cameras: Sequence[str]) -> bool:
        return all(self._image_stamp(camera, stamp) is not None for camera in cameras)

    def _image(self, camera: str, stamp: int) -> NDArray[np.uint8]:
        used = self._image_stamp(camera, stamp)
        assert used is not None  # rows without it were dropped by _complete
        return self.images[camera][used]

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
