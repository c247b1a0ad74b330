from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from rclpy.context import Context  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from trainer.test_lasting import LastingToy  # noqa: E402
from trainer.toy import GUARD, SIDE, SPACE, toy_model  # noqa: E402

from efm_core import messages  # noqa: E402
from efm_core.fleet import (  # noqa: E402
    CameraDescription,
    FleetDescription,
    RobotDescription,
    save_fleet,
)  # fmt: skip
from efm_core.plan import EpisodePlan  # noqa: E402
from efm_core.registry import Registry  # noqa: E402
from efm_core.topics import EPISODE_STATUS, Topic  # noqa: E402
from efm_model.inference import Engine  # noqa: E402
from efm_ros.channels import PLAN, TRAINER_STATUS, receive  # noqa: E402
from efm_ros.dds import apply_dds_profile  # noqa: E402
from efm_ros.executor import DrainingExecutor  # noqa: E402
from efm_ros.status import StatusSender  # noqa: E402
from efm_trainer.lasting import LastingScenes  # noqa: E402
from efm_trainer.node import TrainerNode  # noqa: E402
from efm_trainer.rollout import InProcessFleet  # noqa: E402
from efm_trainer.versions import Making, save_version  # noqa: E402

ROBOTS = ("left", "right")


class FakeManagers(Node):
    """Episode managers of two robots: they run their lists in process and write real bags."""

    def __init__(self, context: Context, fleet: FleetDescription) -> None:
        super().__init__("managers", context=context)
        self._fleet, self.plans, self.deaf = fleet, [], False
        self._scenes = LastingScenes()
        self._status = {
            name: StatusSender(
                self, Topic(f"/{name}/{EPISODE_STATUS.name}", EPISODE_STATUS.type, "latched"),
                "episode_manager", plan="", plan_done=0, plan_total=0,
            )
            for name in ROBOTS
        }  # fmt: skip
        receive(self, PLAN, self._run)

    def _run(self, message) -> None:
        plan = EpisodePlan.model_validate_json(message.data)
        self.plans.append(plan)
        if self.deaf:
            return
        registry = Registry(self._fleet.models_dir)
        engine = Engine.load(
            registry.path(plan.policy_version), registry.path(plan.reward_version), "torch"
        )
        robots = [LastingToy()]
        InProcessFleet(
            robots, GUARD, self._fleet.data_dir, scenes=self._scenes
        ).practise(plan, engine)
        for name, status in self._status.items():
            listed = len(plan.episodes.get(name, ()))
            status.announce(plan=plan.plan_id, plan_done=listed, plan_total=listed)


class Bench:
    """A trainer, its managers and an operator in one domain of their own."""

    def __init__(self, folder: Path) -> None:
        apply_dds_profile()
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=random.SystemRandom().randint(42, 99))
        self.executor = DrainingExecutor(context=self.context)
        camera = CameraDescription(name="front", width=SIDE, height=SIDE)
        robots = tuple(
            RobotDescription(name=name, kind="driver", cameras=(camera,), space=SPACE)
            for name in ROBOTS
        )
        self.fleet = save_fleet(
            FleetDescription(
                robots=robots, models_dir=folder / "models", data_dir=folder / "data"
            ),
            folder / "fleet.yaml",
        )
        overrides = [
            Parameter("fleet", value=str(self.fleet.path)),
            Parameter("run_dir", value=str(folder / "run")),
        ]
        self.trainer = TrainerNode(context=self.context, parameter_overrides=overrides)
        self.managers = FakeManagers(self.context, self.fleet)
        self.operator = Node("operator", context=self.context)
        self.states: list[dict[str, str]] = []
        receive(
            self.operator, TRAINER_STATUS, lambda m: self.states.append(messages.read_status(m))
        )
        for node in (self.trainer, self.managers, self.operator):
            self.executor.add_node(node)

    def call(self, name: str) -> Trigger.Response:
        client = self.operator.create_client(Trigger, f"/trainer/{name}")
        self.until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.until(future.done)
        return future.result()

    def until(self, condition, timeout: float = 60.0) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"nothing after {timeout} s; {self.states[-1:]}"
            self.executor.spin_once(timeout_sec=0.02)

    def state(self) -> str:
        return self.states[-1]["state"] if self.states else ""

    def ask(self, **fields: object) -> None:
        value = json.dumps(
            {
                "policy": "p0", "reward": "r0", "name": "toy", "rounds": 2, "limit": 8,
                "episodes_per_round": 6, "entropy_floor": 0.0, "improve": {"minibatch": 16},
                **fields,
            }
        )  # fmt: skip
        self.trainer.set_parameters([Parameter("improve", value=value)])

    def close(self) -> None:
        self.executor.shutdown()
        for node in (self.trainer, self.managers, self.operator):
            node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def bench(tmp_path):
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    made = Bench(tmp_path)
    for version, role, seed in (("p0", "policy", 1), ("r0", "reward", 2)):
        making = Making(role=role, algorithm="sft")
        save_version(made.fleet.models_dir, version, toy_model(seed), making)
    yield made
    made.close()


def test_practice_runs_over_ros(bench):
    bench.ask()
    assert bench.call("improve").success
    bench.until(lambda: bench.state() == "done")
    assert [plan.plan_id for plan in bench.managers.plans] == ["toy-r000", "toy-r001"]
    assert [plan.policy_version for plan in bench.managers.plans] == ["p0", "toy-r000"]
    assert {"p0", "r0", "toy-r000", "toy-r001"} == set(
        Registry(bench.fleet.models_dir).versions()
    )
    assert Registry(bench.fleet.models_dir).alias("candidate") == "toy-r001"
    last = bench.states[-1]
    assert (last["version"], last["progress"]) == ("toy-r001", "1")
    run_dir = Path(bench.trainer.get_parameter("run_dir").value)
    result = json.loads((run_dir / "toy" / "result.json").read_text())
    assert result["policy"] == "toy-r001"
    assert len(result["rounds"]) == 2


def test_practice_without_resets_is_asked_for_and_counted(bench):
    bench.ask(reset_free=True, misses=2)
    assert bench.call("improve").success
    bench.until(lambda: bench.state() == "done")
    for plan in bench.managers.plans:
        assert plan.misses == 2
        assert all(e.lasting for listed in plan.episodes.values() for e in listed)
    run_dir = Path(bench.trainer.get_parameter("run_dir").value)
    rounds = json.loads((run_dir / "toy" / "result.json").read_text())["rounds"]
    assert rounds[0]["episodes/resets"] >= len(ROBOTS)  # each had no scene at first
    for figures in rounds:
        share = figures["episodes/resets"] / figures["episodes/count"]
        assert figures["episodes/resets_per_100"] == pytest.approx(100 * share)


def test_a_second_job_is_refused_and_the_first_can_be_cancelled(bench):
    bench.managers.deaf = True
    bench.ask()
    assert bench.call("improve").success
    bench.until(lambda: bench.managers.plans)
    refused = bench.call("sft")
    assert not refused.success
    assert "a job is running" in refused.message
    assert bench.call("cancel").success
    bench.until(lambda: bench.state() == "cancelled")
    assert "toy-r000" in bench.states[-1]["reason"]
    assert not bench.call("cancel").success


def test_wrong_settings_are_refused_at_once(bench):
    bench.ask(rounds=0)
    answer = bench.call("improve")
    assert not answer.success
    assert "rounds" in answer.message
    bench.ask(nonsense=1)
    assert "nonsense" in bench.call("improve").message


def test_a_missing_version_fails_with_its_name(bench):
    bench.ask(policy="p9")
    assert bench.call("improve").success
    bench.until(lambda: bench.state() == "failed")
    assert "version 'p9'" in bench.states[-1]["reason"]
