"""What a robot can be told to do, and how it is written as tokens.

An action space says names, units, order, frame, rate and limits once; the checkpoint carries
it, the guard enforces it, the bag records commands in its units.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator


class ActionDim(BaseModel):
    """One dimension of an action: a physical quantity with limits, written in `bins` tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    unit: str
    low: float
    high: float
    bins: Annotated[int, Field(ge=2, le=4096)] = 21

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> ActionDim:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"action dimension '{self.name}': low={self.low} must be finite and below "
                f"high={self.high}; mend the limits in the robot's configuration"
            )
        return self


class ActionSpace(BaseModel):
    """Names, units, order, frame, rate, chunk length and limits of a robot's actions.

    `kind` "delta": a value is a displacement within one control period (unit per tick).
    `kind` "absolute": a value is a target (unit as stated by each dimension).
    `frame` is the coordinate frame of the values, `rate` the control rate in Hz, `chunk` the
    number of consecutive actions that one decision holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dims: Annotated[tuple[ActionDim, ...], Field(min_length=1)]
    kind: Literal["delta", "absolute"] = "delta"
    frame: str = "base"
    rate: Annotated[float, Field(gt=0.0, le=1000.0)] = 10.0
    chunk: Annotated[int, Field(ge=1, le=200)] = 1

    @model_validator(mode="after")
    def _names_are_unique(self) -> ActionSpace:
        if len(set(self.names)) != len(self.dims):
            raise ValueError(f"action dimension names repeat: {self.names}; each must be unique")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Dimension names in order."""
        return tuple(d.name for d in self.dims)

    @property
    def size(self) -> int:
        """Number of dimensions D."""
        return len(self.dims)

    @property
    def tokens(self) -> int:
        """Tokens of one decision: chunk x D."""
        return self.chunk * self.size

    @property
    def low(self) -> NDArray[np.float64]:
        """Lower limits, float64 (D,), in each dimension's unit."""
        return np.array([d.low for d in self.dims])

    @property
    def high(self) -> NDArray[np.float64]:
        """Upper limits, float64 (D,), in each dimension's unit."""
        return np.array([d.high for d in self.dims])

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON: equal hashes mean interchangeable checkpoints."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def encode(self, values: ArrayLike) -> NDArray[np.int64]:
        """Values (..., D) in units -> nearest bin (..., D), int64 in 0..bins-1.

        Bin i stands for low + i * (high - low) / (bins - 1), so both limits and, with an odd
        number of bins and symmetric limits, exactly zero have a bin of their own
        (LanguageTable: sign and magnitude 0..10 = 21 values). Values outside are clipped.

        Raises ValueError for a wrong last dimension or a value that is not finite.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 0 or array.shape[-1] != self.size:
            raise ValueError(f"actions have shape {array.shape}, expected (..., {self.size})")
        if not np.all(np.isfinite(array)):
            raise ValueError("actions hold NaN or infinity; nothing was encoded")
        steps = np.array([d.bins - 1 for d in self.dims], dtype=np.float64)
        scaled = (array - self.low) / (self.high - self.low) * steps
        return np.clip(np.rint(scaled), 0, steps).astype(np.int64)

    def decode(self, bins: ArrayLike) -> NDArray[np.float64]:
        """Bins (..., D), integers -> values (..., D), float64, in units; inverse of `encode`.

        Raises ValueError for a wrong last dimension or a bin that does not exist.
        """
        array = np.asarray(bins)
        if array.ndim == 0 or array.shape[-1] != self.size:
            raise ValueError(f"bins have shape {array.shape}, expected (..., {self.size})")
        counts = np.array([d.bins for d in self.dims])
        if np.any(array < 0) or np.any(array >= counts):
            raise ValueError(f"bins outside 0..{(counts - 1).tolist()}")
        result: NDArray[np.float64] = self.low + array * ((self.high - self.low) / (counts - 1))
        return result
