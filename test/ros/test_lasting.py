"""Practice without resets over DDS, beside the same plan in one process: the same episodes."""

from __future__ import annotations

import pytest

pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")
pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from ros import test_loop
from ros.test_loop import CountingEngine, Fleet

from efm_core.bags import check_episode
from efm_core.episode import Mode, Outcome
from efm_core.guard import GuardSettings
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_core.reset_free import NO_SCENE
from efm_sim.node import SimulatedRobotNode
from efm_sim.world import World, WorldConfig
from efm_trainer.rollout import InProcessFleet


class Counting(CountingEngine):
    """The engine of the nodes, as one process asks for it."""

    policy_version, reward_version = "p1", "r1"

    def __init__(self, space) -> None:
        self.action_space = space


def lasting_plan(name, count=5, **fields):
    episodes = tuple(
        PlannedEpisode(index=i, scene={"seed": 50 + i, "lasting": True}, limit=8)
        for i in range(count)
    )
    return EpisodePlan(
        plan_id=name, mode=Mode.PRACTICE, data_set=name, policy_version="p1",
        reward_version="r1", episodes={"robot_1": episodes}, **fields,
    )  # fmt: skip


def facts(record):
    return (
        record.index, record.instruction, record.scene_hash, record.scene_seed, record.ticks,
        record.outcome, record.reset_asked, record.reset_reason,
    )  # fmt: skip


@pytest.fixture
def fleet(context, executor, probe, spin_until, space, tmp_path):
    made = Fleet(context, executor, probe, spin_until, space, tmp_path)
    made.start("sim", "guard", "manager")
    host = made.start_models()
    yield made
    host.close()


@pytest.mark.parametrize("success_at", [6, 10_000])
def test_nodes_and_one_process_agree(fleet, space, monkeypatch, success_at):
    monkeypatch.setattr(test_loop, "SUCCESS_AT", success_at)
    plans = [lasting_plan("first", misses=2), lasting_plan("second", 3, misses=2)]
    recorded = [reader for plan in plans for reader in fleet.run(plan, 60.0)]
    assert all(check_episode(reader.path) == [] for reader in recorded)
    world = World(WorldConfig(image_width=32, image_height=32))
    guard = GuardSettings(space=space, workspace={"x": (0.2, 0.6), "y": (-0.2, 0.2)})
    here = InProcessFleet([world], guard)
    played = [e.record for plan in plans for e in here.practise(plan, Counting(space))]
    world.close()
    assert [facts(r.record) for r in recorded] == [facts(r) for r in played]
    reasons = [reader.record.reset_reason for reader in recorded]
    assert reasons[0] == NO_SCENE
    # Fresh at 0, after two failures at 2, and so on, through both plans; none after successes.
    failed = success_at > 8
    every = [i > 0 and i % 2 == 0 and failed for i in range(8)]
    assert ["in a row" in reason for reason in reasons] == every
    outcome = Outcome.FAILURE if failed else Outcome.SUCCESS
    assert {reader.record.outcome for reader in recorded} == {outcome}
    total = 1 + sum(every)
    assert fleet.status()["resets_asked_total"] == str(total)
    assert fleet.status()["interventions_per_100"] == f"{100 * total / 8:.2f}"


def test_a_robot_that_is_started_anew_has_lost_its_scene(fleet, executor):
    first = fleet.run(lasting_plan("first", 2), 60.0)
    (robot,) = [node for node in executor.get_nodes() if isinstance(node, SimulatedRobotNode)]
    executor.remove_node(robot)
    robot.destroy_node()
    fleet.start("sim")
    second = fleet.run(lasting_plan("second", 2), 60.0)
    reasons = [reader.record.reset_reason for reader in [*first, *second]]
    assert reasons == [NO_SCENE, "", NO_SCENE, ""]
    assert fleet.status()["interventions_per_100"] == "50.00"
