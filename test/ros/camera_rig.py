"""A lab in one process: a driver's robot with several cameras, and what may happen to pictures."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros.alone import ALONE, ALONE_ARGS
from ros.test_policy_checkpoint import GOAL, SMALL
from safetensors.torch import save as save_tensors
from std_srvs.srv import Trigger

from efm_bringup.faults.frame_faults import FaultProxy
from efm_bringup.guard_node import GuardNode
from efm_bringup.inference_node import InferenceNode
from efm_core import messages, topics
from efm_core.bags import EpisodeReader, list_episodes
from efm_core.camera_description import CameraDescription
from efm_core.checkpoint import Manifest, write_checkpoint
from efm_core.detector import DetectorSettings
from efm_core.fleet import FleetDescription, RobotDescription, save_fleet
from efm_core.fleet_processes import processes
from efm_core.guard import Fault
from efm_core.plan import EpisodePlan
from efm_episode_manager.node import EpisodeManagerNode
from efm_model.config import CameraSpec, ModelConfig
from efm_model.model import EmbodiedModel
from efm_model.preprocess import Preprocessor, PreprocessorConfig, build_vocabulary
from efm_ros.channels import PLAN, STOPPED, Sender, receive
from efm_ros.convert import message_class
from efm_ros.status import StatusSender

SIZE = 32
CAMERAS = (
    CameraDescription(name="front", width=SIZE, height=SIZE, rate=20.0, max_age=10.0),
    CameraDescription(
        name="wrist", width=SIZE, height=SIZE, rate=12.5, compressed=True, max_age=10.0
    ),
    CameraDescription(name="side", width=SIZE, height=SIZE, rate=10.0, max_age=10.0),
)
"""A raw one with padded rows, a compressed one, one in YUV; no two at the same rate."""
_STEADY = Clock(clock_type=ClockType.STEADY_TIME)
_LATENCY = {"front": 0.012, "wrist": 0.03, "side": 0.02}


def encode(name: str, stamp_ns: int, rgb: np.ndarray):
    """A picture as the camera of that name sends it."""
    if name == "wrist":
        data = cv2.imencode(".jpg", rgb[:, :, ::-1])[1].tobytes()
        return messages.compressed_image(stamp_ns, name, "rgb8; jpeg compressed bgr8", data)
    message = messages.image(stamp_ns, name, rgb)
    if name == "front":
        rows = np.pad(rgb[:, :, ::-1].reshape(SIZE, -1), ((0, 0), (0, 5)))
        message.encoding, message.step, message.data = "bgr8", rows.shape[1], rows.reshape(-1)
    elif name == "side":
        rows = np.empty((SIZE, SIZE, 2), np.uint8)
        rows[:, :, 0], rows[:, :, 1] = rgb[:, :, 0], 128 + (rgb[:, :, 1] >> 3)
        message.encoding, message.step, message.data = "yuv422_yuy2", 2 * SIZE, rows.reshape(-1)
    return message


class CameraSender:
    """A driver's publisher: deep enough that a burst of pictures leaves it whole."""

    def __init__(self, node: Node, topic: topics.Topic) -> None:
        self._type = topic.type
        self._publisher = node.create_publisher(message_class(topic.type), topic.name, 30)

    def send(self, message) -> None:
        """Publish a typestore message."""
        self._publisher.publish(messages.serialize(message, self._type))


class DriverRobot(Node):
    """Plays the drivers of arm and cameras. Pictures show noise and where the tool is.

    pictures: camera -> what is done with each of its messages, in order; default: published.
    frozen: cameras that show their last picture again. dead: cameras that are silent.
    """

    def __init__(self, context, cameras=CAMERAS) -> None:
        super().__init__("robot", namespace="robot_1", context=context)
        self.tool = np.array([0.4, 0.0])
        self.frozen: set[str] = set()
        self.dead: set[str] = set()
        self.senders = {c.name: CameraSender(self, c.topic) for c in cameras}
        self.pictures: dict[str, Callable] = {n: s.send for n, s in self.senders.items()}
        self._rng = np.random.default_rng(5)
        self._last: dict[str, np.ndarray] = {}
        self._begun_ns = time.time_ns()
        self._joints, self._pose = Sender(self, topics.JOINT_STATES), Sender(self, topics.EE_POSE)
        self._status = StatusSender(self, topics.RESET_STATUS, "reset", state="idle")
        self.declare_parameter("scene", "{}")
        self.create_service(Trigger, "reset", self._reset)
        receive(self, topics.twist_command("arm"), self._obey, "real")
        self.create_timer(0.02, self._tell, clock=_STEADY)
        for camera in cameras:
            self._start(camera)

    def _start(self, camera: CameraDescription) -> None:
        count = itertools.count()
        self._next = getattr(self, "_next", {}) | {camera.name: next(count)}
        period_ns = round(1e9 / camera.rate)

        def look() -> None:
            """Every picture that is due by now, stamped on its schedule however late it is."""
            while True:
                stamp_ns = self._begun_ns + self._next[camera.name] * period_ns
                if time.time_ns() < stamp_ns + _LATENCY[camera.name] * 1e9:
                    return
                self._next[camera.name] = next(count)
                if camera.name not in self.dead:
                    self.pictures[camera.name](
                        encode(camera.name, stamp_ns, self._look(camera.name))
                    )

        self.create_timer(0.004, look, clock=_STEADY)

    def _look(self, name: str) -> np.ndarray:
        if name not in self.frozen or name not in self._last:
            rgb = self._rng.integers(0, 100, (SIZE, SIZE, 3), dtype=np.uint8)
            x, y = (self.tool / 0.4 * (SIZE - 8) % (SIZE - 8)).astype(int)
            rgb[y : y + 8, x : x + 8] = 255
            self._last[name] = rgb
        return self._last[name]

    def _tell(self) -> None:
        now = time.time_ns()
        self._joints.send(messages.named_scalars(now, "", {"joint_1": float(self.tool[0])}))
        self._pose.send(messages.pose(now, "base", (*self.tool, 0.1)))

    def _obey(self, message) -> None:
        self.tool += 0.02 * np.array([message.twist.linear.x, message.twist.linear.y])

    def _reset(self, _, response):
        request = json.loads(str(self.get_parameter("scene").value)).get("request", "")
        self.tool = np.array([0.4, 0.0])
        self._status.announce(
            state="done", stamp_ns=time.time_ns(), instruction=GOAL, request=request, reason=""
        )
        response.success, response.message = True, "done"
        return response


def fault_proxy(robot: DriverRobot, camera: str) -> FaultProxy:
    """A `FaultProxy` between that camera of the robot and its topic."""

    def shrink(message) -> None:
        if camera == "wrist":
            jpeg = cv2.imencode(".jpg", np.zeros((SIZE, SIZE - 8, 3), np.uint8))[1].tobytes()
            message.data = messages.compressed_image(0, "", "jpeg", jpeg).data
        else:
            message.width -= 8

    proxy = FaultProxy(robot.senders[camera].send, shrink)
    robot.pictures[camera] = proxy.take
    return proxy


def make_checkpoint(fleet: FleetDescription, version: str, role: str) -> None:
    """A tiny network with random weights for the robot's cameras."""
    robot = fleet.robots[0]
    specs = tuple(CameraSpec(name=c.name, width=c.width, height=c.height) for c in robot.cameras)
    words = PreprocessorConfig(cameras=specs, vocabulary=build_vocabulary([GOAL]))
    torch.manual_seed(0)
    config = ModelConfig(small=SMALL, cameras=specs, action_space=robot.space)
    model = EmbodiedModel(config, Preprocessor(words)).eval()
    with torch.no_grad():
        for head in (model.action_head, model.steps_to_go_head):
            for parameter in head.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    files = {
        "config.json": config.model_dump_json().encode(),
        "model.safetensors": save_tensors(
            {name: value.contiguous() for name, value in model.state_dict().items()}
        ),
        "preprocessor.json": model.preprocessor.to_json().encode(),
    }
    manifest = Manifest(role=role, detector=DetectorSettings() if role == "reward" else None)
    write_checkpoint(fleet.models_dir, version, files, manifest)


class Lab:
    """The whole stack of one robot in real time: driver, guard, models and manager."""

    def __init__(self, context, executor, probe, spin_until, space, folder: Path, cameras=CAMERAS):
        self.probe, self.spin_until = probe, spin_until
        robot = RobotDescription(
            name="robot_1", kind="driver", cameras=cameras, space=space,
            guard={"workspace": {"x": (-99.0, 99.0), "y": (-99.0, 99.0)}}, instructions=(GOAL,),
            reset={"kind": "simulator"},
        )  # fmt: skip
        self.fleet = save_fleet(
            FleetDescription(
                clock="real", robots=(robot,), data_dir=folder / "data",
                models_dir=folder / "models", reserve_mb=0.0, backend="torch",
            ),
            folder / "fleet.yaml",
        )  # fmt: skip
        for role in ("policy", "reward"):
            make_checkpoint(self.fleet, f"{role}_1", role)
        probe.hear(
            topics.EPISODE_STATUS, topics.POLICY_STATUS, topics.GUARD_STATE, topics.DECISION
        )
        args = {
            s.name: [*s.args, *ALONE_ARGS] for s in processes(self.fleet, folder / "run")
        }
        self.robot = DriverRobot(context, cameras)
        nodes = [self.robot, GuardNode(context=context, cli_args=args["robot_1_guard"])]
        patient = ["-p", "silence_s:=20.0"]  # a busy machine stalls for seconds
        manager = EpisodeManagerNode(context=context, cli_args=[*args["robot_1_manager"], *patient])
        nodes.append(manager)
        inference = InferenceNode(
            context=context,
            parameter_overrides=[Parameter("fleet", value=str(self.fleet.path)), ALONE],
        )
        for node in (*nodes, inference, *inference.hosted):
            executor.add_node(node)
        self._stopped, self._plans = Sender(probe, STOPPED), Sender(probe, PLAN)
        probe.create_timer(0.1, lambda: self._stopped.send(messages.boolean(False)))

    @property
    def status(self) -> dict[str, str]:
        """The newest episode/status."""
        return self.probe.status(topics.EPISODE_STATUS)

    @property
    def policy(self) -> dict[str, str]:
        """The newest policy/status."""
        return self.probe.status(topics.POLICY_STATUS)

    def policy_messages(self, level: int) -> str:
        """What policy/status said at that level, all in one."""
        heard = self.probe.heard[topics.POLICY_STATUS.name]
        return "\n".join(m.status[0].message for m in heard if m.status[0].level == level)

    def guard_fault(self) -> Fault:
        """The fault in the newest guard/state."""
        newest = self.probe.heard[topics.GUARD_STATE.name][-1]
        return Fault(int(messages.read_named_scalars(newest)["fault"]))

    def begin(self, name: str, limit: int) -> None:
        """Start one episode of practice; returns when it runs."""
        plan = EpisodePlan(
            plan_id=name, mode="practice", data_set=name, policy_version="policy_1",
            reward_version="reward_1", temperature=0.8, seed=7, end_on_success=False,
            episodes={"robot_1": [{"index": 0, "scene": {}, "limit": limit}]},
        )  # fmt: skip
        self._plans.send(messages.text(plan.model_dump_json()))
        self.spin_until(
            lambda: self.status.get("plan") == name and self.status["phase"] == "running", 60.0
        )

    def practise(self, name: str, decisions: int) -> EpisodeReader:
        """One episode with that many decisions at least, however long they take."""
        self.begin(name, 6000)
        heard = self.probe.heard[topics.DECISION.name]
        before = len(heard)
        self.spin_until(lambda: len(heard) >= before + decisions, 60.0)
        self.call("failure")
        return self.saved(name)

    def call(self, name: str) -> None:
        """Call episode/<name>."""
        client = self.probe.create_client(Trigger, f"episode/{name}")
        self.spin_until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.spin_until(future.done)
        assert future.result().success, future.result().message

    def saved(self, name: str, timeout: float = 30.0) -> EpisodeReader:
        """The episode of that plan, once it is on disk."""
        self.spin_until(lambda: self.status.get("plan_done") == "1", timeout)
        (path,) = list_episodes(self.fleet.data_dir / name)
        return EpisodeReader(path)
