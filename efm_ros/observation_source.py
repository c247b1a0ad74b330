"""The subscriptions from which a robot's observations are made, shared by policy and reward."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rclpy.node import Node

from efm_core import messages
from efm_core.camera_description import CameraDescription
from efm_core.camera_intake import CameraIntake, Frame
from efm_core.camera_ledger import Arrival, summary
from efm_core.camera_pixels import PictureError
from efm_core.topics import EE_POSE, EPISODE_STATUS, INSTRUCTION, JOINT_STATES
from efm_ros.channels import receive
from efm_ros.observing import STATE_INPUTS, EpisodeView, ObservationBuilder, Observed
from efm_ros.qos import Clock


class Listener(Protocol):
    """Who wants a robot's observations."""

    def on_episode(self, episode: EpisodeView) -> None:
        """The episode manager said something new (also between episodes)."""
        ...

    def on_observed(self, observed: Observed) -> None:
        """A live episode has a new observation, or the world showed the last one again."""
        ...


class ObservationSource:
    """Subscribes, once per robot, to cameras, instruction, joint states and episode status.

    Create it on the node whose namespace is the robot's; every listener is called in the order
    in which it was added, for the episode first. Each picture is judged once (`CameraIntake`)
    and decoded once, when it becomes part of an observation.
    """

    def __init__(
        self,
        node: Node,
        cameras: Sequence[CameraDescription],
        rate: float,
        clock: Clock,
        state_tolerance: float = 0.1,
    ) -> None:
        """`rate`: control rate in Hz. state_tolerance: s, `RobotDescription.state_tolerance`.

        Raises ValueError for a robot without a camera.
        """
        if not cameras:
            raise ValueError(
                f"robot '{node.get_namespace()}' has no camera; give it one under cameras"
            )
        self._node = node
        self._real = clock == "real"
        self._intakes = {c.name: CameraIntake(c, not self._real) for c in cameras}
        tolerances = {c.name: c.pairing_s for c in cameras}
        tolerances |= dict.fromkeys(STATE_INPUTS, state_tolerance)
        self._builder = ObservationBuilder(
            tuple(self._intakes), rate, clock, tolerances, self._refuse, cameras[0].rate
        )
        self._listeners: list[Listener] = []
        self._said: EpisodeView | None = None
        # Before the first picture a camera counts as silent.
        self._fresh_s = dict.fromkeys(self._intakes, -1.0)
        # In one wake-up subscriptions are served in this order: an instruction before the
        # episode that it belongs to. The state only matters together with a picture.
        receive(node, INSTRUCTION, self._on_instruction, clock)
        receive(node, JOINT_STATES, self._on_joint_states, clock, lazy=True)
        if self._real:
            receive(node, EE_POSE, self._on_pose, clock, lazy=True)
        receive(node, EPISODE_STATUS, self._on_status, clock)
        for camera in cameras:
            receive(node, camera.topic, self._image_callback(camera.name), clock)

    def add(self, listener: Listener) -> None:
        """Tell `listener` from now on."""
        self._listeners.append(listener)

    @property
    def episode(self) -> EpisodeView:
        """What the episode manager said last."""
        return self._builder.episode

    def silent_cameras(self, limit_s: float) -> tuple[tuple[str, ...], float]:
        """Cameras without a picture of use for `limit_s`, or 1.5 of their own periods if longer.

        And the time in s after which the next one would be silent, infinity if all of them are.
        """
        now = time.monotonic()
        left = {
            name: self._fresh_s[name] + max(limit_s, 1.5 / intake.description.rate) - now
            for name, intake in self._intakes.items()
        }
        silent = tuple(name for name, seconds in left.items() if seconds < 0.0)
        return silent, min((s for s in left.values() if s >= 0.0), default=float("inf"))

    def frames(self) -> dict[str, dict[str, Any]]:
        """Camera topic -> what became of its pictures since the start of this process.

        The counts of `efm_core.camera_ledger.summary`, `unpaired` (see ObservationBuilder) and
        `reasons`: why pictures were late, refused or taken by their receive time.
        """
        now_ns = time.time_ns()
        return {
            intake.description.topic.name: {
                **summary(intake.ledger.counts(until_ns=now_ns)),
                "unpaired": self._builder.unpaired[name],
                "reasons": dict(intake.ledger.reasons),
            }
            for name, intake in self._intakes.items()
        }

    def _on_instruction(self, message: Any) -> None:
        self._tell(self._builder.on_instruction(message.data, time.monotonic()))

    def _on_joint_states(self, message: Any) -> None:
        scalars = messages.read_named_scalars(message)
        self._builder.on_state(JOINT_STATES.name, messages.stamp_of(message), scalars)

    def _on_pose(self, message: Any) -> None:
        scalars = messages.read_pose_scalars(message)
        self._builder.on_state(EE_POSE.name, messages.stamp_of(message), scalars)

    def _on_status(self, message: Any) -> None:
        try:
            episode = EpisodeView.from_status(messages.read_status(message))
        except ValueError as error:
            self._complain(str(error))
            return
        if self._real and episode.episode_id != self._builder.episode.episode_id:
            for intake in self._intakes.values():
                intake.ledger.resume()  # a clock that was set back must not blind the robot
        observed = self._builder.on_episode(episode, time.monotonic())
        if episode != self._said:
            self._said = episode
            for listener in self._listeners:
                listener.on_episode(episode)
        self._tell(observed)

    def _image_callback(self, name: str) -> Callable[[Any], None]:
        intake = self._intakes[name]

        def on_image(message: Any) -> None:
            frame = intake.take(message, time.time_ns() if self._real else 0)
            if frame.error:
                self._complain(f"camera '{name}': {frame.error}")
            if self._is_of_use(frame):
                now = self._fresh_s[name] = time.monotonic()
                self._tell(self._builder.on_frame(frame, now))

        return on_image

    def _is_of_use(self, frame: Frame) -> bool:
        """Lockstep: what comes again is answered again."""
        if self._real:
            return frame.arrival is Arrival.ON_TIME
        return frame.arrival is not Arrival.REFUSED

    def _refuse(self, camera: str, error: PictureError) -> None:
        self._intakes[camera].ledger.refuse(error.field)
        self._complain(f"camera '{camera}': {error}")

    def _tell(self, observed: Observed | None) -> None:
        if observed is not None:
            for listener in self._listeners:
                listener.on_observed(observed)

    def _complain(self, text: str) -> None:
        self._node.get_logger().warning(text, throttle_duration_sec=1.0)
