"""Resets over DDS: robot, guard, manager and models as nodes, every method once."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")
pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from rclpy.node import Node
from ros import test_loop
from ros.alone import MODELS_ALONE
from ros.test_loop import Fleet
from std_srvs.srv import Trigger

from efm_bringup.inference_host import InferenceHost
from efm_bringup.model_shelf import Loaded
from efm_core import messages, topics
from efm_core.bags import EpisodeReader, check_episode, list_episodes
from efm_core.episode import Mode, Outcome
from efm_core.fleet import (
    CameraDescription,
    FleetDescription,
    RobotDescription,
    save_fleet,
)
from efm_core.fleet_processes import processes
from efm_core.guard import Source
from efm_ros.channels import PLAN, STOPPED, Sender

HOME = {"x": 0.32, "y": -0.08}
TEACHING = "push the red moon to the blue cube"
NEAR = 0.012


class ResetFleet(Fleet):
    """`test_loop.Fleet` in either clock, reset as `reset` says."""

    def __init__(self, context, executor, probe, spin_until, space, folder, clock, reset) -> None:
        self.context, self.executor = context, executor
        self.probe, self.spin_until, self.clock = probe, spin_until, clock
        self.robot = RobotDescription(
            name="robot_1", cameras=(CameraDescription(name="front", width=32, height=32),),
            space=space, guard={"workspace": {"x": (0.2, 0.6), "y": (-0.2, 0.2)}}, reset=reset,
        )  # fmt: skip
        description = FleetDescription(
            robots=(self.robot,), data_dir=folder / "data", models_dir=folder, reserve_mb=0.0,
            clock=clock,
        )  # fmt: skip
        self.fleet = save_fleet(description, folder / "fleet.yaml")
        self.data = folder / "data"
        self.args = {s.name: list(s.args) for s in processes(self.fleet, folder / "run")}
        probe.hear(topics.EPISODE_STATUS, topics.GUARD_STATE, topics.EE_POSE, topics.TRUTH_STATE)
        self.stopped, self.plans = Sender(probe, STOPPED), Sender(probe, PLAN)
        self.halted = False
        probe.create_timer(0.1, lambda: self.stopped.send(messages.boolean(self.halted)))

    def start_models(self) -> InferenceHost:
        node = Node("inference", context=self.context)
        host = InferenceHost(node, lambda v, r: Loaded(test_loop.CountingEngine(), 0.001))
        self.executor.add_node(node)
        robot = self.robot
        for hosted in host.add(
            "robot_1", robot.cameras, robot.space, self.clock, self.context,
            parameters=MODELS_ALONE,
        ):  # fmt: skip
            self.executor.add_node(hosted)
        return host

    @property
    def phase(self) -> str:
        return self.status().get("phase", "")

    def call(self, name):
        client = self.probe.create_client(Trigger, f"episode/{name}")
        self.spin_until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.spin_until(future.done)
        return future.result()

    def sources(self):
        heard = self.probe.heard[topics.GUARD_STATE.name]
        return [int(messages.read_named_scalars(m)["source"]) for m in heard]

    def publish(self, wanted):
        self.plans.send(messages.text(wanted.model_dump_json()))


@pytest.fixture
def make(context, executor, probe, spin_until, space, tmp_path, monkeypatch):
    """`make(clock, reset)`: the running fleet; episodes of practice end by their limit."""
    monkeypatch.setattr(test_loop, "SUCCESS_AT", 10_000)
    hosts = []

    def build(clock, reset):
        made = ResetFleet(context, executor, probe, spin_until, space, tmp_path, clock, reset)
        made.start("sim", "guard", "manager")
        hosts.append(made.start_models())
        return made

    yield build
    for host in hosts:
        host.close()


def practice(seeds, limit=8, name="practice"):
    versions = {"policy_version": "p1", "reward_version": "r1"}
    return test_loop.plan(name, Mode.PRACTICE, seeds, limit=limit, **versions)


def messages_of(reader, topic):
    """All messages of a topic, in the order of the bag."""
    found = reader.messages([f"/robot_1/{topic.name}"])
    return [messages.deserialize(raw, kind) for _, kind, _, raw in found]


def first(reader, topic):
    """The first message of a topic with a stamp of the episode."""
    start = reader.record.start_ns
    found = [m for m in messages_of(reader, topic) if messages.stamp_of(m) >= start]
    return found[0]


def start_of(reader):
    """Where the arm stood when the episode began: the newest pose from before it moved."""
    start, poses = reader.record.start_ns, messages_of(reader, topics.EE_POSE)
    before = [m for m in poses if messages.stamp_of(m) <= start]
    return messages.read_position((before or poses)[-1 if before else 0])[:2]


def test_a_scripted_pose_through_the_guard(make):
    fleet = make("real", {"kind": "pose", "poses": [{"x": 0.5}, HOME], "speed": 0.8})
    readers = fleet.run(practice([5, 6]), 60.0)
    for reader in readers:
        assert start_of(reader) == pytest.approx(list(HOME.values()), abs=NEAR)
        assert (reader.record.reset, reader.record.reset_attempts) == ("pose", 1)
        assert check_episode(reader.path) == []
    assert Source.RESET in fleet.sources()


def test_back_along_its_own_way(make):
    fleet = make("real", {"kind": "reverse"})
    readers = fleet.run(practice([5, 6, 7], limit=15), 60.0)
    begun = start_of(readers[0])
    for reader in readers[1:]:
        assert start_of(reader) == pytest.approx(begun.tolist(), abs=NEAR)
        assert reader.record.reset == "reverse"
    poses = messages_of(readers[0], topics.EE_POSE)
    moved = np.array([messages.read_position(m)[:2] for m in poses])
    assert np.abs(moved - begun).max() > 2 * NEAR  # there was something to go back from


def test_a_person_over_the_service(make):
    fleet = make("real", {"kind": "person", "request": "put it back"})
    fleet.publish(practice([5]))
    fleet.spin_until(lambda: fleet.status().get("waits_for") == "person")
    assert fleet.phase == "resetting"
    assert fleet.status()["reason"] == "put it back, then call episode/reset_done"
    assert fleet.call("reset_done").success
    fleet.spin_until(lambda: fleet.status()["plan_done"] == "1", 30.0)


@pytest.mark.parametrize("clock", ["lockstep", "real"])
def test_the_policy_undoes_the_task(make, clock, monkeypatch):
    monkeypatch.setattr(test_loop, "SUCCESS_AT", 4)
    fleet = make(clock, {"kind": "policy", "instruction": TEACHING, "ticks": 30})
    readers = fleet.run(practice([5, 6], limit=12), 60.0)
    runs = [EpisodeReader(path) for path in list_episodes(fleet.data / "practice-resets")]
    assert len(readers) == len(runs) == 2
    assert {run.record.instruction for run in runs} == {TEACHING}
    assert {run.record.task for run in runs} == {"reset"}
    assert {run.record.outcome for run in runs} == {Outcome.SUCCESS}
    assert [r.record.reset for r in readers] == ["policy", "policy"]
    assert all(check_episode(r.path) == [] for r in (*readers, *runs))


def blocks(message):
    scalars = messages.read_named_scalars(message)
    return {k: v for k, v in scalars.items() if k.endswith(("_x", "_y"))}


def test_practice_without_resets_until_one_is_asked_for(make):
    fleet = make("lockstep", {"kind": "none", "asked": {"kind": "simulator"}})
    fleet.publish(practice([5, 6, 7, 8], limit=40))
    fleet.spin_until(lambda: fleet.status().get("plan_done") == "2", 60.0)
    fleet.spin_until(lambda: fleet.phase == "running" and int(fleet.status()["tick"]) > 3)
    assert fleet.call("ask_reset").success
    fleet.spin_until(lambda: fleet.status()["plan_done"] == "4", 60.0)
    readers = sorted(
        (EpisodeReader(path) for path in list_episodes(fleet.data / "practice")),
        key=lambda reader: reader.record.index,
    )
    kinds = [(r.record.reset, r.record.reset_asked) for r in readers]
    assert kinds == [("none", False)] * 3 + [("simulator", True)]
    assert fleet.status()["interventions_per_100"] == "25.00"
    for before, after in ((0, 1), (1, 2)):
        last = messages_of(readers[before], topics.TRUTH_STATE)[-1]
        assert blocks(last) == blocks(first(readers[after], topics.TRUTH_STATE))  # bit for bit
        assert readers[after].record.scene_seed is None
    assert readers[3].record.scene_seed == 8
    for reader in readers:
        truth = messages.read_named_scalars(first(reader, topics.TRUTH_STATE))
        assert truth["success"] == 0.0  # nothing that is done already is asked for


def test_nothing_moves_after_a_stop_in_the_middle_of_a_reset(make):
    fleet = make("real", {"kind": "pose", "poses": [{"x": 0.25, "y": -0.15}, {"x": 0.55}],
                          "speed": 0.2})  # fmt: skip
    fleet.publish(practice([5]))
    fleet.spin_until(lambda: Source.RESET in fleet.sources(), 30.0)
    fleet.halted = True
    fleet.spin_until(lambda: fleet.phase == "stopped" and fleet.sources()[-1] == Source.HOLD)
    heard = fleet.probe.heard[topics.EE_POSE.name]
    count = len(heard)
    fleet.spin_until(lambda: len(heard) > count + 5)
    at = messages.read_position(heard[-1])
    fleet.spin_until(lambda: len(heard) > count + 15)
    assert messages.read_position(heard[-1]) == pytest.approx(at, abs=1e-6)
    fleet.halted = False
    fleet.spin_until(lambda: len(heard) > count + 25)
    assert fleet.sources()[-1] == Source.HOLD  # clearing alone moves nothing
    assert fleet.call("start").success
    seen = len(fleet.sources())
    fleet.spin_until(lambda: Source.RESET in fleet.sources()[seen:])  # and the start resets anew
    assert math.isfinite(float(at[0]))
