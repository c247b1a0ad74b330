"""The subscriptions from which a robot's observations are made, shared by policy and reward."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from rclpy.node import Node

from efm_core import messages
from efm_core.topics import EPISODE_STATUS, INSTRUCTION, JOINT_STATES, camera
from efm_ros.channels import receive
from efm_ros.observing import EpisodeView, ObservationBuilder, Observed
from efm_ros.qos import Clock


class Camera(Protocol):
    """A camera of a robot's description: name and picture size in pixels."""

    @property
    def name(self) -> str:
        """The camera's name in its topic."""
        ...

    @property
    def width(self) -> int:
        """Columns."""
        ...

    @property
    def height(self) -> int:
        """Rows."""
        ...


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
    in which it was added, for the episode first.
    """

    def __init__(self, node: Node, cameras: Sequence[Camera], rate: float, clock: Clock) -> None:
        """`rate`: control rate in Hz. Raises ValueError for a robot without a camera."""
        if not cameras:
            raise ValueError(
                f"robot '{node.get_namespace()}' has no camera; give it one under cameras"
            )
        self._node = node
        self._cameras = {c.name: c for c in cameras}
        self._builder = ObservationBuilder(tuple(self._cameras), rate, clock)
        self._listeners: list[Listener] = []
        self._said: EpisodeView | None = None
        self.picture_s = -1.0
        # In one wake-up subscriptions are served in this order: an instruction before the
        # episode that it belongs to. Joint states only matter together with a picture.
        receive(node, INSTRUCTION, self._on_instruction, clock)
        receive(node, JOINT_STATES, self._on_joint_states, clock, lazy=True)
        receive(node, EPISODE_STATUS, self._on_status, clock)
        for name in self._cameras:
            receive(node, camera(name), self._image_callback(name), clock)

    def add(self, listener: Listener) -> None:
        """Tell `listener` from now on."""
        self._listeners.append(listener)

    @property
    def episode(self) -> EpisodeView:
        """What the episode manager said last."""
        return self._builder.episode

    def _on_instruction(self, message: Any) -> None:
        self._tell(self._builder.on_instruction(message.data, time.monotonic()))

    def _on_joint_states(self, message: Any) -> None:
        scalars = messages.read_named_scalars(message)
        self._builder.on_joint_states(messages.stamp_of(message), scalars)

    def _on_status(self, message: Any) -> None:
        try:
            episode = EpisodeView.from_status(messages.read_status(message))
        except ValueError as error:
            self._complain(str(error))
            return
        observed = self._builder.on_episode(episode, time.monotonic())
        if episode != self._said:
            self._said = episode
            for listener in self._listeners:
                listener.on_episode(episode)
        self._tell(observed)

    def _image_callback(self, name: str) -> Any:
        def on_image(message: Any) -> None:
            expected = self._cameras[name]
            try:
                image = messages.read_image(message)
            except ValueError as error:
                self._complain(f"camera '{name}': {error}")
                return
            if image.shape[:2] != (expected.height, expected.width):
                self._complain(
                    f"camera '{name}': picture is {image.shape[1]}x{image.shape[0]}, the robot's "
                    f"description says {expected.width}x{expected.height}; change one of them"
                )
                return
            self.picture_s = time.monotonic()
            stamp_ns = messages.stamp_of(message)
            self._tell(self._builder.on_image(name, stamp_ns, image, self.picture_s))

        return on_image

    def _tell(self, observed: Observed | None) -> None:
        if observed is not None:
            for listener in self._listeners:
                listener.on_observed(observed)

    def _complain(self, text: str) -> None:
        self._node.get_logger().warning(text, throttle_duration_sec=1.0)
