"""visualization_msgs/MarkerArray from shapes: one shape, one marker, named by its namespace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efm_core.messages import typestore

Rgba = tuple[float, float, float, float]
"""Red, green, blue and opacity, each 0 to 1."""

_T = typestore.types
_Marker = _T["visualization_msgs/msg/Marker"]
_MarkerArray = _T["visualization_msgs/msg/MarkerArray"]
_Color = _T["std_msgs/msg/ColorRGBA"]
_Duration = _T["builtin_interfaces/msg/Duration"]
_Point = _T["geometry_msgs/msg/Point"]
_Vector3 = _T["geometry_msgs/msg/Vector3"]
# Stamp 0 asks the viewer for its newest transform: in lockstep stamps are virtual, and a tf tree
# would not know them.
_NOW = _T["builtin_interfaces/msg/Time"](sec=0, nanosec=0)
_UPRIGHT = _T["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
_NO_BYTES = np.empty(0, dtype=np.uint8)
_NO_TEXTURE = _T["sensor_msgs/msg/CompressedImage"](
    header=_T["std_msgs/msg/Header"](stamp=_NOW, frame_id=""), format="", data=_NO_BYTES
)
_NO_MESH = _T["visualization_msgs/msg/MeshFile"](filename="", data=_NO_BYTES)


class Kind(IntEnum):
    """The marker types in use: the number in Marker.type."""

    SPHERE = 2
    LINE_STRIP = 4
    LINE_LIST = 5
    CUBE_LIST = 6
    TEXT_VIEW_FACING = 9


_ADD, _DELETE = 0, 2  # Marker.action
_POINTS_NEEDED = {Kind.LINE_STRIP: 2, Kind.LINE_LIST: 2}


@dataclass(frozen=True, slots=True)
class Shape:
    """One marker, by its namespace `ns`, which viewers show and hide as a layer.

    points: float (N, 3), m; for SPHERE and TEXT_VIEW_FACING (1, 3), their place. size: m; width
    of lines, edge of cubes, diameter of spheres, height of a capital letter. colors: float
    (N, 4), one for each point, instead of `color`. With too few points (two for lines) or, for
    text, no text the shape is taken off the viewer's screen.
    """

    ns: str
    kind: Kind
    points: NDArray[np.float64]
    size: float
    color: Rgba = (1.0, 1.0, 1.0, 1.0)
    colors: NDArray[np.float64] | None = None
    text: str = ""

    @property
    def visible(self) -> bool:
        """Whether there is anything to draw."""
        if self.kind is Kind.TEXT_VIEW_FACING and not self.text:
            return False
        return len(self.points) >= _POINTS_NEEDED.get(self.kind, 1)


def marker_array(frame: str, shapes: Sequence[Shape], lifetime: float = 0.0) -> Any:
    """Shapes with points in `frame` -> MarkerArray.

    lifetime: s after which a viewer drops what is not sent again (0 = never). Raises ValueError
    when a shape has another number of colours than of points.
    """
    sec, nanosec = divmod(round(lifetime * 1e9), 1_000_000_000)
    life = _Duration(sec=sec, nanosec=nanosec)
    return _MarkerArray(markers=[_marker(frame, shape, life) for shape in shapes])


def _marker(frame: str, shape: Shape, life: Any) -> Any:
    single = shape.kind in (Kind.SPHERE, Kind.TEXT_VIEW_FACING)
    visible = shape.visible
    colors = shape.colors if shape.colors is not None and visible and not single else ()
    points = shape.points.tolist() if visible else []
    if len(colors) not in (0, len(points)):
        raise ValueError(
            f"marker '{shape.ns}' has {len(colors)} colours for {len(points)} points; "
            "give one for each or none"
        )
    place = points[0] if single and visible else (0.0, 0.0, 0.0)
    return _Marker(
        header=_T["std_msgs/msg/Header"](stamp=_NOW, frame_id=frame),
        ns=shape.ns,
        id=0,
        type=int(shape.kind),
        action=_ADD if visible else _DELETE,
        pose=_T["geometry_msgs/msg/Pose"](position=_Point(*place), orientation=_UPRIGHT),
        scale=_scale(shape),
        color=_Color(*shape.color),
        lifetime=life,
        frame_locked=False,
        points=[] if single else [_Point(*point) for point in points],
        colors=[_Color(*color) for color in np.asarray(colors, dtype=np.float64).tolist()],
        texture_resource="",
        texture=_NO_TEXTURE,
        uv_coordinates=[],
        text=shape.text,
        mesh_resource="",
        mesh_file=_NO_MESH,
        mesh_use_embedded_materials=False,
    )


def _scale(shape: Shape) -> Any:
    """Lines read x alone and text z alone; viewers warn about values in the others."""
    if shape.kind in (Kind.LINE_STRIP, Kind.LINE_LIST):
        return _Vector3(x=shape.size, y=0.0, z=0.0)
    if shape.kind is Kind.TEXT_VIEW_FACING:
        return _Vector3(x=0.0, y=0.0, z=shape.size)
    return _Vector3(x=shape.size, y=shape.size, z=shape.size)
