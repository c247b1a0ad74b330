"""A list of episodes drawn in advance: what each robot of a fleet is to do next.

A round of practice closes when every robot has saved its listed episodes, so no short (successful)
episode can crowd out a long one. The trainer, the recorder and the demo publish plans on
`/fleet/plan`; every episode manager executes its own robot's list and reports how far it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from efm_core.episode import Mode


class PlannedEpisode(BaseModel):
    """One episode to run.

    instruction: None lets the robot's reset choose (a simulator draws one from the seed; on a real
        robot the manager draws from its configured list).
    scene: JSON-compatible description handed to the reset (a simulator takes seed, instruction,
        state, or present: true for the scene as it lies, or lasting: true for the scene as it
        lies if the robot's reset finds it usable, else a drawn one); empty on a real robot.
    limit: control ticks before `timeout`.
    repeats: id of a recorded episode whose random numbers to draw again, in one process alone;
        "" elsewhere, because an id on a robot is never used twice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: Annotated[int, Field(ge=0)]
    instruction: str | None = None
    scene: dict[str, Any] = Field(default_factory=dict)
    limit: Annotated[int, Field(ge=1)] = 60
    split: Literal["train", "validation", "none"] = "train"
    repeats: str = ""

    @property
    def lasting(self) -> bool:
        """Whether it begins from where the last one left the robot's scene."""
        return bool(self.scene.get("lasting"))


class EpisodePlan(BaseModel):
    """Episodes for a fleet, all run with the same policy and reward version.

    temperature: the policy's sampling temperature for these episodes.
    seed: seed of the decision draws (see `efm_core.observation.draws`).
    end_on_success: whether the detector ends the episode (True in practice; evaluation goes on).
    misses: after so many failures of a robot in a row, by its own detector, a scene that was to
        last is reset in full; 0 never.
    data_set: folder below the data root that the episodes are written to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")]
    mode: Mode
    round: int = -1
    policy_version: str = ""
    reward_version: str = ""
    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = 0.8
    seed: int = 0
    end_on_success: bool = True
    misses: Annotated[int, Field(ge=0)] = 0
    data_set: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")] = "practice"
    episodes: dict[str, tuple[PlannedEpisode, ...]]
