"""Managed nodes (ROS 2 life cycle) whose configuration may take its time without blocking others.

    unconfigured --configure--> inactive --activate--> active
         ^---------cleanup----------'  ^---deactivate----'

rclpy's own handler of `change_state` waits within the callback, and a node that loads a model for
two seconds would silence every other node of its process; here the load is awaited. A `Heart` says
four times a second on `/fleet/heartbeat` that the executor turns, and in what states its nodes are.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.task import Future

from efm_core import messages
from efm_core.topics import FLEET, STATUS, Topic
from efm_ros.channels import Sender
from efm_ros.executor import RCLError
from efm_ros.parameters import ParameterSpec
from efm_ros.status import ERROR, OK, WARNING

HEARTBEAT = Topic(FLEET.HEARTBEAT, STATUS, recorded=False)
"""A status per node: name = the node's full name, values = state, process and reason."""

AUTOSTART = ParameterSpec(
    "autostart", False, "configure and activate at once, for a node that runs without the fleet's "
    "orchestrator",
)  # fmt: skip
HEARTBEAT_SECONDS = ParameterSpec(
    "heartbeat_s", 0.25, "time between two signs of life", "s", 0.02, 10.0
)
MANAGED = (AUTOSTART, HEARTBEAT_SECONDS)
"""Parameters of every process with managed nodes."""

_STEADY = Clock(clock_type=ClockType.STEADY_TIME)
_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Heart:
    """Says for the managed nodes of one process that they live."""

    def __init__(self, node: Node, period: float) -> None:
        """Sends on behalf of `node`, which may be the only one or host others, every `period` s."""
        self._node = node
        self._members: list[ManagedNode] = []
        self._sender = Sender(node, HEARTBEAT)
        node.create_timer(period, self.beat, clock=_STEADY)

    def add(self, member: ManagedNode) -> None:
        """Speak for this node too."""
        self._members.append(member)
        self.beat(member)

    def beat(self, *members: ManagedNode) -> None:
        """Say now how these nodes are; without any: all of them."""
        stamp_ns = self._node.get_clock().now().nanoseconds
        said = [_sign_of_life(stamp_ns, member) for member in members or self._members]
        if said:
            said[0].status = [entry for message in said for entry in message.status]
            self._sender.send(said[0])


def _sign_of_life(stamp_ns: int, member: ManagedNode) -> Any:
    state, name = member.state, member.get_fully_qualified_name()
    values = {"state": state, "process": member.process, "reason": member.reason}
    level = ERROR if member.reason else OK if state == "active" else WARNING
    return messages.status(stamp_ns, name, values, level, member.reason or state)


class ManagedNode(LifecycleNode):
    """A node with the four steps `load`, `begin`, `halt` and `release`, to be overridden.

    A step that raises ValueError or OSError fails: the node stays where it was and says why in
    its log and its heartbeat. What `load` and `begin` made in ROS (publishers, subscriptions,
    services, clients, timers) is destroyed after `release`. A subclass calls `manage` at the end
    of its constructor.
    """

    def __init__(self, name: str, **options: Any) -> None:
        """`options`: of rclpy.node.Node."""
        super().__init__(name, **options)
        self.active = False
        self.reason = ""
        self.process = secrets.token_hex(4)
        self._loading: Future | None = None
        self._kept: dict[int, Any] = {}
        # A service of rclpy's takes a coroutine for a callback (see the module), in a group of its
        # own: else nothing of this node would be served until it is over.
        self._apart = ReentrantCallbackGroup()
        self._apart.add_entity(self._service_change_state)
        self._service_change_state.callback_group = self._apart
        self._service_change_state.callback = self._on_change_state

    def manage(self, heart: Heart, autostart: bool) -> None:
        """Be heard of through `heart`; autostart: come up alone."""
        self._heart = heart
        heart.add(self)
        if autostart:
            self._starter = self.create_timer(
                0.0, self._start_alone, callback_group=self._apart, clock=_STEADY
            )

    # ---- what a subclass does ----------------------------------------------------------------

    def load(self) -> Future | None:
        """Configure: make channels, load, warm up; a future for what takes longer."""

    def begin(self) -> None:
        """Activate: go to work."""

    def halt(self) -> None:
        """Deactivate: publish the safe command and do no more."""

    def release(self) -> None:
        """Clean up: free what `load` took."""

    # ---- transitions -------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Label of the present state: unconfigured, inactive, active, finalized, configuring..."""
        return str(self._state_machine.current_state[1])

    async def change(self, transition: int) -> bool:
        """Carry out a transition of lifecycle_msgs/msg/Transition; whether it succeeded."""
        machine = self._state_machine
        number, label = machine.current_state
        try:
            machine.trigger_transition_by_id(transition, True)
        except RCLError:
            self.get_logger().warning(f"transition {transition} is not possible in '{label}'")
            return False
        self._heart.beat(self)
        step = self._callbacks[machine.current_state[0]]
        outcome = step(LifecycleState(label=label, state_id=number))
        loading, self._loading = self._loading, None
        if outcome is _SUCCESS and loading is not None:
            try:
                await loading
            except (ValueError, OSError) as error:
                outcome = self._failed(error)
                self._free()
        machine.trigger_transition_by_label(outcome.to_label(), True)
        self.get_logger().info(f"{label} -> {self.state}")
        self._heart.beat(self)
        return bool(outcome is _SUCCESS)

    async def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        wanted = request.transition
        transition = _BY_LABEL.get((self.state, wanted.label)) if wanted.label else wanted.id
        response.success = transition is not None and await self.change(transition)
        return response

    async def _start_alone(self) -> None:
        self._starter.cancel()
        if await self.change(Transition.TRANSITION_CONFIGURE):
            await self.change(Transition.TRANSITION_ACTIVATE)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See `load`."""
        self._kept = {id(entity): entity for entity, _ in self._entities()}

        def load() -> None:
            self._loading = self.load()

        outcome = self._attempt(load)
        if outcome is _FAILURE:
            self._free()
        return outcome

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See `begin`."""
        self.active = True
        outcome = self._attempt(self.begin)
        self.active = outcome is _SUCCESS
        return outcome

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See `halt`."""
        self.active = False
        return self._attempt(self.halt)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See `release`."""
        self._free()
        return _SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From any state: halt what is active, free what is loaded."""
        if self.active:
            self.on_deactivate(state)
        if state.state_id != State.PRIMARY_STATE_UNCONFIGURED:
            self._free()
        return _SUCCESS

    def _attempt(self, step: Callable[[], object]) -> TransitionCallbackReturn:
        self.reason = ""
        try:
            step()
        except (ValueError, OSError) as error:
            return self._failed(error)
        return _SUCCESS

    def _failed(self, error: Exception) -> TransitionCallbackReturn:
        self.reason = str(error)
        self.get_logger().error(self.reason)
        return _FAILURE

    # ---- what is freed -----------------------------------------------------------------------

    def _free(self) -> None:
        self.release()
        for entity, destroy in list(self._entities()):
            if id(entity) not in self._kept:
                destroy(entity)

    def _entities(self) -> Iterable[tuple[Any, Callable[[Any], object]]]:
        for found, destroy in (
            (self.subscriptions, self.destroy_subscription),
            (self.publishers, self.destroy_publisher),
            (self.services, self.destroy_service),
            (self.clients, self.destroy_client),
            (self.timers, self.destroy_timer),
            (self.guards, self.destroy_guard_condition),
        ):
            yield from ((entity, destroy) for entity in found)


_BY_LABEL = {
    ("unconfigured", "configure"): Transition.TRANSITION_CONFIGURE,
    ("inactive", "activate"): Transition.TRANSITION_ACTIVATE,
    ("active", "deactivate"): Transition.TRANSITION_DEACTIVATE,
    ("inactive", "cleanup"): Transition.TRANSITION_CLEANUP,
    ("unconfigured", "shutdown"): Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    ("inactive", "shutdown"): Transition.TRANSITION_INACTIVE_SHUTDOWN,
    ("active", "shutdown"): Transition.TRANSITION_ACTIVE_SHUTDOWN,
}
"""(state, transition's label) -> its number: a request may give either."""
