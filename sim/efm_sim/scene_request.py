"""The parameter `scene`: JSON that says what the next reset shall make."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class SceneRequest(BaseModel):
    """How to begin the next episode.

    seed: of the start scene, None for the next of the node's own. instruction: None draws one
    from the seed. state: what `World.save_state` gave, instead of a drawn scene.
    request: told back on reset/status. not_before_ns: earliest first stamp, in lockstep.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int | None = None
    instruction: str | None = None
    state: dict[str, Any] | None = None
    request: str | None = None
    not_before_ns: int = Field(default=0, ge=0)

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
