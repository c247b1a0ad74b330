"""A single-threaded executor that does the work of a wake-up without rebuilding its wait set.

rclpy's SingleThreadedExecutor builds a new wait set, wakes itself twice and wraps a coroutine
round every callback; with 20 subscriptions that costs more than most callbacks here do. This one
keeps the wait set until an entity comes or goes, and hands over everything that is ready - several
messages of a subscription too - before it waits again. Subscriptions marked by `set_lazy` never
wake the process: their messages are taken whenever something else does. On two cores it is the
number of wake-ups that bounds a lockstep fleet's speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from inspect import iscoroutinefunction
from threading import get_ident
from typing import Any
from weakref import WeakSet

from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import (
    ExternalShutdownException,
    SingleThreadedExecutor,
    TimeoutObject,
)
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.task import Future
from rclpy.timer import Timer
from rclpy.waitable import NumberOfEntities

RCLError = _rclpy.RCLError
"""What a call into ROS raises, among others when a signal has shut the context down."""

TAKE_LIMIT = 10
"""Messages taken from one subscription before the others get their turn."""

_LAZY: WeakSet[Subscription] = WeakSet()


def set_lazy(node: Node, subscription: Subscription, lazy: bool = True) -> None:
    """Take this subscription's messages only when something else wakes a node of its namespace.

    They come before timers and all other subscriptions, in the order of creation. For messages that
    are needed together with a later one (the pose with the chunk) or only recorded; the depth of
    the subscription must hold what comes between two wake-ups. One process may serve many robots,
    each in its namespace: what one of them is woken by costs the others nothing. rclpy's
    executors take no notice.
    """
    if lazy == (subscription in _LAZY):
        return
    (_LAZY.add if lazy else _LAZY.discard)(subscription)
    if node.executor is not None:
        node.executor.wake()


class _WaitList:
    """The entities of some nodes, held in use, and the wait set over them."""

    def __init__(self, executor: DrainingExecutor, context: Context) -> None:
        self.subscriptions: dict[int, Subscription] = {}
        self.lazy: dict[str, list[Subscription]] = {}
        self._spaces: dict[Any, str] = {}
        self.timers: dict[int, Timer] = {}
        self.guards: dict[int, Any] = {}
        self.services: dict[int, Any] = {}
        self.clients: dict[int, Any] = {}
        self.waitables: list[Any] = []
        self._handles: list[tuple[str, Any]] = []
        self._stack = ExitStack()
        self._stack.enter_context(context.handle)
        for node in executor.get_nodes():
            space = node.get_namespace()
            for entities in (
                node.subscriptions, node.timers, node.services, node.clients, node.guards,
                node.waitables,
            ):  # fmt: skip
                self._spaces.update(dict.fromkeys(entities, space))
            eager = [s for s in node.subscriptions if s not in _LAZY]
            self._add(self.subscriptions, "add_subscription", eager)
            lazy = [s for s in node.subscriptions if s in _LAZY and self._enter(s.handle)]
            self.lazy.setdefault(space, []).extend(lazy)
            self._add(self.timers, "add_timer", node.timers)
            self._add(self.services, "add_service", node.services)
            self._add(self.clients, "add_client", node.clients)
            self._add(self.guards, "add_guard_condition", node.guards)
            # The rmw waits for a reader's events by the same condition as for its messages: in the
            # wait set they would be woken by what is to wait, and for ever.
            silent = {id(w) for s in node.subscriptions if s in _LAZY for w in s.event_handlers}
            self.waitables.extend(
                w for w in node.waitables if id(w) not in silent and self._enter(w)
            )
        for guard in (executor._guard, executor._sigint_gc):
            if self._enter(guard.handle):
                self._handles.append(("add_guard_condition", guard.handle))
        self.wait_set = self._make_wait_set(context)
        self._fill = [(getattr(self.wait_set, add), handle) for add, handle in self._handles]

    def _enter(self, handle: Any) -> bool:
        """Keep `handle` from being destroyed while it is waited on; False if it already is."""
        try:
            self._stack.enter_context(handle)
        except InvalidHandle:
            return False
        return True

    def _add(self, table: dict[int, Any], add: str, entities: Any) -> None:
        for entity in list(entities):
            if self._enter(entity.handle):
                table[entity.handle.pointer] = entity
                self._handles.append((add, entity.handle))

    def _make_wait_set(self, context: Context) -> Any:
        extra = NumberOfEntities()
        for waitable in self.waitables:
            extra += waitable.get_num_entities()
        return _rclpy.WaitSet(
            len(self.subscriptions) + extra.num_subscriptions,
            len(self.guards) + 2 + extra.num_guard_conditions,
            len(self.timers) + extra.num_timers,
            len(self.clients) + extra.num_clients,
            len(self.services) + extra.num_services,
            extra.num_events,
            context.handle,
        )

    def wait(self, timeout_ns: int) -> None:
        """Block until something is ready or `timeout_ns` has passed (negative: for ever)."""
        self.wait_set.clear_entities()
        for add, handle in self._fill:
            add(handle)
        for waitable in self.waitables:
            waitable.add_to_wait_set(self.wait_set)
        self.wait_set.wait(timeout_ns)

    def ready(self, kind: str, table: dict[int, Any]) -> list[Any]:
        """The entities of `table` that the last wait found ready."""
        if not table:
            return []
        pointers = self.wait_set.get_ready_entities(kind)
        return [table[pointer] for pointer in pointers if pointer in table]

    def belonging_to(self, ready: Iterable[Any]) -> Iterator[Subscription]:
        """The lazy subscriptions in the namespaces of these entities."""
        for space in dict.fromkeys(self._spaces[entity] for entity in ready):
            yield from self.lazy[space]

    def close(self) -> None:
        """Let go of every entity; those destroyed meanwhile are freed now."""
        self._stack.close()


class DrainingExecutor(SingleThreadedExecutor):
    """SingleThreadedExecutor with a kept wait set; use it the same way, from one thread.

    `spin_once` runs every callback that is ready, at most `TAKE_LIMIT` messages of each
    subscription, instead of a single one. While a coroutine is suspended (an async callback that
    awaits, a task from `create_task`) the stock executor does the work, with its callback groups.
    """

    def __init__(self, *, context: Context | None = None) -> None:
        self._stale = True
        self._list: _WaitList | None = None
        self._soon: list[Callable[[], None]] = []
        self._draining: int | None = None
        super().__init__(context=context)

    def wake(self) -> None:
        """An entity came or went (nodes call this): rebuild the wait set before waiting again."""
        self._stale = True
        super().wake()

    def add_node(self, node: Node) -> bool:
        """Serve this node too; see `Executor.add_node`."""
        self._stale = True
        return bool(super().add_node(node))

    def remove_node(self, node: Node) -> None:
        """Stop serving this node; see `Executor.remove_node`."""
        self._stale = True
        super().remove_node(node)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stop and let go of every entity; see `Executor.shutdown`."""
        done = bool(super().shutdown(timeout_sec))
        self._release()
        return done

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait at most `timeout_sec` s (None: for ever) and run everything that is ready.

        May return early with nothing run: a change of the entities ends a wait.
        Raises ExternalShutdownException when the context was shut down, and whatever a
        callback raises.
        """
        if self._is_shutdown:
            return
        if self._tasks:
            self._release()
            super().spin_once(timeout_sec)
            with self._tasks_lock:  # the stock executor would drop them only with its next wait
                self._tasks = [entry for entry in self._tasks if not entry[0].done()]
            return
        self._cb_iter = None  # a half-used generator of the stock executor holds a wait set
        timeout_ns = -1 if timeout_sec is None or timeout_sec < 0 else int(timeout_sec * 1e9)
        try:
            waiting = self._wait_list()
            waiting.wait(timeout_ns)
        except RCLError:
            if self._context.ok():
                raise
        if not self._context.ok():
            raise ExternalShutdownException
        if not self._is_shutdown:
            self._drain(waiting)

    def spin_once_until_future_complete(
        self, future: Future, timeout_sec: float | TimeoutObject | None = None
    ) -> None:
        """As `spin_once`; returns early when `future` is done."""
        future.add_done_callback(lambda _: self._trigger())
        if not future.done():
            timeout = timeout_sec.timeout if isinstance(timeout_sec, TimeoutObject) else timeout_sec
            self.spin_once(timeout)

    def call_soon(self, callback: Callable[[], None]) -> bool:
        """Run `callback` once all that this wake-up found is done, without another wake-up.

        False, and nothing will run, when not called from a callback of this executor.
        """
        if self._draining != get_ident():
            return False
        self._soon.append(callback)
        return True

    def _trigger(self) -> None:
        if self._guard:
            self._guard.trigger()

    def _wait_list(self) -> _WaitList:
        if self._stale or self._list is None:
            self._release()
            self._stale = False  # before looking: a change during the look sets it again
            self._list = _WaitList(self, self._context)
            for guard in self._list.guards.values():
                if guard._executor_triggered:  # seen ready before, not run yet
                    guard.trigger()
        return self._list

    def _release(self) -> None:
        waiting, self._list = self._list, None
        if waiting is not None:
            waiting.close()

    def _drain(self, waiting: _WaitList) -> None:
        self._draining = get_ident()
        try:
            self._run_ready(waiting)
            while self._soon:
                self._soon.pop(0)()
        finally:
            self._draining = None
            self._soon.clear()

    def _run_ready(self, waiting: _WaitList) -> None:
        """Run what the last wait found; an entity destroyed by an earlier callback is skipped."""
        subscriptions = waiting.ready("subscription", waiting.subscriptions)
        timers = waiting.ready("timer", waiting.timers)
        guards = waiting.ready("guard_condition", waiting.guards)
        clients = waiting.ready("client", waiting.clients)
        services = waiting.ready("service", waiting.services)
        for guard in guards:
            guard._executor_triggered = True  # waiting consumed the trigger
        waitables = [w for w in waiting.waitables if w.is_ready(waiting.wait_set)]
        for subscription in waiting.belonging_to(
            (*subscriptions, *timers, *guards, *clients, *services, *waitables)
        ):
            self._run_subscription(subscription)
        for timer in timers:
            self._run_timer(timer)
        for subscription in subscriptions:
            self._run_subscription(subscription)
        for entities, take in (
            (guards, self._take_guard_condition),
            (clients, self._take_client),
            (services, self._take_service),
            (waitables, self._take_waitable),
        ):
            for entity in entities:
                self._run_stock(entity, take)

    def _run_timer(self, timer: Timer) -> None:
        if iscoroutinefunction(timer.callback):
            self._run_stock(timer, self._take_timer)
            return
        try:
            with timer.handle:
                if not timer.handle.is_timer_ready():  # cancelled or reset by another callback
                    return
                timer.handle.call_timer()
        except InvalidHandle:
            return
        if timer.callback is not None:
            timer.callback()

    def _run_subscription(self, subscription: Subscription) -> None:
        if iscoroutinefunction(subscription.callback):
            self._run_stock(subscription, self._take_subscription)
            return
        callback, handle = subscription.callback, subscription.handle
        wants_info = subscription._callback_type is not Subscription.CallbackType.MessageOnly
        for _ in range(TAKE_LIMIT):
            try:
                with handle:
                    taken = handle.take_message(subscription.msg_type, subscription.raw)
            except InvalidHandle:
                return
            if taken is None:
                return
            if wants_info:
                callback(*taken)
            else:
                callback(taken[0])

    def _run_stock(self, entity: Any, take: Callable[[Any], Any]) -> None:
        """Run through rclpy's own handler: coroutines, callback groups and responses are its."""
        if not entity.callback_group.can_execute(entity):
            return
        task = self._make_handler(entity, None, take)
        task()
        if task.done():
            with self._tasks_lock:
                self._tasks = [entry for entry in self._tasks if entry[0] is not task]
            task.result()  # raises what the callback raised
