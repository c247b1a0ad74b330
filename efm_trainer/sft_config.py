"""Settings of the supervised fine-tuning."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class SftConfig(BaseModel):
    """Settings of the fine-tuning.

    steps: optimiser steps. batch: observations per step, half for each objective. learning_rate:
    AdamW's peak, reached after `warmup` steps, then a cosine to a tenth. steps_sigma, action_sigma:
    deviations in steps and in bins of soft targets round the true bin, 0 for one-hot (the paper);
    neighbouring bins mean nearly the same, and few demonstrations are over-fitted without.
    feature_noise: deviation of normal noise on the (standardised) features. validate_every: steps
    between validations. save_every: steps between resume points. validation_share: of the
    episodes, used only where no record declares split "validation". tolerance: of all validated
    weights whose error is at most this share above the smallest, the latest are kept.
    clone_failures: learn actions from failed demonstrations too. clone_pauses: also learn to rest
    where a person hesitated (delta actions); a policy at a low temperature then stops for good.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Annotated[int, Field(ge=1)] = 2000
    batch: Annotated[int, Field(ge=2, multiple_of=2)] = 128
    learning_rate: Annotated[float, Field(gt=0.0, le=0.1)] = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.3
    steps_sigma: Annotated[float, Field(ge=0.0)] = 0.7
    action_sigma: Annotated[float, Field(ge=0.0)] = 2.0
    feature_noise: Annotated[float, Field(ge=0.0)] = 0.1
    gradient_norm: Annotated[float, Field(gt=0.0)] = 1.0
    validate_every: Annotated[int, Field(ge=1)] = 100
    save_every: Annotated[int, Field(ge=1)] = 500
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    tolerance: Annotated[float, Field(ge=0.0)] = 0.05
    clone_failures: bool = False
    clone_pauses: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
