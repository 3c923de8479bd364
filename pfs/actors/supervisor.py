"""`Supervisor`: an actor that starts, watches, restarts and stops other actors, as Erlang's `supervisor` does.

What it decides is in `pfs.actors.restart_policy`; here the orders are carried out.  Nothing in here waits: a child's
start is reported by a message (`_Started`) or by its `Down`, its end by its `Down`, and a time limit by a timer.

* Children are started in order, each when the one before has finished its `on_start`; `Supervisor.start` returns when
  all are running, or raises `StartFailed`.
* A supervisor stops its children first, the last added first, one after the other, each within its time limit and
  killed after it; then it ends itself.  So it does when it is asked to stop, and when its scheduler stops.
* One that ends otherwise (a failure of its own, a kill) cannot wait: its children are told to stop at that moment.
* A child may be an `Actor`, a `BlockingActor` or one of Pykka's `ThreadingActor`.  Pykka does not tell why its actor
  ended or whether it started, so that one counts as running at once and any end counts as a failure; and its thread
  cannot be killed, so that past its time limit it is left behind and logged.

A plain thread asks: `supervisor.ask(StartChild(spec))` gives the child's ref or raises `StartFailed`.  An actor tells
the same message with itself as `client` and is told a `SupervisorReply`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec
import pykka

from pfs.actors import lifecycle
from pfs.actors.actor import Actor, ActorMixin
from pfs.actors.lifecycle import ActorKilled
from pfs.actors.monitors import Address, Down
from pfs.actors.replies import DelayedReply
from pfs.actors.restart_policy import ChildSpec, ChildTable, Order, Ready, Restart, Start, State, Stop
from pfs.actors.timers import Timer
from pfs.errors import PfsError, StartFailed

logger = logging.getLogger("pfs.actors")

SHUTDOWN = 5.0
"""Seconds that a child has for stopping if its spec does not say."""


class StartChild(msgspec.Struct, frozen=True):
    """Start one more child.  Answer: its ref; `StartFailed` (also if its id is in use)."""

    spec: ChildSpec
    client: Address | None = None


class TerminateChild(msgspec.Struct, frozen=True):
    """Stop a child and keep its spec, unless it is temporary.  Answer: None, when it has ended; `ChildNotFound`."""

    id: str
    client: Address | None = None


class RestartChild(msgspec.Struct, frozen=True):
    """Start a child that is not running.  Answer: its ref; `ChildNotFound`, `StartFailed`."""

    id: str
    client: Address | None = None


class DeleteChild(msgspec.Struct, frozen=True):
    """Forget a child that is not running.  Answer: None; `ChildNotFound`, `InvalidRequest` if it is running."""

    id: str
    client: Address | None = None


class WhichChildren(msgspec.Struct, frozen=True):
    """Answer: a list of `ChildInfo`, in the order in which the children were added."""

    client: Address | None = None


class CountChildren(msgspec.Struct, frozen=True):
    """Answer: a `ChildCount`."""

    client: Address | None = None


Request = StartChild | TerminateChild | RestartChild | DeleteChild | WhichChildren | CountChildren


class SupervisorReply(msgspec.Struct, frozen=True):
    """The supervisor's answer to the `client` of a request: `value` as the request says, or `error`."""

    request: Request
    value: Any = None
    error: PfsError | None = None


class ChildInfo(msgspec.Struct, frozen=True):
    """One child: `ref` is None while it does not run."""

    id: str
    ref: pykka.ActorRef[Any] | None
    actor_class: type[pykka.Actor]
    restart: Restart
    state: State


class ChildCount(msgspec.Struct, frozen=True):
    """How many children a supervisor has: specs, those that are alive, and among the specs supervisors and others."""

    specs: int
    active: int
    supervisors: int
    workers: int


class _Started(msgspec.Struct, frozen=True):
    """A child's `on_start` has ended well; `start` counts the starts."""

    start: int


class _TimeIsUp(msgspec.Struct, frozen=True):
    """A child's time limit for stopping has passed."""

    ref: pykka.ActorRef[Any]


class _Answer(Protocol):
    """Whom a request's answer goes to."""

    def set(self, value: Any = None) -> None: ...

    def set_exception(self, error: BaseException) -> None: ...


class _Tell:
    """The answer of a request that was told."""

    def __init__(self, request: Request, client: Address) -> None:
        self.request = request
        self.client = client

    def set(self, value: Any = None) -> None:
        self._tell(SupervisorReply(self.request, value))

    def set_exception(self, error: BaseException) -> None:
        assert isinstance(error, PfsError)
        self._tell(SupervisorReply(self.request, None, error))

    def _tell(self, reply: SupervisorReply) -> None:
        try:
            self.client.tell(reply)
        except pykka.ActorDeadError:
            pass  # it no longer wants to know


class _StartReport(pykka.Future[None]):
    """What the runtime sets when a child's `on_start` has ended."""

    def __init__(self, supervisor: Address, start: int) -> None:
        super().__init__()
        self._supervisor = supervisor
        self._start = start

    def set(self, value: None = None) -> None:
        try:
            self._supervisor.tell(_Started(self._start))
        except pykka.ActorDeadError:
            pass  # it has told its children to stop

    def set_exception(self, exc_info: Any = None) -> None:
        """The child's `Down` says it."""


class _Running:
    """A child's actor."""

    __slots__ = ("id", "limit", "ref", "start")

    def __init__(self, child_id: str, ref: pykka.ActorRef[Any], start: int) -> None:
        self.id = child_id
        self.ref = ref
        self.start = start
        self.limit: Timer | None = None


class _WithoutSupervisor:
    """Tells the children to stop when their supervisor has ended without having stopped them."""

    def __init__(self, children: dict[pykka.ActorRef[Any], _Running]) -> None:
        self._children = children

    def tell(self, message: Down) -> None:
        for ref in reversed(list(self._children)):
            ref.stop(block=False)

    def is_alive(self) -> bool:
        return True


class Supervisor(Actor):
    """Supervises actors by the strategy one_for_one (see the module).

    children: what to start first, in this order.  More than `max_restarts` restarts within `period` seconds are too
    many: the supervisor stops its children and ends with `TooManyRestarts`.
    """

    def __init__(self, children: Iterable[ChildSpec] = (), *, max_restarts: int = 3, period: float = 5.0) -> None:
        super().__init__()
        self._table = ChildTable(max_restarts, period)
        self._first = list(children)
        self._running: dict[pykka.ActorRef[Any], _Running] = {}
        self._by_id: dict[str, _Running] = {}
        self._starts = 0
        self._starting: dict[int, _Running] = {}
        self._ready = DelayedReply()
        self._when_started: dict[str, list[_Answer]] = {}
        self._when_stopped: dict[str, list[_Answer]] = {}

    def on_start(self) -> DelayedReply:  # type: ignore[override]  # the start ends when the children run
        self.actor_ref.watch(_WithoutSupervisor(self._running))
        self._carry_out(self._table.begin(self._first))
        return self._ready

    def on_receive(self, message: Any) -> Any:
        match message:
            case Down(ref, reason):
                self._down(ref, reason)
            case _Started(start):
                self._started(start)
            case _TimeIsUp(ref):
                self._time_is_up(ref)
            case StartChild() | TerminateChild() | RestartChild() | DeleteChild() | WhichChildren() | CountChildren():
                return self._request(message)
            case _:
                return super().on_receive(message)
        return None

    # -- requests

    def _request(self, request: Request) -> DelayedReply | None:
        answer: _Answer
        answer = reply = DelayedReply()
        if request.client is not None:
            answer = _Tell(request, request.client)
        try:
            self._serve(request, answer)
        except PfsError as error:
            answer.set_exception(error)
        return reply if answer is reply else None

    def _serve(self, request: Request, answer: _Answer) -> None:
        match request:
            case StartChild(spec):
                orders = self._table.add(spec)
                self._when_started[spec.id] = [answer]
                self._carry_out(orders)
            case RestartChild(child_id):
                orders = self._table.restart(child_id)
                self._when_started[child_id] = [answer]
                self._carry_out(orders)
            case TerminateChild(child_id):
                orders = self._table.terminate(child_id)
                if child_id in self._by_id:
                    self._when_stopped.setdefault(child_id, []).append(answer)
                else:
                    answer.set()
                self._carry_out(orders)
            case DeleteChild(child_id):
                self._table.delete(child_id)
                answer.set()
            case WhichChildren():
                answer.set(self._which_children())
            case CountChildren():
                answer.set(self._count_children())

    def _which_children(self) -> list[ChildInfo]:
        infos = []
        for child_id, child in self._table.children.items():
            running = self._by_id.get(child_id)
            ref = None if running is None else running.ref
            infos.append(ChildInfo(child_id, ref, child.spec.actor_class, child.spec.restart, child.state))
        return infos

    def _count_children(self) -> ChildCount:
        specs = len(self._table.children)
        supervisors = sum(issubclass(child.spec.actor_class, Supervisor) for child in self._table.children.values())
        return ChildCount(specs, len(self._by_id), supervisors, specs - supervisors)

    # -- what happened

    def _started(self, start: int) -> None:
        running = self._starting.pop(start, None)
        if running is not None:
            self._carry_out(self._note_started(running))

    def _note_started(self, running: _Running) -> list[Order]:
        for answer in self._when_started.pop(running.id, ()):
            answer.set(running.ref)
        return self._table.started(running.id)

    def _down(self, ref: pykka.ActorRef[Any], reason: BaseException | None) -> None:
        running = self._running.pop(ref, None)
        if running is None:
            return  # not a child's, or of one that was left behind
        del self._by_id[running.id]
        self._starting.pop(running.start, None)
        self.scheduler.supervised.discard(ref)
        if running.limit is not None:
            running.limit.cancel()
        self._carry_out(self._note_down(running.id, reason))

    def _note_down(self, child_id: str, reason: BaseException | None) -> list[Order]:
        orders = self._table.down(child_id, reason, self.scheduler.now())
        for answer in self._when_started.pop(child_id, ()):
            error = StartFailed(f"child {child_id!r} could not be started: {reason!r}")
            error.__cause__ = reason
            answer.set_exception(error)
        for answer in self._when_stopped.pop(child_id, ()):
            answer.set()
        return orders

    def _time_is_up(self, ref: pykka.ActorRef[Any]) -> None:
        if ref in self._running:
            logger.error("%s: %s did not stop in time and is killed", self, ref)
            self._kill(ref)

    # -- orders

    def _carry_out(self, orders: list[Order]) -> None:
        left = deque(orders)
        while left:
            order = left.popleft()
            match order:
                case Start(child_id):
                    left.extend(self._start(child_id))
                case Stop(child_id):
                    self._stop_child(child_id)
                case Ready():
                    self._ready.set()
                case _:
                    self._finish(order.error)

    def _start(self, child_id: str) -> list[Order]:
        spec = self._table.find(child_id).spec
        self._starts += 1
        start = self._starts
        ref: pykka.ActorRef[Any]
        try:
            if issubclass(spec.actor_class, ActorMixin):
                report = _StartReport(self.actor_ref, start)
                ref = self.scheduler.start_later(spec.actor_class, spec.args, dict(spec.kwargs), report)
                self.scheduler.supervised.add(ref)
            else:
                ref = spec.actor_class.start(*spec.args, **spec.kwargs)
        except Exception as error:
            logger.error("%s: child %r could not be made:", self, child_id, exc_info=error)
            return self._note_down(child_id, error)
        running = _Running(child_id, ref, start)
        self._running[ref] = running
        self._by_id[child_id] = running
        self.monitor(ref)
        if not issubclass(spec.actor_class, ActorMixin):
            return self._note_started(running)
        self._starting[start] = running
        return []

    def _stop_child(self, child_id: str) -> None:
        spec = self._table.find(child_id).spec
        running = self._by_id[child_id]
        limit = spec.shutdown
        if limit is None:
            limit = "infinity" if issubclass(spec.actor_class, Supervisor) else SHUTDOWN
        if limit == "brutal_kill":
            self._kill(running.ref)
            return
        running.ref.stop(block=False)
        if limit != "infinity":
            running.limit = self.send_after(limit, _TimeIsUp(running.ref))

    def _kill(self, ref: Any) -> None:
        if issubclass(ref.actor_class, ActorMixin):
            ref.kill()
            return
        logger.error("%s: %s cannot be killed, because it has a thread of Pykka's, and is left behind", self, ref)
        self.demonitor(ref)
        ref.stop(block=False)
        self.actor_ref.tell(Down(ref, ActorKilled(f"{ref} was left behind")))

    # -- the end

    def _stop(self) -> DelayedReply:  # type: ignore[override]  # Pykka's stop message: answered when all have stopped
        self._carry_out(self._table.close())
        return DelayedReply()

    def _finish(self, error: Exception | None) -> None:
        if error is None:
            lifecycle.stop(self.actor_ref, self)
        elif self._ready.settled:
            lifecycle.fail(self.actor_ref, self, error)
        else:  # the start that is still going on fails
            lifecycle.end(self.actor_ref, error)
