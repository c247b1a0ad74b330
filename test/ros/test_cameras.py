"""Cameras as a lab has them, over real DDS in real time: pairing, parity, faults counted live."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from ros.camera_rig import CAMERAS, Lab, fault_proxy

from efm_bringup.faults.frame_faults import REFUSED, script
from efm_core import messages, topics
from efm_core.bags import check_episode
from efm_core.episode import Outcome
from efm_core.guard import Fault
from efm_model.loading import load_model
from efm_trainer.data import load_episode
from efm_trainer.features import FeatureCache, predicted_steps
from efm_trainer.improve import ImproveSettings
from efm_trainer.round_batch import behaviour_log_prob, build_round

NAMES = tuple(camera.name for camera in CAMERAS)


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def lab(context, executor, probe, spin_until, space, tmp_path):
    return Lab(context, executor, probe, spin_until, space, tmp_path)


@pytest.fixture
def patient_lab(context, executor, probe, spin_until, space, tmp_path):
    """Whose episodes stay of use however many pictures a crowded machine loses."""
    cameras = tuple(camera.model_copy(update={"max_loss": 1.0}) for camera in CAMERAS)
    return Lab(context, executor, probe, spin_until, space, tmp_path, cameras)


def recompute(lab, episode):
    """Check log-probabilities and steps-to-go against the live ones; (cache, reward model, d)."""
    decided, heard = np.isfinite(episode.log_prob), np.isfinite(episode.steps_to_go)
    assert decided.sum() >= 15
    models = lab.fleet.models_dir
    policy, reward = (load_model(models / f"{r}_1", r)[0] for r in ("policy", "reward"))
    cache = FeatureCache(policy)
    features = cache.features(episode)
    log_prob = behaviour_log_prob(policy, features[decided], episode.bins[decided], 0.8)
    np.testing.assert_allclose(log_prob.sum(axis=1), episode.log_prob[decided], atol=1e-4)
    d = predicted_steps(reward, features, reward.config.steps_to_go)
    np.testing.assert_allclose(d[heard], episode.steps_to_go[heard], atol=1e-3)
    batch = build_round([episode], policy, reward, cache, ImproveSettings(), "policy_1", "reward_1")
    assert batch.report["steps_to_go_difference"] <= 1e-3
    return cache, reward, d


def test_live_answers_equal_those_recomputed_from_the_bag(patient_lab):
    """Three cameras, raw, JPEG and YUV, at three rates: the trainer sees what the robot saw."""
    reader = patient_lab.practise("parity", 25)
    assert check_episode(reader.path) == []
    record = reader.record
    assert (record.clock, tuple(c.name for c in record.cameras)) == ("real", NAMES)
    assert record.unusable == ""
    episode = load_episode(reader.path, NAMES)
    decided = np.isfinite(episode.log_prob)
    assert set(episode.state) == {"joint_1", "ee_x", "ee_y", "ee_z"}
    assert np.isfinite(episode.state["ee_x"][decided]).all()
    cache, reward, d = recompute(patient_lab, episode)
    # The check would notice the neighbouring picture of a single camera.
    for name in NAMES:
        pictures = {**episode.images, name: np.roll(episode.images[name], 1, axis=0)}
        other = cache.features(replace(episode, images=pictures))
        wrong = predicted_steps(reward, other, reward.config.steps_to_go)
        assert np.max(np.abs(wrong - d)[1:]) > 0.1, name


def test_it_does_so_where_stamps_are_of_no_use(patient_lab):
    """The first camera never stamps, the second stamps once and for all, the third is ahead."""

    def with_stamp(name: str, stamp):
        send = patient_lab.robot.senders[name].send

        def stamped(message) -> None:
            sec, nanosec = divmod(stamp(messages.stamp_of(message)), 10**9)
            message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
            send(message)

        patient_lab.robot.pictures[name] = stamped

    begun_ns = time.time_ns()
    with_stamp("front", lambda ns: 0)
    with_stamp("wrist", lambda ns: begun_ns)
    with_stamp("side", lambda ns: ns + 110_000_000)
    reader = patient_lab.practise("stamps", 25)
    counts = {n: reader.record.topics[f"/robot_1/{c.topic.name}"]
              for n, c in zip(NAMES, CAMERAS, strict=True)}  # fmt: skip
    for name, count in counts.items():
        # A busy machine may receive a picture when its stamp is no longer ahead.
        assert 0.5 * count.on_time <= count.restamped <= count.on_time > 15, name
        assert (count.late, count.repeated, count.refused) == (0, 0, 0), name
    reasons = {name: json.loads(patient_lab.policy["frames"])[c.topic.name]["reasons"]
               for name, c in zip(NAMES, CAMERAS, strict=True)}  # fmt: skip
    assert {name: set(found) for name, found in reasons.items()} == {
        "front": {"zero"}, "wrist": {"frozen"}, "side": {"ahead"},
    }  # fmt: skip
    recompute(patient_lab, load_episode(reader.path, NAMES))


def test_partners_lie_within_the_tolerance_and_their_offsets_are_recorded(lab):
    lab.practise("pairs", 12)
    limits = {c.name: c.pairing_s for c in CAMERAS} | {"joint_states": 0.1, "ee_pose": 0.1}
    seen = {name: [] for name in limits}
    for message in lab.probe.heard[topics.DECISION.name]:
        offsets, digests = messages.read_inputs(messages.read_named_scalars(message))
        assert set(digests) == set(NAMES)
        assert offsets["front"] == 0.0
        for name, offset in offsets.items():
            seen[name].append(abs(offset))
    assert all(max(values) <= limits[name] for name, values in seen.items())
    assert max(seen["wrist"]) > 0.0  # 12.5 Hz is no multiple of 20 Hz


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_the_counters_equal_what_a_proxy_did(lab, camera):
    """P12, live and in the record: seeded faults, one camera after the other."""
    proxy = fault_proxy(lab.robot, camera)
    topic = next(c.topic.name for c in CAMERAS if c.name == camera)
    lab.begin("faults", limit=600)
    before = Counter(proxy.done)
    proxy.script = script(seed=11, length=20)
    wanted = len(proxy.script)
    lab.spin_until(lambda: proxy.done.total() - before.total() >= wanted + 4, 60.0)
    done = Counter(proxy.done) - before
    late, refused = done["swap"] + done["late"], sum(done[fault] for fault in REFUSED)
    live = {}

    def told() -> bool:
        live.update(json.loads(lab.status["frames"]).get(topic, {}))
        return live.get("repeated") == done["repeat"] and live["late"] == late

    lab.spin_until(told)
    lab.call("failure")
    reader = lab.saved("faults")
    counts = reader.record.topics[f"/robot_1/{topic}"]
    assert counts.repeated == done["repeat"]
    assert counts.late == late
    assert counts.refused == refused
    assert counts.dropped == done["drop"] + refused
    total = counts.on_time + counts.late + counts.repeated + counts.dropped
    assert counts.expected == total
    stored = sum(1 for _ in reader.messages([f"/robot_1/{topic}"]))
    assert stored == counts.on_time + counts.late + counts.refused
    assert live["expected"] == sum(
        live[k] for k in ("received", "dropped", "repeated", "late")
    )  # fmt: skip
    # The policy may lose pictures of its own while it is busy: they are counted as dropped.
    policy = json.loads(lab.policy["frames"])[topic]
    assert policy["expected"] == sum(
        policy[k] for k in ("received", "dropped", "repeated", "late")
    )  # fmt: skip
    lost, sent = counts.dropped + counts.late, counts.expected - counts.repeated
    assert (f"camera '{camera}'" in reader.record.unusable) is (lost > 0.2 * sent)


def test_a_frozen_camera_ends_the_episode_and_one_that_died_holds_the_arm(lab):
    lab.begin("frozen", limit=600)
    lab.robot.frozen.add("wrist")
    record = lab.saved("frozen").record
    assert (record.outcome, record.termination_reason) == (Outcome.FAULT, "fault:frozen_camera")
    assert "wrist" in lab.policy_messages(level=1)
    lab.robot.frozen.clear()

    lab.begin("dead", limit=600)
    lab.robot.dead.add("side")
    lab.spin_until(lambda: lab.policy.get("stale") == "1", 5.0)
    lab.spin_until(lambda: lab.guard_fault() is Fault.STALE_CAMERA, 5.0)
    lab.robot.dead.clear()
    lab.spin_until(lambda: lab.guard_fault() is Fault.NONE, 10.0)
    lab.call("failure")
    lab.saved("dead")
