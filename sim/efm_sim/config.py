"""Everything that can be chosen about the simulated world, checked at once."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from efm_sim import arm
from efm_sim.tasks import ALL_BLOCKS, DEFAULT_BLOCKS


class Workspace(BaseModel):
    """A rectangle of the board, low and high corner (x, y) in m, base frame."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: tuple[float, float] = (0.20, -0.20)
    high: tuple[float, float] = (0.60, 0.20)

    @model_validator(mode="after")
    def _corners_are_ordered_and_reachable(self) -> Workspace:
        if self.high[0] - self.low[0] < 0.2 or self.high[1] - self.low[1] < 0.2:
            raise ValueError(f"workspace low={self.low} high={self.high}: sides must be >= 0.2 m")
        far = max(math.hypot(x, y) for x in (self.low[0], self.high[0])
                  for y in (self.low[1], self.high[1]))
        if far >= arm.UPPER + arm.FORE or self.low[0] < 0.05:
            raise ValueError(
                f"workspace low={self.low} high={self.high}: the arm reaches x >= 0.05 m and "
                f"{arm.UPPER + arm.FORE:.2f} m from its base; choose a smaller rectangle"
            )
        return self


class WorldConfig(BaseModel):
    """Everything that can be chosen about the world.

    image_width, image_height: camera picture in pixels. physics_hz: physics steps per second, a
    multiple of control_hz. blocks_in_play: names of ALL_BLOCKS. max_step_m: longest displacement
    per axis and control period. camera_margin_m: board seen beyond the workspace on each side.
    supersampling: rendered samples per pixel side. shadows: cast shadows (slow).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_width: Annotated[int, Field(ge=16, le=2048)] = 64
    image_height: Annotated[int, Field(ge=16, le=2048)] = 64
    physics_hz: Annotated[int, Field(ge=60, le=2000)] = 120
    control_hz: Annotated[int, Field(ge=1, le=100)] = 10
    blocks_in_play: Annotated[tuple[str, ...], Field(min_length=2, max_length=16)] = DEFAULT_BLOCKS
    workspace: Workspace = Workspace()
    max_step_m: Annotated[float, Field(gt=0.0, le=0.1)] = 0.02
    camera_margin_m: Annotated[float, Field(ge=0.0, le=0.5)] = 0.015
    supersampling: Annotated[int, Field(ge=1, le=4)] = 2
    shadows: bool = False

    @model_validator(mode="after")
    def _values_fit_together(self) -> WorldConfig:
        unknown = [name for name in self.blocks_in_play if name not in ALL_BLOCKS]
        if unknown or len(set(self.blocks_in_play)) != len(self.blocks_in_play):
            raise ValueError(
                f"blocks_in_play={list(self.blocks_in_play)}: unknown {unknown} or repeated; "
                f"choose different names from {list(ALL_BLOCKS)}"
            )
        if self.physics_hz % self.control_hz:
            raise ValueError(
                f"physics_hz={self.physics_hz} must be a multiple of control_hz={self.control_hz}"
            )
        return self

    @property
    def substeps(self) -> int:
        """Physics steps in one control period."""
        return self.physics_hz // self.control_hz
