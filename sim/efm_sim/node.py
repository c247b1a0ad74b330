"""A simulated robot as a ROS 2 node: from outside it is a robot like any other.

It publishes a camera, joint states and the pose of its tool, obeys velocity commands and resets
on request; beside that it tells the truth for evaluation. In lockstep it moves only when every
answer to its last observation is there; in real time it moves with the clock.
"""

from __future__ import annotations

import sys
from typing import Any

from pydantic import ValidationError
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from efm_core import messages, topics
from efm_ros.channels import Sender, receive
from efm_ros.entrypoint import run
from efm_ros.status import StatusSender
from efm_sim.scene_request import SceneRequest
from efm_sim.turn import Turn
from efm_sim.world import World, WorldConfig

PUSHER_HEIGHT = 0.02
"""Height of the tool's tip over the board in m, for ee_pose."""
_CHECK_SECONDS = 0.1
_STEADY = Clock(clock_type=ClockType.STEADY_TIME)


class SimulatedRobotNode(Node):
    """One simulated robot in the namespace that it is started in."""

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        """Raises ValueError naming the parameter when `world` or `clock` is not understood."""
        super().__init__("robot", context=context, **options)
        self._declare()
        self._lockstep = self._text("clock") == "lockstep"
        self._world = World(self._world_config())
        self._period_ns = round(1e9 / self._world.config.control_hz)
        self._turn = Turn()
        self._tick, self._start_ns, self._stamp_ns = 0, 0, 0
        self._next_seed = int(self.get_parameter("seed").value)
        self._sent: list[tuple[Sender, bytes]] = []
        self._sent_at = self._commanded_at = 0.0
        self._velocity = (0.0, 0.0)
        self._pending: SceneRequest | None = None
        self._open()
        self._reset(SceneRequest())

    def _declare(self) -> None:
        def text(name: str, default: object, description: str, read_only: bool = True) -> None:
            self.declare_parameter(
                name, default, ParameterDescriptor(description=description, read_only=read_only)
            )

        text("clock", "lockstep", "lockstep: wait for the answers to each picture; real: do not")
        text("world", "{}", "JSON of efm_sim.world.WorldConfig: image size, blocks, physics")
        text("camera", "front", "name of the camera, topic camera/<name>/image_raw")
        text("command_group", "arm", "name of the command group, topic command/<group>/twist")
        text("seed", 0, "seed of the first scene; resets without a seed count on from it")
        text("resend_seconds", 0.5, "lockstep: send the observation again after this silence, s")
        text("command_timeout", 0.25, "real: stand still when no command came for this long, s")
        text("scene", "{}", "JSON for the next reset: seed, instruction, state", read_only=False)
        self.add_on_set_parameters_callback(self._check_scene)

    def _text(self, name: str) -> str:
        return str(self.get_parameter(name).value)

    def _world_config(self) -> WorldConfig:
        if self._text("clock") not in ("lockstep", "real"):
            raise ValueError(f"parameter clock='{self._text('clock')}': use lockstep or real")
        try:
            return WorldConfig.model_validate_json(self._text("world"))
        except ValidationError as error:
            raise ValueError(f"parameter world: {error}") from error

    def _check_scene(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "scene":
                try:
                    SceneRequest.read(str(parameter.value))
                except ValueError as error:
                    return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _open(self) -> None:
        command = topics.twist_command(self._text("command_group"))
        self._image = Sender(self, topics.camera(self._text("camera")))
        self._joints = Sender(self, topics.JOINT_STATES)
        self._pose = Sender(self, topics.EE_POSE)
        self._truth = Sender(self, topics.TRUTH_STATE)
        self._success = Sender(self, topics.TRUTH_SUCCESS)
        self._status = StatusSender(self, topics.RESET_STATUS, "reset", state="idle")
        # The guard's account follows tick and command: it alone need wake this process.
        receive(self, command, self._on_command, lazy=self._lockstep)
        if self._lockstep:
            receive(self, topics.EPISODE_TICK, self._on_tick, lazy=True)
            receive(self, topics.GUARD_STATE, self._on_guard)
            self.create_timer(_CHECK_SECONDS, self._send_again_if_silent, clock=_STEADY)
        else:
            self.create_timer(self._period_ns / 1e9, self._move_with_the_clock, clock=_STEADY)
        self.create_service(Trigger, "reset", self._on_reset)
        self._reset_asked = self.create_guard_condition(self._reset_if_asked)

    # ---- reset -------------------------------------------------------------------------------

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Accept; the reset itself follows once the answer is out."""
        self._pending = SceneRequest.read(self._text("scene"))
        self._status.announce(state="working", request=self._pending.request or "", reason="")
        self._reset_asked.trigger()
        response.success, response.message = True, "resetting; see reset/status"
        return response

    def _reset_if_asked(self) -> None:
        scene, self._pending = self._pending, None
        if scene is not None:
            self._reset(scene)

    def _reset(self, scene: SceneRequest) -> None:
        try:
            self._make(scene)
        except ValueError as error:
            self.get_logger().error(f"reset failed: {error}")
            self._status.announce(level=2, state="failed", reason=str(error))
            return
        earliest = self._stamp_ns + self._period_ns
        self._start_ns = max(self._wall_ns(), earliest, scene.not_before_ns)
        if not self._lockstep:
            self._start_ns = self._wall_ns()
        self._tick, self._velocity = 0, (0.0, 0.0)
        self._status.announce(
            state="done", stamp_ns=self._start_ns, scene_hash=self._world.scene_hash,
            scene_seed=self._world.seed, instruction=self._world.instruction,
            request=scene.request or "", reason="",
        )  # fmt: skip
        self._observe(self._start_ns)

    def _make(self, scene: SceneRequest) -> None:
        if scene.state is not None:
            asked = {} if scene.instruction is None else {"instruction": scene.instruction}
            self._world.restore_state({**scene.state, **asked})
            return
        seed = scene.seed
        if seed is None:
            seed, self._next_seed = self._next_seed, self._next_seed + 1
        self._world.reset(seed, scene.instruction)

    # ---- seeing ------------------------------------------------------------------------------

    def _wall_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _observe(self, stamp_ns: int) -> None:
        """Publish the observation of this instant, the picture last: it is what others act on."""
        world = self._world
        self._stamp_ns = stamp_ns
        self._turn.begin(stamp_ns)
        truth = world.truth()
        x, y = (float(v) for v in world.effector)
        camera = self._text("camera")
        observation = (
            (self._truth, messages.named_scalars(stamp_ns, "base", truth)),
            (self._joints, messages.named_scalars(stamp_ns, "base", world.joint_positions)),
            (self._pose, messages.pose(stamp_ns, "base", (x, y, PUSHER_HEIGHT))),
            (self._image, messages.image(stamp_ns, f"camera_{camera}", world.render())),
        )
        # Back to back: a receiver that is awake already costs no further wake-up.
        self._success.send(messages.boolean(truth["success"] > 0.5))
        self._sent = [(sender, sender.send(message)) for sender, message in observation]
        self._sent_at = self._steady_s()

    def _steady_s(self) -> float:
        return _STEADY.now().nanoseconds / 1e9

    def _send_again_if_silent(self) -> None:
        silence = float(self.get_parameter("resend_seconds").value)
        if self._steady_s() - self._sent_at < silence:
            return
        self._sent_at = self._steady_s()
        for sender, data in self._sent:
            sender.send_bytes(data)
        self._turn.settle()
        self._move_if_due()

    # ---- moving ------------------------------------------------------------------------------

    def _on_command(self, message: Any) -> None:
        twist = message.twist.linear
        self._velocity, self._commanded_at = (twist.x, twist.y), self._steady_s()
        if self._lockstep:
            self._turn.hear_command(messages.stamp_of(message), self._velocity)
            self._move_if_due()

    def _on_guard(self, message: Any) -> None:
        source = int(messages.read_named_scalars(message)["source"])
        self._turn.hear_guard(messages.stamp_of(message), source)
        self._move_if_due()

    def _on_tick(self, message: Any) -> None:
        still = messages.read_named_scalars(message).get("still", 0.0) > 0.5
        self._turn.hear_tick(messages.stamp_of(message), still)
        self._move_if_due()

    def _move_if_due(self) -> None:
        velocity = self._turn.due()
        if velocity is None or self._pending is not None:
            return
        self._world.step(velocity)
        self._tick += 1
        self._observe(self._start_ns + round(self._tick * 1e9 / self._world.config.control_hz))

    def _move_with_the_clock(self) -> None:
        limit = float(self.get_parameter("command_timeout").value)
        fresh = self._steady_s() - self._commanded_at <= limit
        self._world.step(self._velocity if fresh else (0.0, 0.0))
        self._tick += 1
        self._observe(self._wall_ns())

    def destroy_node(self) -> None:
        """Free the world too."""
        self._world.close()
        super().destroy_node()


def main() -> None:
    """Entry point of `efm_sim_robot`."""
    sys.exit(run(SimulatedRobotNode))

