"""`Runtime`: what the real scheduler and the simulated one share.

A runtime owns two run queues of mailboxes, a clock, timers, names, and the set of its living actors.  It knows how to
take one *turn*: up to `budget` messages of one mailbox, then the mailbox goes to the back of the queue, so that a
storm of messages at one actor costs another at most one budget of waiting.

Who takes the turns is decided by the children: `pfs.actors.Scheduler` (a thread of its own, and plain threads that
wait) or `pfs.testing.SimulatedScheduler` (a seeded choice, virtual time).  They decide too how a blocking actor runs
and how a plain caller waits.

Invariants: at most one thread takes turns from `inline_queue` at a time; `own_queue` belongs to one thread alone; no
turn begins inside a turn.
"""

from __future__ import annotations

import _thread
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import pykka
from pykka._envelope import Envelope

from pfs.actors import lifecycle
from pfs.actors.lifecycle import SPECIAL_MESSAGES, ActorKilled, StartMessage
from pfs.actors.monitors import Address, Watched
from pfs.actors.timers import Timer, TimerQueue
from pfs.actors.waiting import ReplyFuture, Waiter
from pfs.errors import CallInHandler, NameTaken

if TYPE_CHECKING:
    from pfs.actors.blocking import BlockingActor
    from pfs.actors.reference import Ref, RefBase

logger = logging.getLogger("pfs.actors")

A = TypeVar("A", bound=pykka.Actor)

START_TIMEOUT = 60.0
"""Seconds that `start` waits for `on_start`."""

handler_threads: dict[int, Runtime] = {}
"""The threads that are running handlers of scheduled actors now, by thread ident."""

_ambient = threading.local()
_default: Runtime | None = None
_default_lock = _thread.allocate_lock()
_default_factory: Callable[[], Runtime] | None = None


def current_runtime() -> Runtime:
    """The runtime that new actors belong to on this thread (see `pfs.actors.actor`)."""
    runtime: Runtime | None = getattr(_ambient, "runtime", None)
    if runtime is None:
        runtime = handler_threads.get(_thread.get_ident())
    return runtime if runtime is not None else default_runtime()


def default_runtime() -> Runtime:
    """The process's default scheduler, made when it is first needed."""
    global _default
    with _default_lock:
        if _default is None or _default.stopped:
            assert _default_factory is not None
            _default = _default_factory()
        return _default


def set_default_factory(factory: Callable[[], Runtime]) -> None:
    """Say how the default scheduler is made (called once, by `pfs.actors.scheduler`)."""
    global _default_factory
    _default_factory = factory


class Runtime:
    """Run queues, turns, timers, names and living actors (see the module)."""

    def __init__(self, name: str, clock: Callable[[], float], budget: int) -> None:
        self.name = name
        self.clock = clock
        self.budget = budget
        self.inline_queue: deque[Ref[Any]] = deque()
        self.own_queue: deque[Ref[Any]] = deque()
        self.needs_wake = False
        """Whether a sender that has put a mailbox into a run queue must call `wake`."""
        self.timers = TimerQueue()
        self.living: dict[int, RefBase[Any]] = {}
        self.stopped = False
        self.turns = 0
        self.trace: Callable[[Ref[Any], Any], None] | None = None
        """Called with each message just before it is handled; for tests and the curious."""
        self._numbers = count(1)
        self._names: dict[str, RefBase[Any]] = {}
        self._names_lock = _thread.allocate_lock()
        self._foreign_watcher: Address | None = None
        self._serious: BaseException | None = None

    # -- what the children decide

    def wake(self) -> None:
        """Have somebody take turns."""
        raise NotImplementedError

    def wait(self, waiter: Waiter, timeout: float | None, what_times_out: Callable[[], str]) -> None:
        """Return when the waiter is finished; `pfs.Timeout` after `timeout` seconds."""
        raise NotImplementedError

    def make_blocking_ref(self, actor: BlockingActor) -> RefBase[Any]:
        raise NotImplementedError

    def launch_blocking(self, actor: BlockingActor) -> None:
        raise NotImplementedError

    def may_run_here(self, inline: bool) -> bool:
        """Whether a handler of such an actor may run on this thread at this moment (within another handler)."""
        raise NotImplementedError

    # -- starting and ending actors

    def next_number(self) -> int:
        return next(self._numbers)

    @contextmanager
    def ambient(self) -> Iterator[None]:
        """Make this the runtime of the actors that this thread makes in the block."""
        before = getattr(_ambient, "runtime", None)
        _ambient.runtime = self
        try:
            yield
        finally:
            _ambient.runtime = before

    def start(self, actor_class: type[A], *args: Any, **kwargs: Any) -> pykka.ActorRef[A]:
        """Start an actor here; raises what its `__init__` or `on_start` raised.

        On a plain thread this waits for `on_start`.  Inside a handler `on_start` runs at once where it may (an actor
        of the same kind on the same thread); else it runs later, and its failure ends the actor: monitor it.
        """
        before = getattr(_ambient, "runtime", None)
        _ambient.runtime = self
        try:
            actor = actor_class(*args, **kwargs)
        finally:
            _ambient.runtime = before
        ref: Any = actor.actor_ref
        self.living[ref.number] = ref
        pykka.ActorRegistry.register(ref)
        blocking = not hasattr(ref, "run_queue") or getattr(actor, "blocking", False)
        if blocking:
            self.launch_blocking(actor)  # type: ignore[arg-type]
        if type(actor).on_start is not pykka.Actor.on_start:
            self._run_on_start(ref, actor, blocking)
        return ref  # type: ignore[no-any-return]

    def _run_on_start(self, ref: Any, actor: pykka.Actor, blocking: bool) -> None:
        if _thread.get_ident() not in handler_threads:
            future = ReplyFuture(self, ref)
            ref.put_first(Envelope(StartMessage(), reply_to=future))
            future.get(timeout=START_TIMEOUT)
        elif not blocking and self.may_run_here(getattr(actor, "inline", False)):
            try:
                actor.on_start()
            except BaseException as error:
                lifecycle.end(ref, error)
                raise
        else:
            ref.put_first(StartMessage())

    def forget(self, ref: RefBase[Any]) -> None:
        """An actor has ended: take it out of the books."""
        self.living.pop(ref.number, None)

    def kill(self, ref: RefBase[Any]) -> None:
        """End an actor without its consent."""
        lifecycle.end(ref, ActorKilled(f"{ref} was killed"))

    def stop_actors(self, deadline: float) -> None:
        """Stop all actors, the last started first; one that has not stopped at `deadline` is killed and logged."""
        while self.living:
            for ref in sorted(self.living.values(), key=lambda ref: ref.number, reverse=True):
                try:
                    ref.stop(timeout=max(deadline - self.clock(), 0.0))
                except pykka.Timeout:
                    logger.error("%s did not stop in time and is killed", ref)
                    self.kill(ref)

    # -- turns

    def turn(self, ref: Ref[Any]) -> None:
        """Handle up to `budget` messages of one mailbox.  No exception leaves it (see `_failed`)."""
        ref.queued = False  # before the first look at `items`: see pfs.actors.reference
        actor = ref._actor
        items = ref.items
        if actor is None:
            lifecycle.drain(ref)
            return
        backlog = len(items)
        if backlog > ref.high_water:
            self._note_backlog(ref, actor, backlog)
        left = self.budget
        receive = actor.on_receive
        trace = self.trace
        try:
            while left and items:  # an actor that ends in here has no items left
                left -= 1
                message = items.popleft()
                if trace is not None:
                    trace(ref, message)
                if type(message) in SPECIAL_MESSAGES:
                    lifecycle.handle_special(ref, actor, message)
                else:
                    receive(message)
        except BaseException as error:
            self._failed(ref, actor, error)
        ref.reductions += self.budget - left
        if items and not ref.queued:
            ref.queued = True
            ref.run_queue.append(ref)

    def _failed(self, ref: Ref[Any], actor: pykka.Actor, error: BaseException) -> None:
        if not isinstance(error, (Exception, SystemExit)):
            self._serious = error  # an interrupt that struck inside a handler: the driver raises it again
        lifecycle.fail(ref, actor, error)

    def _note_backlog(self, ref: Ref[Any], actor: pykka.Actor, backlog: int) -> None:
        ref.high_water = backlog
        mark: int = getattr(actor, "mailbox_mark", 10_000)
        if backlog > mark and not ref.backlog_logged:
            ref.backlog_logged = True
            logger.warning("The mailbox of %s holds %d messages (mark: %d)", ref, backlog, mark)

    # -- time

    def now(self) -> float:
        """Seconds on this runtime's clock; only differences mean anything."""
        return self.clock()

    def send_after(self, delay: float, target: Address, message: Any) -> Timer:
        """Tell `message` to `target` after `delay` seconds."""
        timer = Timer(self.clock() + max(delay, 0.0), target, message)
        self.timers.add(timer)
        if self.needs_wake:
            self.wake()
        return timer

    def fire_timers(self, now: float) -> None:
        for timer in self.timers.take_due(now):
            try:
                timer.target.tell(timer.message)
            except pykka.ActorDeadError:
                pass  # nobody is there to be told

    # -- names

    def register(self, name: str, ref: RefBase[Any]) -> None:
        """Give a living actor a name; `NameTaken` if another living actor has it."""
        with self._names_lock:
            holder = self._names.get(name)
            if holder is not None and holder is not ref and holder.is_alive():
                raise NameTaken(f"the name {name!r} is registered for {holder}")
            self._names[name] = ref

    def unregister(self, name: str) -> None:
        """Free a name; no effect if nobody has it."""
        with self._names_lock:
            self._names.pop(name, None)

    def whereis(self, name: str) -> RefBase[Any] | None:
        """The living actor of this name, or None."""
        with self._names_lock:
            ref = self._names.get(name)
            if ref is not None and not ref.is_alive():
                del self._names[name]
                return None
            return ref

    # -- monitors

    def watch(self, target: Any, watcher: Address) -> None:
        """Have `Down(target, reason)` told to `watcher` when `target` ends."""
        if isinstance(target, Watched):
            target.watch(watcher)
        else:
            from pfs.actors.foreign import Watch, watcher_of  # an actor: it stands above this module

            watcher_of(self).tell(Watch(target, watcher))

    def unwatch(self, target: Any, watcher: Address) -> None:
        """Take `watch` back."""
        if isinstance(target, Watched):
            target.unwatch(watcher)
        else:
            from pfs.actors.foreign import Unwatch, watcher_of

            watcher_of(self).tell(Unwatch(target, watcher))

    # -- callers

    def refuse_in_handler(self, what: str) -> None:
        """Raise `CallInHandler` if this thread is inside a handler of a scheduled actor."""
        if _thread.get_ident() in handler_threads:
            raise CallInHandler(
                f"{what} would wait inside an actor's handler, and no reply could come; "
                "tell a message and handle the answer when it arrives"
            )

    # -- inspection

    def stats(self) -> dict[str, dict[str, int | str]]:
        """What each living actor is doing: class, mailbox length, its high-water mark, messages handled."""
        table: dict[str, dict[str, int | str]] = {}
        for ref in list(self.living.values()):
            entry: dict[str, int | str] = {"class": ref.actor_class.__name__}
            for counter in ("high_water", "reductions"):
                entry[counter] = getattr(ref, counter, 0)
            entry["mailbox"] = len(getattr(ref, "items", ()))
            table[ref.label] = entry
        return table
