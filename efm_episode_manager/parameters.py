"""The episode manager's parameters, and the settings that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from efm_core.actions import ActionSpace
from efm_core.camera_description import CameraDescription
from efm_core.reset_settings import RobotReset
from efm_episode_manager.settings import ManagerSettings
from efm_ros.managed import MANAGED
from efm_ros.parameters import ROBOT, ParameterSpec

_DEFAULTS = {name: field.default for name, field in ManagerSettings.model_fields.items()}


def _limit(name: str, description: str, unit: str, low: float, high: float) -> ParameterSpec:
    """A number that may be changed while the manager runs."""
    return ParameterSpec(name, _DEFAULTS[name], description, unit, low, high, writable=True)


def _check_cameras(text: str) -> None:
    TypeAdapter(tuple[CameraDescription, ...]).validate_json(text or "[]")


def _check_reset(text: str) -> None:
    RobotReset.model_validate_json(text or "{}")


PARAMETERS = (
    *MANAGED,
    ROBOT,
    ParameterSpec("fleet", "", "the fleet's name, written into every record"),
    ParameterSpec(
        "data_dir", "data", "directory that the data sets are written below", required=True
    ),
    ParameterSpec(
        "clock", "lockstep", "lockstep: virtual stamps, the world waits for ticks; real: wall time",
        choices=("lockstep", "real"),
    ),
    ParameterSpec("cameras", ("front",), "names of the cameras to record"),
    ParameterSpec(
        "camera_descriptions", "", "JSON list of efm_core.camera_description.CameraDescription, "
        "one per camera; empty: raw pictures of any size, whose losses are not counted",
        check=_check_cameras,
    ),
    ParameterSpec(
        "state_tolerance", _DEFAULTS["state_tolerance"],
        "real: longest time between an observation and the joint states or pose paired with it",
        "s", 0.001, 10.0,
    ),
    ParameterSpec(
        "commands", ("arm",), "command groups to record: name (a twist) or name:output"
    ),
    ParameterSpec(
        "action_space", "", "JSON of efm_core.actions.ActionSpace", required=True,
        check=ActionSpace.model_validate_json,
    ),
    ParameterSpec(
        "robot_node", "robot", "name of the node whose parameter `scene` describes a reset"
    ),
    ParameterSpec(
        "operator_source", "person", "who labels by episode/success and failure",
        choices=("person", "oracle"),
    ),
    ParameterSpec(
        "instructions", (), "drawn from where neither plan nor reset gives an instruction"
    ),
    ParameterSpec(
        "reserve_mb", 1000.0, "free disk space below which no episode starts", "MB", 0.0, 1e7,
        writable=True,
    ),
    _limit("silence_s", "a node that is silent for this long ends the episode", "s", 0.3, 60.0),
    _limit("stall_s", "lockstep: no tick for this long ends the episode", "s", 1.0, 3600.0),
    _limit(
        "operator_s", "as stall_s, while a person moves the robot: the longest break", "s", 1.0,
        86400.0,
    ),
    _limit("ready_s", "longest wait for checkpoints and first answers", "s", 1.0, 3600.0),
    ParameterSpec(
        "reset", "", "JSON of efm_core.reset_settings.RobotReset; empty: the robot makes the "
        "planned scene itself", check=_check_reset,
    ),
    _limit("retry_s", "pause after an episode that never began", "s", 0.0, 600.0),
    _limit(
        "flush_s", "longest wait for the messages of the last tick before the bag is closed", "s",
        0.0, 10.0,
    ),
    _limit("breaker", "faults in a row that stop the robot", "", 1, 10000),
    _limit(
        "failure_breaker", "practice episodes in a row without success that pause the robot until "
        "episode/resume (0: never; simulated robots: 0)", "", 0, 10000,
    ),
    ParameterSpec(
        "still_ticks", _DEFAULTS["still_ticks"], "ticks recorded with the arm held after a success",
        "", 0, 1000,
    ),
)  # fmt: skip


def settings_from(values: Mapping[str, Any]) -> ManagerSettings:
    """Parameter values, with `efm_version` and `ros_version`, as settings.

    Raises pydantic.ValidationError.
    """
    fields = dict(values)
    for name in ("robot_node", *(spec.name for spec in MANAGED)):
        del fields[name]
    fields["space"] = ActionSpace.model_validate_json(fields.pop("action_space"))
    fields["reserve_bytes"] = _bytes(fields.pop("reserve_mb"))
    fields["data_dir"] = Path(fields["data_dir"])
    return ManagerSettings(**fields)


def changed_settings(settings: ManagerSettings, changed: Mapping[str, Any]) -> ManagerSettings:
    """The settings with other values of writable parameters."""
    fields = dict(changed)
    if "reserve_mb" in fields:
        fields["reserve_bytes"] = _bytes(fields.pop("reserve_mb"))
    return settings.model_copy(update=fields)


def _bytes(megabytes: float) -> int:
    return int(megabytes * 1e6)
