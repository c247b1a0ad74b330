"""The beginning of an episode: its record from plan and settings, its start from the reset."""

from __future__ import annotations

import random
from collections.abc import Mapping

from efm_core.episode import EpisodeRecord, Mode, new_episode_id
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_core.reset_settings import PolicyReset
from efm_episode_manager.session import Purpose, Session, TickGrid
from efm_episode_manager.settings import ManagerSettings

RESETS = "-resets"
"""Ending of the data set with a policy's resets."""


def new_session(settings: ManagerSettings, plan: EpisodePlan, planned: PlannedEpisode) -> Session:
    """A session with a fresh episode id and all that is known before the reset."""
    seed = planned.scene.get("seed")
    record = EpisodeRecord(
        episode_id=new_episode_id(),
        mode=plan.mode,
        split=planned.split,
        plan=plan.plan_id,
        index=planned.index,
        round=plan.round,
        robot=settings.robot,
        fleet=settings.fleet,
        instruction=planned.instruction or "",
        transport="dds",
        clock=settings.clock,
        rate=settings.space.rate,
        action_space=settings.space.model_dump(mode="json"),
        action_space_hash=settings.space.hash,
        policy_version=plan.policy_version,
        reward_version=plan.reward_version,
        efm_version=settings.efm_version,
        ros_version=settings.ros_version,
        scene_seed=seed if isinstance(seed, int) else None,
    )
    if not settings.lockstep:
        record.cameras = settings.camera_descriptions
        record.state_tolerance = settings.state_tolerance
    grid = TickGrid(0, settings.space.rate, settings.lockstep)
    return Session(plan, planned, record, grid, settings.still_ticks)


def reset_session(
    settings: ManagerSettings, plan: EpisodePlan, planned: PlannedEpisode, reset: PolicyReset
) -> Session:
    """The episode in which the policy follows the reset's instruction before `planned`."""
    folder = f"{plan.data_set[: 80 - len(RESETS)]}{RESETS}"
    mode = Mode.PRACTICE if plan.mode is Mode.DEMO else plan.mode
    own_plan = plan.model_copy(
        update={"data_set": folder, "mode": mode, "end_on_success": True, "round": -1}
    )
    scene = {key: value for key, value in planned.scene.items() if key == "seed"}
    own = PlannedEpisode(
        index=planned.index, instruction=reset.instruction, scene=scene, limit=reset.ticks,
        split="none",
    )  # fmt: skip
    session = new_session(settings, own_plan, own)
    session.record.task = Purpose.RESET.value
    session.purpose = Purpose.RESET
    return session


def take_start(
    session: Session, settings: ManagerSettings, values: Mapping[str, str], attempts: int
) -> None:
    """Fill in what `reset/status` says of the start; `attempts` resets were needed.

    Raises ValueError when it lacks a stamp or nobody gave an instruction.
    """
    record = session.record
    try:
        record.start_ns = int(values["stamp_ns"])
        if "scene_seed" in values:  # "": this scene was not drawn from a seed
            seed = values["scene_seed"]
            record.scene_seed = int(seed) if seed else None
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"reset/status: stamp_ns='{values.get('stamp_ns')}', "
            f"scene_seed='{values.get('scene_seed')}'; the robot must send integers"
        ) from error
    record.scene_hash = values.get("scene_hash", "")
    record.reset_attempts = attempts
    record.instruction = (
        record.instruction or values.get("instruction", "") or _draw(session, settings, attempts)
    )
    session.grid = TickGrid(record.start_ns, settings.space.rate, settings.lockstep)


def _draw(session: Session, settings: ManagerSettings, attempt: int) -> str:
    """One of the configured instructions, the same for the same plan, seed, index and attempt."""
    if not settings.instructions:
        raise ValueError(
            "nobody gave an instruction: set it in the plan, or the robot's `instructions`"
        )
    key = f"{session.plan.plan_id}/{session.plan.seed}/{session.planned.index}"
    if attempt > 1:
        key += f"/{attempt}"
    return random.Random(key).choice(settings.instructions)
