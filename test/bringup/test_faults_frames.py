"""`efm faults frames`: every picture is accounted for (P12)."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")
pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")

from bringup.fault_bed import bed_of

from efm_bringup.faults import frame_rounds
from efm_bringup.faults.fleet_rounds import Findings
from efm_bringup.faults.frame_faults import FAULTS, FaultProxy, script
from efm_bringup.faults.frame_rounds import Live, between, truth_of
from efm_bringup.faults.results import Trial
from efm_core import messages
from efm_core.camera_description import CameraDescription
from efm_core.camera_intake import CameraIntake

PERIOD_NS = 100_000_000


@pytest.mark.parametrize("seed", range(20))
def test_the_ledger_counts_what_the_proxy_did(seed):
    """The whole trial without time and transport: every picture arrives 5 ms after it was sent."""
    intake = CameraIntake(CameraDescription(width=16, height=16), lockstep=False)
    now = 10**18

    def receive(message) -> None:
        intake.take(message, now + 5_000_000)

    proxy, taken = FaultProxy(receive), []
    proxy.script = ["pass", *script(seed, 60)] + 4 * ["pass"]
    rng = np.random.default_rng(seed)
    for _ in range(len(proxy.script)):
        picture = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        taken.append((now, proxy.take(messages.image(now, "front", picture))))
        now += PERIOD_NS
    assert set(proxy.done) == {"pass", *FAULTS}
    assert intake.ledger.counts() == truth_of(Counter(deed for _, deed in taken))


def test_deeds_are_counted_as_the_record_names_them():
    deeds = {"pass": 10, "drop": 2, "repeat": 3, "swap": 1, "late": 1, "cut": 1, "future": 2}
    truth = truth_of(deeds, skipped=1)
    assert (truth.on_time, truth.repeated, truth.late, truth.refused) == (13, 3, 2, 3)
    assert truth.dropped == 2 + 1 + 3
    assert truth.expected == 13 + 3 + 2 + 6


def test_only_pictures_within_the_bag_are_compared():
    said = [(n, "pass") for n in range(10)]
    assert between(said, [3, 5, 4]) == said[3:6]
    assert between(said, []) == []


def test_a_live_count_that_does_not_add_up_is_a_problem():
    found, live, truth = Findings(), Live(), truth_of({"pass": 4, "repeat": 1})
    right = {"expected": 6, "received": 5, "dropped": 0, "repeated": 1, "late": 0, "refused": 0}

    def status(**changes: int) -> dict[str, str]:
        counts = {frame_rounds._TOPIC.name: {**right, **changes}}
        return {"phase": "running", "frames": json.dumps(counts)}

    live.hear(status())
    live.judge(found, truth)
    assert found.problems == []
    live.hear(status(expected=7))
    live.hear(status(repeated=0, expected=5))
    live.judge(found, truth)
    assert len(found.problems) == 2  # one that did not add up, and not what the proxy did


def test_a_round_over_ros(tmp_path, monkeypatch):
    """Twelve faults in real time."""
    monkeypatch.setattr(frame_rounds, "FAULTS", 12)
    monkeypatch.setattr(frame_rounds, "REST", 25)
    with bed_of(tmp_path, "real", frame_rounds.SHAPE, monkeypatch) as bed:
        done = frame_rounds.frame_round(bed, Trial("frames", "real"), 0, 0)
    assert done.problems == []
    assert done.figures["faults"] > 5
    assert done.figures["live_readings"] >= 2
