"""The whole loop over real DDS: robot, guard, manager, demonstrator, policy and reward nodes.

The engine is small enough to be worked out by hand: the policy follows from the picture alone,
steps-to-go count down from the instruction's episode, so two runs of one plan must be equal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")
pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from rclpy.node import Node
from ros.alone import ALONE_ARGS, MODELS_ALONE
from rosbags.highlevel import AnyReader
from std_srvs.srv import Trigger

from efm_bringup.guard_node import GuardNode
from efm_bringup.inference_host import InferenceHost
from efm_bringup.model_shelf import Loaded
from efm_core import messages, topics
from efm_core.bags import EpisodeReader, check_episode, list_episodes
from efm_core.detector import DetectorSettings
from efm_core.episode import Mode, Outcome
from efm_core.fleet import (
    CameraDescription,
    FleetDescription,
    RobotDescription,
    save_fleet,
)
from efm_core.fleet_processes import processes
from efm_core.observation import Decision, StepsToGo
from efm_core.plan import EpisodePlan
from efm_episode_manager.node import EpisodeManagerNode
from efm_ros.channels import PLAN, STOPPED, Sender
from efm_sim.demonstrator_node import DemonstratorNode
from efm_sim.node import SimulatedRobotNode
from efm_sim.world import World, WorldConfig

FRONT, COMMAND = topics.camera("front"), topics.twist_command("arm")
SUCCESS_AT = 6
"""The engine's steps-to-go reach 0 here; with hold 2 the detector fires one tick later."""


class CountingEngine:
    """Bins from the picture's mean colour; d = SUCCESS_AT - tick, never below 0."""

    detector = DetectorSettings(threshold=0.5, hold=2, release=0.3, minimum_ticks=2)

    def act(self, observations, draws, temperature):
        return [
            Decision(self.bins(o.images["front"])[None], -1.0, 2.0, temperature)
            for o in observations
        ]

    @staticmethod
    def bins(image):
        return np.asarray(image, np.int64).sum(axis=(0, 1))[:2] % 9

    def steps_to_go(self, observations):
        return [StepsToGo(float(max(SUCCESS_AT - o.tick, 0)), 0.5) for o in observations]

    def infer(self, observations, draws, temperature):
        return self.act(observations, draws, temperature), self.steps_to_go(observations)


class Fleet:
    """One robot's nodes in this process, started with the arguments of the fleet file."""

    def __init__(self, context, executor, probe, spin_until, space, folder: Path) -> None:
        self.context, self.executor = context, executor
        self.probe, self.spin_until = probe, spin_until
        camera = CameraDescription(name="front", width=32, height=32)
        guard = {"workspace": {"x": (0.2, 0.6), "y": (-0.2, 0.2)}}
        robot = RobotDescription(
            name="robot_1", cameras=(camera,), space=space, guard=guard, operator="oracle",
            demonstrator=True,
        )  # fmt: skip
        self.robot = robot
        description = FleetDescription(
            robots=(robot,), data_dir=folder / "data", models_dir=folder, reserve_mb=0.0
        )
        self.fleet = save_fleet(description, folder / "fleet.yaml")
        self.data = folder / "data"
        self.args = {s.name: list(s.args) for s in processes(self.fleet, folder / "run")}
        probe.hear(topics.EPISODE_STATUS, topics.EPISODE_TICK, topics.TRUTH_STATE)
        self.stopped = Sender(probe, STOPPED)
        self.plans = Sender(probe, PLAN)
        probe.create_timer(0.1, lambda: self.stopped.send(messages.boolean(False)))

    def start(self, *kinds) -> None:
        made = {"sim": SimulatedRobotNode, "guard": GuardNode, "manager": EpisodeManagerNode,
                "demonstrator": DemonstratorNode}  # fmt: skip
        for kind in kinds:
            args = [*self.args[f"robot_1_{kind}"], *ALONE_ARGS]
            self.executor.add_node(made[kind](context=self.context, cli_args=args))

    def start_models(self) -> InferenceHost:
        node = Node("inference", context=self.context)
        host = InferenceHost(node, lambda versions, robot: Loaded(CountingEngine(), 0.001))
        self.executor.add_node(node)
        space, cameras = self.robot.space, self.robot.cameras
        for hosted in host.add(
            "robot_1", cameras, space, "lockstep", self.context, parameters=MODELS_ALONE
        ):
            self.executor.add_node(hosted)
        return host

    def run(self, plan: EpisodePlan, timeout=30.0):
        self.plans.send(messages.text(plan.model_dump_json()))
        total = str(len(plan.episodes["robot_1"]))
        self.spin_until(lambda: self.status().get("plan") == plan.plan_id)
        self.spin_until(lambda: self.status()["plan_done"] == total, timeout)
        found = [EpisodeReader(path) for path in list_episodes(self.data / plan.data_set)]
        return sorted(found, key=lambda reader: reader.record.index)

    def status(self):
        return self.probe.status(topics.EPISODE_STATUS)


@pytest.fixture
def fleet(context, executor, probe, spin_until, space, tmp_path):
    return Fleet(context, executor, probe, spin_until, space, tmp_path)


def plan(name: str, mode: Mode, seeds, limit=40, **values) -> EpisodePlan:
    episodes = [
        {"index": i, "scene": {"seed": seed}, "limit": limit} for i, seed in enumerate(seeds)
    ]
    return EpisodePlan(
        plan_id=name, mode=mode, data_set=name, episodes={"robot_1": episodes}, **values
    )


def heard(reader: EpisodeReader, topic) -> dict[int, object]:
    """tick -> the last message with that tick's stamp."""
    record, found = reader.record, {}
    for _, kind, _, raw in reader.messages([f"/robot_1/{topic.name}"]):
        message = messages.deserialize(raw, kind)
        tick = (messages.stamp_of(message) - record.start_ns) * record.rate / 1e9
        if abs(tick - round(tick)) < 1e-6:
            found[round(tick)] = message
    return found


def replay_matches(reader: EpisodeReader) -> None:
    """The recorded pictures are those of a world that gets the recorded commands."""
    config = WorldConfig(image_width=32, image_height=32)
    world = World(config)
    world.reset(reader.record.scene_seed)
    pictures, commands = heard(reader, FRONT), heard(reader, COMMAND)
    guard = heard(reader, topics.GUARD_STATE)
    last = max(pictures)
    assert sorted(pictures) == list(range(last + 1))
    for tick in range(last + 1):
        assert np.array_equal(messages.read_image(pictures[tick]), world.render()), tick
        if tick < last:
            linear = commands[tick].twist.linear
            executed = messages.read_named_scalars(guard[tick])
            assert (linear.x, linear.y) == pytest.approx(
                (executed["executed/x"] * 10.0, executed["executed/y"] * 10.0)
            )
            world.step((linear.x, linear.y))
    world.close()


def test_demonstrations_are_recorded_whole_and_the_same_twice(fleet):
    fleet.start("sim", "guard", "manager", "demonstrator")
    first = fleet.run(plan("demo_a", Mode.DEMO, [3, 4], limit=150))
    second = fleet.run(plan("demo_b", Mode.DEMO, [3, 4], limit=150))
    for reader in first:
        record = reader.record
        assert check_episode(reader.path) == []
        assert (record.outcome, record.termination_reason) == (Outcome.SUCCESS, "operator")
        assert (record.labels.operator, record.labels.operator_source) == (True, "oracle")
        assert record.labels.truth is True
        assert record.topics["/robot_1/camera/front/image_raw"].on_time == record.ticks + 5
        sources = {k: int(messages.read_named_scalars(m)["source"])
                   for k, m in heard(reader, topics.GUARD_STATE).items()}  # fmt: skip
        assert [sources[k] for k in range(record.ticks + 4)] == [2] * record.ticks + [0] * 4
        replay_matches(reader)
        with AnyReader([reader.path]) as other:
            assert other.topics["/robot_1/joint_states"].msgcount == record.ticks + 5
    for one, two in zip(first, second, strict=True):
        assert one.record.ticks == two.record.ticks
        assert one.record.scene_hash == two.record.scene_hash
        for topic in (FRONT, topics.JOINT_STATES, topics.GUARD_STATE):
            mine, theirs = heard(one, topic), heard(two, topic)
            values = [("data", FRONT)] if topic is FRONT else [("position", topic)]
            for field, _ in values:
                for tick in range(one.record.ticks + 4):
                    a, b = getattr(mine[tick], field), getattr(theirs[tick], field)
                    if topic is topics.GUARD_STATE:
                        a, b = a[:4], b[:4]  # executed, source, modified; not the ages
                    assert np.array_equal(a, b), (topic.name, tick)


def test_practice_ends_by_the_detector_and_evaluation_by_the_limit(fleet):
    host = fleet.start_models()
    fleet.start("sim", "guard", "manager")
    versions = {"policy_version": "p1", "reward_version": "r1"}
    practice = fleet.run(plan("practice", Mode.PRACTICE, [5, 6], **versions))
    for reader in practice:
        record = reader.record
        assert (record.outcome, record.termination_reason) == (Outcome.SUCCESS, "detector")
        # d = 0 at ticks 6 and 7, hold 2: success at observation 7, after decisions 0..6
        assert (record.ticks, record.success_tick) == (SUCCESS_AT + 1, SUCCESS_AT + 1)
        decisions, pictures = heard(reader, topics.DECISION), heard(reader, FRONT)
        assert sorted(decisions) == sorted(pictures) == list(range(record.ticks + 5))
        for tick, message in decisions.items():
            image = messages.read_image(pictures[tick])
            scalars = messages.read_named_scalars(message)
            bins = [scalars["bin/x"], scalars["bin/y"]]
            assert bins == CountingEngine.bins(image).tolist()
        guard = heard(reader, topics.GUARD_STATE)
        sources = [int(messages.read_named_scalars(guard[k])["source"])
                   for k in range(record.ticks + 4)]  # fmt: skip
        assert sources == [1] * record.ticks + [0] * 4
        chunk = heard(reader, topics.ACTION_CHUNK)[0]
        assert chunk.header.frame_id == record.episode_id
        replay_matches(reader)
    (evaluation,) = fleet.run(
        plan("evaluation", Mode.EVALUATION, [7], limit=12, end_on_success=False, **versions)
    )
    record = evaluation.record
    assert (record.outcome, record.termination_reason) == (Outcome.SUCCESS, "timeout")
    assert (record.ticks, record.success_tick) == (12, SUCCESS_AT + 1)
    assert sorted(heard(evaluation, topics.REWARD_STATE)) == list(range(13))
    replay_matches(evaluation)
    host.close()


def test_services_pause_stop_and_label_a_running_episode(fleet, spin_until, probe):
    fleet.start("sim", "guard", "manager")
    clients = {name: probe.create_client(Trigger, f"episode/{name}")
               for name in ("pause", "resume", "failure", "stop", "start")}  # fmt: skip
    spin_until(lambda: all(client.service_is_ready() for client in clients.values()))

    def call(name):
        future = clients[name].call_async(Trigger.Request())
        spin_until(future.done)
        return future.result()

    def phase():
        return fleet.status().get("phase")

    wanted = plan("served", Mode.DEMO, [1, 2])
    fleet.plans.send(messages.text(wanted.model_dump_json()))
    spin_until(lambda: phase() == "running")
    assert call("pause").success
    spin_until(lambda: phase() == "paused")
    assert call("resume").success
    spin_until(lambda: phase() == "running")
    labelled = call("failure")
    assert labelled.success
    spin_until(lambda: fleet.status()["plan_done"] == "1" and phase() == "running")
    assert call("stop").success
    spin_until(lambda: phase() == "stopped" and fleet.status()["plan_done"] == "2")
    refused = call("failure")
    assert (refused.success, "stopped" in refused.message) == (False, True)
    assert call("start").success
    spin_until(lambda: phase() == "idle")
    records = [EpisodeReader(path).record for path in list_episodes(fleet.data / "served")]
    found = {r.index: (r.outcome, r.termination_reason) for r in records}
    assert found == {0: (Outcome.FAILURE, "operator"), 1: (Outcome.INTERRUPTED, "stop")}
    assert {r.episode_id for r in records if r.index == 0} == {labelled.message}


def test_a_killed_manager_loses_nothing(fleet, spin_until):
    """SIGKILL in mid-episode: the cut episode is kept and marked, the plan goes on."""
    fleet.start("sim", "guard", "demonstrator")
    command = [sys.executable, "-m", "efm_bringup.child", "efm_episode_manager",
               *fleet.args["robot_1_manager"], *ALONE_ARGS]  # fmt: skip
    root = Path(__file__).resolve().parents[2]
    environment = {k: v for k, v in os.environ.items()
                   if k not in ("LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")}  # fmt: skip
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "sim")])
    environment["ROS_DOMAIN_ID"] = str(fleet.context.get_domain_id())

    def spawn():
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    wanted = plan("killed", Mode.DEMO, [3, 17, 4], limit=150)
    manager = spawn()
    try:
        fleet.plans.send(messages.text(wanted.model_dump_json()))
        spin_until(lambda: fleet.status().get("plan_done") == "1", 30.0)
        (saved,) = list_episodes(fleet.data / "killed")

        def tick() -> float:
            """Of the second episode, however many messages a busy machine has dropped."""
            newest = fleet.probe.heard[topics.EPISODE_TICK.name][-1]
            scalars = messages.read_named_scalars(newest)
            return scalars["tick"] if newest.header.frame_id != saved.name else -1.0

        # A chunk of 64 KiB holds five pictures, so many are lost; later the episode may be over.
        spin_until(lambda: tick() > 25)
        manager.send_signal(signal.SIGKILL)
        manager.wait(5)
        assert len(list(fleet.data.glob("killed/*.partial"))) == 1
        manager = spawn()
        readers = fleet.run(wanted, 30.0)
        second = spawn()
        assert second.wait(20) == 2
        assert "already has an episode manager" in second.stderr.read()
    finally:
        manager.terminate()
        manager.wait(10)
    assert manager.returncode == 0
    assert [reader.record.index for reader in readers] == [0, 1, 2]
    assert [reader.record.recovered for reader in readers] == [False, True, False]
    cut = readers[1].record
    assert (cut.outcome, cut.termination_reason) == (Outcome.INTERRUPTED, "crash")
    assert all(check_episode(reader.path) == [] for reader in readers)
    assert len(heard(readers[1], FRONT)) >= 8
