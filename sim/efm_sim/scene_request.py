"""The parameter `scene`: JSON that says what the next reset shall make."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class SceneRequest(BaseModel):
    """How to begin the next episode.

    seed: of the start scene, None for the next of the node's own. instruction: None draws one
    from the seed. state: what `World.save_state` gave, instead of a drawn scene. present: the
    scene stays as it lies, with another instruction; the `draw`-th from the seed where none is
    given. lasting: the blocks stay where they lie if one can go on from there, with another
    instruction, else a start scene is drawn and reset/status says why (`reason`).
    request: told back on reset/status. not_before_ns: earliest first stamp, in lockstep.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int | None = None
    instruction: str | None = None
    state: dict[str, Any] | None = None
    present: bool = False
    lasting: bool = False
    draw: int = Field(default=0, ge=0)
    request: str | None = None
    not_before_ns: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_scene(self) -> SceneRequest:
        if self.present and self.state is not None:
            raise ValueError("present keeps the scene as it lies; leave state out")
        if self.lasting and (self.present or self.state is not None):
            raise ValueError("lasting decides by itself; leave present and state out")
        return self

    @classmethod
    def read(cls, text: str) -> SceneRequest:
        """From the parameter's text. Raises ValueError that names the field."""
        try:
            return cls.model_validate_json(text or "{}")
        except ValidationError as error:
            found = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'JSON'}: {e['msg']}" for e in error.errors()
            )
            raise ValueError(
                f"parameter scene: {found}; expected an object with seed, instruction or state"
            ) from error
