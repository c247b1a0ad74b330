"""Shared pieces of the core tests: an action space, an episode's record, a table of topics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from efm_core import messages, topics
from efm_core.actions import ActionDim, ActionSpace
from efm_core.episode import EpisodeRecord, Mode, new_episode_id

START_NS = 1_700_000_000_000_000_000


@pytest.fixture
def space() -> ActionSpace:
    """x and y in m per tick, within +-0.02, 21 bins, 10 Hz."""
    return ActionSpace(
        dims=tuple(ActionDim(name=n, unit="m", low=-0.02, high=0.02, bins=21) for n in "xy")
    )


@pytest.fixture
def record(space) -> EpisodeRecord:
    return EpisodeRecord(
        episode_id=new_episode_id(),
        mode=Mode.PRACTICE,
        robot="robot1",
        instruction="push the red star to the blue cube",
        transport="in_process",
        clock="lockstep",
        rate=10.0,
        start_ns=START_NS,
        action_space=space.model_dump(mode="json"),
        action_space_hash=space.hash,
    )


@pytest.fixture
def table() -> dict[str, tuple[str, topics.Qos]]:
    """The topics of robot1 as a writer wants them."""
    wanted = (
        topics.camera("front"), topics.JOINT_STATES, topics.INSTRUCTION, topics.GUARD_STATE,
    )  # fmt: skip
    return {f"/robot1/{t.name}": (t.type, t.qos) for t in wanted}


@pytest.fixture
def content(space) -> list[tuple[str, bytes, int]]:
    """Thirty ticks of an episode: (topic, CDR bytes, log time in ns), instruction first."""
    rng = np.random.default_rng(0)
    rows = [("/robot1/instruction", messages.text("push"), "std_msgs/msg/String", START_NS)]
    for k in range(30):
        stamp = START_NS + k * 100_000_000
        picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        joints = messages.named_scalars(stamp, "base", {"joint1": 0.1 * k, "joint2": -0.5})
        guard = messages.guard_state(stamp, [0.01, -0.02], space, 1, False, 0, 0.0, 0)
        rows += [
            (
                "/robot1/camera/front/image_raw",
                messages.image(stamp, "front", picture),
                "sensor_msgs/msg/Image",
                stamp,
            ),
            ("/robot1/joint_states", joints, "sensor_msgs/msg/JointState", stamp),
            ("/robot1/guard/state", guard, "sensor_msgs/msg/JointState", stamp),
        ]
    return [(t, messages.serialize(msg, kind), ns) for t, msg, kind, ns in rows]


@pytest.fixture
def golden_bags() -> Path:
    """Bags of the real rosbag2, beside the repository."""
    path = Path(__file__).resolve().parents[3] / "shared" / "golden_bags"
    if not path.is_dir():
        pytest.skip(f"NOT VERIFIED: no bags of the real rosbag2 at {path}")
    return path
