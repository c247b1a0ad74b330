"""An ordinary recording of somebody else's arm, for tests: nothing in it is efm's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from efm_core import messages

START_NS = 1_700_000_000_000_000_000
CAMERA, JOINTS, TWIST = "/cam/color/image_raw/compressed", "/joint_states", "/servo/delta_twist"
MARK, TASK, GOOD = "/session/event", "/session/task", "/session/success"
SIDE = 16
JOINT_NAMES = ("shoulder", "elbow")

FLEET = """
name: lab
clock: real
data_dir: {data_dir}
reserve_mb: 0
robots:
  - name: ur
    kind: driver
    cameras: [{{name: front, width: 16, height: 16, rate: 20.0}}]
    space:
      kind: delta
      frame: base
      rate: 10.0
      dims:
        - {{name: x, unit: m, low: -0.02, high: 0.02, bins: 5}}
        - {{name: y, unit: m, low: -0.02, high: 0.02, bins: 5}}
    guard: {{workspace: {{x: [0.0, 1.0], y: [0.0, 1.0]}}}}
"""
MAPPING = f"""
robot: ur
cameras: {{front: {{topic: {CAMERA}}}}}
joints: {JOINTS}
action:
  - {{source: twist, topic: {TWIST}}}
instruction: {{topic: {TASK}}}
success: {{topic: {GOOD}, within: 0.5}}
episodes:
  start: {{topic: {MARK}, equals: begin}}
  end: {{topic: {MARK}, equals: end}}
"""


class Said(NamedTuple):
    """One message: the recorder's time in ns, topic, type, contents."""

    log_ns: int
    topic: str
    kind: str
    message: Any


def at(seconds: float) -> int:
    """A time of the recording as ns."""
    return START_NS + round(seconds * 1e9)


def velocity(t: float) -> tuple[float, float]:
    """What the person commands at t s, m/s."""
    return 0.1 * math.sin(t), 0.1 * math.cos(t)


def picture(k: int) -> np.ndarray:
    """Picture k, uint8 (16, 16, 3): a square that wanders."""
    image = np.full((SIDE, SIDE, 3), (k * 7) % 256, np.uint8)
    image[k % 12 : k % 12 + 4, 4:8] = 255
    return image


def frame(t: float, k: int) -> Said:
    """A JPEG that came 10 ms after it was taken."""
    _, data = cv2.imencode(".jpg", picture(k)[:, :, ::-1])
    message = messages.compressed_image(at(t), "cam", "jpeg", data.tobytes())
    return Said(at(t + 0.01), CAMERA, "sensor_msgs/msg/CompressedImage", message)


def streams(seconds: float) -> Iterable[Said]:
    """Camera at 20 Hz, joints at 50 Hz 3 ms later than the pictures, twists at 40 Hz."""
    for k in range(round(seconds * 20)):
        yield frame(k / 20, k)
    for k in range(round(seconds * 50)):
        t = k / 50 + 0.003
        joints = dict.fromkeys(JOINT_NAMES, t)
        message = messages.named_scalars(at(t), "", joints)
        yield Said(at(t + 0.001), JOINTS, "sensor_msgs/msg/JointState", message)
    for k in range(round(seconds * 40)):
        t = k / 40 + 0.005
        message = messages.twist(at(t), "base", (*velocity(t), 0.0), (0.0, 0.0, 0.0))
        yield Said(at(t + 0.001), TWIST, "geometry_msgs/msg/TwistStamped", message)


def word(t: float, topic: str, text: str) -> Said:
    """A String heard at t s."""
    return Said(at(t), topic, "std_msgs/msg/String", messages.text(text))


def verdict(t: float, good: bool) -> Said:
    """A Bool heard at t s."""
    return Said(at(t), GOOD, "std_msgs/msg/Bool", messages.boolean(good))


def session(seconds: float = 7.0) -> list[Said]:
    """Two episodes, 1 s to 3 s (a success) and 4 s to 6 s (a failure), with their tasks."""
    said = list(streams(seconds))
    said += [word(0.5, TASK, "go to the middle"), word(3.5, TASK, "to the middle")]
    for start, good in ((1.0, True), (4.0, False)):
        said += [word(start, MARK, "begin"), word(start + 2.0, MARK, "end")]
        said += [verdict(start + 2.2, good)]
    return said


def write_bag(path: Path, said: Iterable[Said], storage: str = "mcap") -> Path:
    """A rosbag2 directory of these messages in the order of the recorder's times."""
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connections = {}
        for one in sorted(said, key=lambda s: s.log_ns):
            if one.topic not in connections:
                connections[one.topic] = writer.add_connection(
                    one.topic, one.kind, typestore=messages.typestore
                )
            data = messages.serialize(one.message, one.kind)
            writer.write(connections[one.topic], one.log_ns, data)
    return path


def write_lab(folder: Path, mapping: str = MAPPING) -> tuple[Path, Path]:
    """(fleet file, mapping file) of a lab whose data lie in `folder`/data."""
    fleet, wanted = folder / "lab.yaml", folder / "mapping.yaml"
    fleet.write_text(FLEET.format(data_dir=folder / "data"))
    wanted.write_text(mapping)
    return fleet, wanted
