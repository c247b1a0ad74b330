"""A simulated robot as a ROS 2 node: from outside it is a robot like any other.

It publishes a camera, joint states and the pose of its tool, obeys velocity commands and resets
on request; beside that it tells the truth for evaluation. In lockstep it moves only when every
answer to its last observation is there; in real time it moves with the clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node
from std_srvs.srv import Trigger

from efm_core import messages, topics
from efm_core.reset_free import NO_SCENE
from efm_ros.channels import Sender, receive, receive_bytes
from efm_ros.entrypoint import each, run
from efm_ros.parameters import ParameterSpec, declare
from efm_ros.status import StatusSender
from efm_sim.scene_request import SceneRequest
from efm_sim.turn import Turn
from efm_sim.world import World, WorldConfig

PUSHER_HEIGHT = 0.02
"""Height of the tool's tip over the board in m, for ee_pose."""
_CHECK_SECONDS = 0.1
_STEADY = Clock(clock_type=ClockType.STEADY_TIME)


PARAMETERS = (
    ParameterSpec(
        "clock", "lockstep", "lockstep: wait for the answers to each picture; real: do not",
        choices=("lockstep", "real"),
    ),
    ParameterSpec(
        "world", "{}", "JSON of efm_sim.world.WorldConfig: image size, blocks, physics",
        check=WorldConfig.model_validate_json,
    ),
    ParameterSpec("camera", "front", "name of the camera, topic camera/<name>/image_raw"),
    ParameterSpec(
        "command_group", "arm", "name of the command group, topic command/<group>/twist"
    ),
    ParameterSpec("seed", 0, "seed of the first scene; resets without a seed count on from it"),
    ParameterSpec(
        "resend_seconds", 0.5, "lockstep: send the observation again after this silence", "s",
        0.05, 60, writable=True,
    ),
    ParameterSpec(
        "command_timeout", 0.2, "real: stand still when no command came for this long", "s",
        0.02, 5, writable=True,
    ),
    ParameterSpec(
        "scene", "{}", "JSON for the next reset: seed, instruction, state, present, lasting",
        writable=True, check=SceneRequest.read,
    ),
)  # fmt: skip


class SimulatedRobotNode(Node):
    """One simulated robot in the namespace that it is started in; parameters: `PARAMETERS`."""

    def __init__(self, *, context: Context | None = None, **options: Any) -> None:
        """Raises ParameterError naming a parameter that is not understood."""
        super().__init__("robot", context=context, **options)
        self._values = declare(self, PARAMETERS, self._values_changed)
        self._lockstep = self._text("clock") == "lockstep"
        self._world = World(WorldConfig.model_validate_json(self._text("world")))
        self._period_ns = round(1e9 / self._world.config.control_hz)
        self._turn = Turn()
        self._tick, self._start_ns, self._stamp_ns = 0, 0, 0
        self._next_seed = int(self._values["seed"])
        self._sent: list[tuple[Sender, bytes]] = []
        self._sent_at = self._commanded_at = 0.0
        self._velocity = (0.0, 0.0)
        self._pending: SceneRequest | None = None
        self._left = False  # whether somebody asked for the present scene and may have acted in it
        self._open()
        self._reset(SceneRequest())
        self._left = False

    def _values_changed(self, values: Mapping[str, Any]) -> None:
        self._values.update(values)

    def _text(self, name: str) -> str:
        return str(self._values[name])

    def _open(self) -> None:
        self._command = command = topics.twist_command(self._text("command_group"))
        self._image = self._picture_sender(topics.camera(self._text("camera")))
        self._joints = Sender(self, topics.JOINT_STATES)
        self._pose = Sender(self, topics.EE_POSE)
        self._truth = Sender(self, topics.TRUTH_STATE)
        self._success = Sender(self, topics.TRUTH_SUCCESS)
        self._status = StatusSender(self, topics.RESET_STATUS, "reset", state="idle")
        # The guard's account follows tick and command: it alone need wake this process. In real
        # time the world looks at the command when it moves.
        receive_bytes(self, command, self._on_command, lazy=True)
        if self._lockstep:
            receive(self, topics.EPISODE_TICK, self._on_tick, lazy=True)
            receive(self, topics.GUARD_STATE, self._on_guard)
            self.create_timer(_CHECK_SECONDS, self._send_again_if_silent, clock=_STEADY)
        else:
            self.create_timer(self._period_ns / 1e9, self._move_with_the_clock, clock=_STEADY)
        self.create_service(Trigger, "reset", self._on_reset)
        self._reset_asked = self.create_guard_condition(self._reset_if_asked)

    def _picture_sender(self, topic: topics.Topic) -> Sender:
        return Sender(self, topic)

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
            intervention = self._make(scene)
        except ValueError as error:
            self.get_logger().error(f"reset failed: {error}")
            self._status.announce(
                level=2, state="failed", request=scene.request or "", reason=str(error)
            )
            return
        earliest = self._stamp_ns + self._period_ns
        self._start_ns = max(self._wall_ns(), earliest, scene.not_before_ns)
        if not self._lockstep:
            self._start_ns = self._wall_ns()
        self._tick, self._velocity = 0, (0.0, 0.0)
        went_on = scene.lasting and not intervention
        self._left = True
        self._status.announce(
            state="done", stamp_ns=self._start_ns, scene_hash=self._world.scene_hash,
            scene_seed="" if scene.present or went_on else self._world.seed,
            instruction=self._world.instruction,
            request=scene.request or "", reason=intervention,
        )  # fmt: skip
        self._observe(self._start_ns)

    def _make(self, scene: SceneRequest) -> str:
        """Why a scene that was to last was drawn anew, "" otherwise."""
        if scene.state is not None:
            asked = {} if scene.instruction is None else {"instruction": scene.instruction}
            self._world.restore_state({**scene.state, **asked})
            return ""
        seed = self._next_seed if scene.seed is None else scene.seed
        intervention = ""
        if scene.present:
            self._world.go_on(seed, scene.instruction, scene.draw)
        elif scene.lasting and self._left:
            intervention = self._world.go_on_or_reset(seed, scene.instruction)
        else:
            self._world.reset(seed, scene.instruction)
            intervention = NO_SCENE if scene.lasting else ""
        self._next_seed += scene.seed is None
        return intervention

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
        silence = self._values["resend_seconds"]
        if self._steady_s() - self._sent_at < silence:
            return
        self._sent_at = self._steady_s()
        for sender, data in self._sent:
            sender.send_bytes(data)
        self._turn.settle()
        self._move_if_due()

    # ---- moving ------------------------------------------------------------------------------

    def _on_command(self, data: bytes, info: Mapping[str, int]) -> None:
        """Received at its time of arrival: it may have waited for the world to move."""
        message = messages.deserialize(data, self._command.type)
        twist = message.twist.linear
        received_ns = info["received_timestamp"]
        waited = max(time.time_ns() - received_ns, 0) / 1e9 if received_ns else 0.0
        self._velocity, self._commanded_at = (twist.x, twist.y), self._steady_s() - waited
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
        limit = self._values["command_timeout"]
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
    sys.exit(run(each(SimulatedRobotNode)))

