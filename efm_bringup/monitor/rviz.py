"""The RViz configuration of a fleet: markers of every robot, a window for every camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from efm_bringup.monitor.layout import extent, fixed_frame, places
from efm_core.fleet import FleetDescription
from efm_core.topics import MARKERS, Topic, camera

IMAGE_CLASS = "rviz_default_plugins/Image"
MARKER_CLASS = "rviz_default_plugins/MarkerArray"


def rviz_text(fleet: FleetDescription) -> str:
    """The file's content, YAML, for RViz 2 (`rviz2 -d FILE`)."""
    return str(yaml.safe_dump(rviz_config(fleet), sort_keys=False))


def rviz_config(fleet: FleetDescription) -> dict[str, Any]:
    """Panels, displays and a view on the whole fleet, as RViz saves them."""
    images = [name for name, _ in _cameras(fleet)]
    return {
        "Panels": [
            {"Class": "rviz_common/Displays", "Name": "Displays"},
            {"Class": "rviz_common/Views", "Name": "Views"},
        ],
        "Visualization Manager": {
            "Class": "",
            "Enabled": True,
            "Name": "root",
            "Displays": _displays(fleet),
            "Global Options": {
                "Fixed Frame": fixed_frame(fleet),
                "Frame Rate": 30,
                "Background Color": "48; 48; 48",
            },
            "Tools": [
                {"Class": "rviz_default_plugins/MoveCamera"},
                {"Class": "rviz_default_plugins/Select"},
                {"Class": "rviz_default_plugins/Measure"},
            ],
            "Views": {"Current": _view(fleet), "Saved": None},
        },
        "Window Geometry": {
            "Width": 1600,
            "Height": 900,
            "Displays": {"collapsed": False},
            "Views": {"collapsed": True},
            **{name: {"collapsed": False} for name in images},
        },
    }


def _displays(fleet: FleetDescription) -> list[dict[str, Any]]:
    grid = {
        "Class": "rviz_default_plugins/Grid",
        "Name": "Grid",
        "Enabled": True,
        "Reference Frame": "<Fixed Frame>",
        "Cell Size": 0.1,
        "Plane Cell Count": 40,
        "Color": "80; 80; 80",
    }
    displays = [grid]
    for robot in fleet.robots:
        topic = _topic(MARKERS, robot.name)
        displays.append(_display(MARKER_CLASS, f"{robot.name} markers", topic))
    return displays + [_display(IMAGE_CLASS, name, topic) for name, topic in _cameras(fleet)]


def _cameras(fleet: FleetDescription) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{robot.name} {c.name}", _topic(camera(c.name, c.compressed), robot.name, robot.remaps))
        for robot in fleet.robots
        for c in robot.cameras
    ]


def _display(display_class: str, name: str, topic: dict[str, Any]) -> dict[str, Any]:
    return {
        "Class": display_class,
        "Name": name,
        "Enabled": True,
        "Value": True,
        "Topic": topic,
        **({"Namespaces": {}} if display_class == MARKER_CLASS else {"Normalize Range": False}),
    }


def _topic(
    topic: Topic, robot: str, remaps: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Pictures are asked for best effort: a viewer's lost packet must not hold a camera up.

    remaps: absolute names of efm -> the driver's.
    """
    name = f"/{robot}/{topic.name}"
    return {
        "Value": (remaps or {}).get(name, name),
        "Depth": 1,
        "History Policy": "Keep Last",
        "Reliability Policy": "Best Effort" if topic.qos == "image" else "Reliable",
        "Durability Policy": "Transient Local" if topic.qos == "latched" else "Volatile",
    }


def _view(fleet: FleetDescription) -> dict[str, Any]:
    """From behind and above, the whole fleet in sight."""
    place = places(fleet)
    corners = np.concatenate([extent(r) + place[r.name].offset for r in fleet.robots])
    center = corners.min(axis=0) + np.ptp(corners, axis=0) / 2
    distance = 0.6 + 1.1 * float(np.max(np.ptp(corners, axis=0)))
    return {
        "Class": "rviz_default_plugins/Orbit",
        "Name": "Current View",
        "Target Frame": "<Fixed Frame>",
        "Distance": round(distance, 3),
        "Focal Point": {axis: round(float(v), 3) for axis, v in zip("XYZ", center, strict=True)},
        "Pitch": 0.9,
        "Yaw": 3.1416,
        "Near Clip Distance": 0.01,
    }
