"""The layout of a fleet for Foxglove and Lichtblick: pictures, markers, plots and states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from efm_bringup.monitor.layout import fixed_frame
from efm_core.fleet import FleetDescription
from efm_core.topics import (
    EPISODE_STATUS,
    INSTRUCTION,
    MARKERS,
    REWARD_REWARD,
    REWARD_STEPS_TO_GO,
    REWARD_SUCCESS,
    Topic,
    camera,
)

_PAIR = '.status[:].values[:]{{key=="{key}"}}.value'
"""Message path of one pair of a status topic."""
_COLORS = ("#4e98e2", "#f5774d", "#f7df71", "#5cd6a9", "#a395e2", "#e27fb0", "#9ccc65", "#b0bec5")


def foxglove_text(fleet: FleetDescription) -> str:
    """The file's content, JSON, for "import layout from file"."""
    return json.dumps(foxglove_layout(fleet), indent=2) + "\n"


def foxglove_layout(fleet: FleetDescription) -> dict[str, Any]:
    """Panels by id and the tree of splits that places each of them once.

    Left the markers above the cameras, right the plots above the robots' states.
    """
    panels: dict[str, dict[str, Any]] = {"3D!fleet": _scene(fleet)}
    cameras = []
    for robot in fleet.robots:
        for c in robot.cameras:
            topic = _name(robot.name, camera(c.name, c.compressed))
            topic = robot.remaps.get(topic, topic)
            cameras.append(_add(panels, f"Image!{robot.name}_{c.name}", f"{robot.name} {c.name}",
                                {"imageMode": {"imageTopic": topic}}))  # fmt: skip
    plots = [
        _plot(panels, fleet, "steps-to-go", REWARD_STEPS_TO_GO),
        _plot(panels, fleet, "reward", REWARD_REWARD),
        _transitions(panels, fleet),
    ]
    success = [_success(panels, robot.name) for robot in fleet.robots]
    texts = [_instruction(panels, robot.name) for robot in fleet.robots]
    left = _split("column", ["3D!fleet", _split("row", cameras)], first=65)
    right = _split("column", [*plots, _split("row", success), _split("row", texts)])
    return {
        "configById": panels,
        "globalVariables": {},
        "userNodes": {},
        "playbackConfig": {"speed": 1},
        "layout": _split("row", [left, right], first=55),
    }


def _name(robot: str, topic: Topic) -> str:
    return f"/{robot}/{topic.name}"


def _add(panels: dict[str, Any], key: str, title: str, config: dict[str, Any]) -> str:
    # The two programs differ in the name of the title alone.
    panels[key] = {"foxglovePanelTitle": title, "lichtblickPanelTitle": title, **config}
    return key


def _scene(fleet: FleetDescription) -> dict[str, Any]:
    topics = {_name(robot.name, MARKERS): {"visible": True} for robot in fleet.robots}
    return {
        "foxglovePanelTitle": "fleet",
        "lichtblickPanelTitle": "fleet",
        "followTf": fixed_frame(fleet),
        "followMode": "follow-pose",
        "scene": {},
        "layers": {"grid": {"layerId": "foxglove.Grid", "visible": True, "size": 4,
                            "divisions": 40, "instanceId": "grid"}},
        "topics": topics,
    }  # fmt: skip


def _plot(panels: dict[str, Any], fleet: FleetDescription, title: str, topic: Topic) -> str:
    paths = [
        {
            "value": f"{_name(robot.name, topic)}.data",
            "label": robot.name,
            "enabled": True,
            "timestampMethod": "receiveTime",
            "color": _COLORS[i % len(_COLORS)],
        }
        for i, robot in enumerate(fleet.robots)
    ]
    config = {"paths": paths, "xAxisVal": "timestamp", "showLegend": True, "isSynced": True,
              "followingViewWidth": 60}  # fmt: skip
    return _add(panels, f"Plot!{title}", title, config)


def _transitions(panels: dict[str, Any], fleet: FleetDescription) -> str:
    paths = [
        {
            "value": _name(robot.name, EPISODE_STATUS) + _PAIR.format(key=key),
            "label": f"{robot.name} {key}",
            "timestampMethod": "receiveTime",
        }
        for robot in fleet.robots
        for key in ("phase", "outcome")
    ]
    return _add(panels, "StateTransitions!phase", "phases", {"paths": paths, "isSynced": True})


def _success(panels: dict[str, Any], robot: str) -> str:
    rule = {"operator": "=", "rawValue": "true", "color": "#33cc4d", "label": f"{robot}: success"}
    config = {
        "path": f"{_name(robot, REWARD_SUCCESS)}.data",
        "style": "background",
        "fallbackColor": "#606060",
        "fallbackLabel": robot,
        "rules": [rule],
    }
    return _add(panels, f"Indicator!{robot}", f"{robot} success", config)


def _instruction(panels: dict[str, Any], robot: str) -> str:
    config = {"topicPath": f"{_name(robot, INSTRUCTION)}.data", "diffEnabled": False}
    return _add(panels, f"RawMessages!{robot}", f"{robot} instruction", config)


def _split(direction: str, nodes: Sequence[Any], first: float | None = None) -> Any:
    """Nodes side by side ("row") or one below the other, equally large unless `first` (%)."""
    if len(nodes) == 1:
        return nodes[0]
    return {
        "direction": direction,
        "first": nodes[0],
        "second": _split(direction, nodes[1:]),
        "splitPercentage": first if first is not None else round(100 / len(nodes), 2),
    }
