"""`Runtime`: what the real scheduler and the simulated one share.

A runtime owns two run queues of mailboxes, a clock, timers, names, and the set of its living actors.  It knows how to
take one *turn*: up to `budget` messages of one mailbox, then the mailbox goes to the back of the queue, so that a
storm of messages at one actor costs another the rest of its turn and at most one more.

Who takes the turns is decided by the children: `pfs.actors.Scheduler` (a thread of its own, and plain threads that
wait) or `pfs.testing.SimulatedScheduler` (a seeded choice, virtual time).  They decide too how a blocking actor runs
and how a plain caller waits.

Invariants: at most one thread takes turns from `inline_queue` at a time; `own_queue` belongs to one thread alone; no
turn begins inside a turn.
"""

from __future__ import annotations

import _thread
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pykka
from pykka._envelope import Envelope

from pfs.actors import lifecycle
from pfs.actors.lifecycle import SPECIAL_MESSAGES, ActorKilled
from pfs.actors.monitors import Address, Watched
from pfs.actors.timers import Timer, TimerQueue
from pfs.actors.waiting import ReplyFuture, StartMessage, Waiter, refuse_in_handler
from pfs.actors.waiting import handler_threads as handler_threads  # the simulation takes it from here
from pfs.errors import InvalidRequest, NameTaken, SystemStopped

if TYPE_CHECKING:
    from pfs.actors.blocking import BlockingActor
    from pfs.actors.reference import Ref, RefBase

logger = logging.getLogger("pfs.actors")

A = TypeVar("A", bound=pykka.Actor)

START_TIMEOUT = 60.0
"""Seconds that `start` waits for `on_start`."""


class _Ambient(threading.local):
    runtime: Runtime | None = None


ambient = _Ambient()
"""The runtime that was chosen on this thread by `Runtime.ambient` or `Runtime.start`."""

_default: Runtime | None = None
_default_lock = _thread.allocate_lock()
os.register_at_fork(
    before=_default_lock.acquire, after_in_parent=_default_lock.release, after_in_child=_default_lock.release
)
_default_factory: Callable[[], Runtime] | None = None


def current_runtime() -> Runtime:
    """The runtime that new actors belong to on this thread (see `pfs.actors.actor`)."""
    runtime = ambient.runtime
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
        self._named: dict[RefBase[Any], list[str]] = {}
        self._names_lock = _thread.allocate_lock()
        self.supervised: set[Any] = set()
        """The refs of actors that are stopped after all others: their supervisor has stopped them by then."""
        self._serious: dict[int, BaseException] = {}
        """Interrupts that struck in a handler, by the ident of the thread that ran it."""

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

    def stop(self, timeout: float = 10.0) -> None:
        """Stop all actors, the last started first, and then the runtime itself."""
        raise NotImplementedError

    def new_id(self) -> int:
        """64 random bits, to tell one thing from all others."""
        raise NotImplementedError

    # -- starting and ending actors

    def next_number(self) -> int:
        return next(self._numbers)

    @contextmanager
    def ambient(self) -> Iterator[None]:
        """Make this the runtime of the actors that this thread makes in the block."""
        before = ambient.runtime
        ambient.runtime = self
        try:
            yield
        finally:
            ambient.runtime = before

    def start(self, actor_class: type[A], *args: Any, **kwargs: Any) -> pykka.ActorRef[A]:
        """Start an actor here; raises what its `__init__` or `on_start` raised.

        On a plain thread this waits for `on_start`.  Inside a handler `on_start` runs at once where it may (an actor
        of the same kind on the same thread); else it runs later, and its failure ends the actor: monitor it.
        """
        actor = self._make(actor_class, args, kwargs)
        ref: Any = actor.actor_ref
        blocking: bool = getattr(actor, "blocking", False)
        if type(actor).on_start is pykka.Actor.on_start:
            self._open(actor, blocking, None)
        elif _thread.get_ident() not in handler_threads:
            future = ReplyFuture(self, ref)
            self._open(actor, blocking, Envelope(StartMessage(), reply_to=future))
            try:
                future.get(timeout=START_TIMEOUT)
            except BaseException:
                self.kill(ref)  # nobody has its address: it has not started in time, or the wait was interrupted
                raise
        elif not blocking and self.may_run_here(getattr(actor, "inline", False)):
            try:
                actor.on_start()
            except BaseException as error:
                lifecycle.end(ref, error)
                raise
            finally:
                self._open(actor, blocking, None)
        else:
            self._open(actor, blocking, StartMessage())
        return ref  # type: ignore[no-any-return]

    def start_later(
        self, actor_class: type[A], args: tuple[Any, ...], kwargs: dict[str, Any], started: pykka.Future[None]
    ) -> RefBase[A]:
        """Start an actor without waiting; `started` is set when `on_start` has ended, with what it raised if it did.

        Raises what its `__init__` raised.
        """
        actor = self._make(actor_class, args, kwargs)
        self._open(actor, getattr(actor, "blocking", False), Envelope(StartMessage(), reply_to=started))
        return actor.actor_ref  # type: ignore[return-value]

    def _make(self, actor_class: type[A], args: tuple[Any, ...], kwargs: dict[str, Any]) -> A:
        if self.stopped:
            self.refuse_to_start(actor_class.__name__)
        before = ambient.runtime
        ambient.runtime = self
        try:
            actor = actor_class(*args, **kwargs)
        finally:
            ambient.runtime = before
        ref: Any = actor.actor_ref
        self.living[ref.number] = ref
        pykka.ActorRegistry.register(ref)
        return actor

    def _open(self, actor: pykka.Actor, blocking: bool, first: Any) -> None:
        actor.actor_ref.open(first)  # type: ignore[attr-defined]
        if blocking:
            self.launch_blocking(actor)  # type: ignore[arg-type]

    def refuse_to_start(self, what: str) -> NoReturn:
        """Say why nothing can be started any more."""
        raise SystemStopped(f"{what} cannot be started: {self.name} is stopped")

    def forget(self, ref: RefBase[Any]) -> bool:
        """An actor ends: take it out of the books.  True for the one caller that did, who ends the actor."""
        if self.living.pop(ref.number, None) is None:
            return False
        self.supervised.discard(ref)
        if ref in self._named:
            with self._names_lock:
                for name in self._named.pop(ref, ()):
                    if self._names.get(name) is ref:
                        del self._names[name]
        return True

    def kill(self, ref: RefBase[Any]) -> None:
        """End an actor without its consent."""
        lifecycle.end(ref, ActorKilled(f"{ref} was killed"))
        ref.release()

    def stop_actors(self, deadline: float) -> None:
        """Stop all actors, the last started first; one that has not stopped at `deadline` is killed and logged."""
        while self.living:
            refs = sorted(self.living.values(), key=lambda ref: ref.number, reverse=True)
            free = [ref for ref in refs if ref not in self.supervised]  # a supervisor stops its children
            for ref in free or refs:
                left = deadline - self.clock()
                if left <= 0.0:
                    self._kill_all()
                    return
                try:
                    ref.stop(timeout=left)
                except pykka.Timeout:
                    logger.error("%s did not stop in time and is killed", ref)
                    self.kill(ref)

    def _kill_all(self) -> None:
        refs = sorted(self.living.values(), key=lambda ref: ref.number)
        for ref in refs:
            pykka.ActorRegistry.unregister(ref)  # in the order of its list, which is short work; see lifecycle
        for ref in reversed(refs):
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
            self.note_backlog(ref, actor, backlog)
        left = self.budget
        receive = actor.on_receive
        trace = self.trace
        try:
            while left and items and ref._actor is not None:
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
        if lifecycle.is_serious(error):
            self._serious[_thread.get_ident()] = error  # the driver raises it again
        lifecycle.fail(ref, actor, error)

    def note_backlog(self, ref: Any, actor: pykka.Actor, backlog: int) -> None:
        """Keep the longest mailbox seen; log once that it passed the actor's `mailbox_mark`."""
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
        """Tell `message` to `target` after `delay` seconds (at once if it is negative).

        `InvalidRequest` if it is not a number.
        """
        if not isinstance(delay, (int, float)) or isinstance(delay, bool) or delay != delay:
            raise InvalidRequest(f"a delay of {delay!r} is not a number of seconds")
        timer = Timer(self.clock() + max(delay, 0.0), target, message)
        self.timers.add(timer)
        if self.needs_wake:
            self.wake()
        return timer

    def fire_timers(self, now: float) -> None:
        for timer in self.timers.take_due(now):
            if timer.cancelled:
                continue
            try:
                timer.target.tell(timer.message)
            except pykka.ActorDeadError:
                pass  # nobody is there to be told
            except Exception:
                logger.exception("%s could not be told %r:", timer.target, timer.message)

    # -- names

    def register(self, name: str, ref: RefBase[Any]) -> None:
        """Give a living actor a name until it ends; `NameTaken` if another living actor has it.

        An actor may have several names.  `pykka.ActorDeadError` if it has ended.
        """
        with self._names_lock:
            holder = self._names.get(name)
            if holder is ref:
                return
            if holder is not None and holder.is_alive():
                raise NameTaken(f"the name {name!r} is registered for {holder}")
            self._names[name] = ref
            self._named.setdefault(ref, []).append(name)
        if not ref.is_alive():
            self.unregister(name)
            raise pykka.ActorDeadError(f"{ref} has ended and cannot be registered as {name!r}")

    def unregister(self, name: str) -> None:
        """Free a name; no effect if nobody has it."""
        with self._names_lock:
            ref = self._names.pop(name, None)
            names = self._named.get(ref, []) if ref is not None else []
            if name in names:
                names.remove(name)
                if not names:
                    del self._named[ref]  # type: ignore[arg-type]

    def whereis(self, name: str) -> RefBase[Any] | None:
        """The living actor of this name, or None."""
        with self._names_lock:
            ref = self._names.get(name)
            return ref if ref is not None and ref.is_alive() else None

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
        refuse_in_handler(what)

    # -- inspection

    def stats(self) -> dict[str, dict[str, int | str]]:
        """What each living actor is doing: class, mailbox length, its high-water mark, messages handled."""
        table: dict[str, dict[str, int | str]] = {}
        for ref in list(self.living.values()):
            entry: dict[str, int | str] = {"class": ref.actor_class.__name__}
            for counter in ("high_water", "reductions"):
                entry[counter] = getattr(ref, counter, 0)
            entry["mailbox"] = ref.mailbox_length()
            table[ref.label] = entry
        return table
