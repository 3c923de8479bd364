"""`Ref`: the address and the mailbox of a scheduled actor, in one object.

Pykka's `ActorRef` hands every message through an envelope to an inbox object.  Here the ref *is* the inbox, because a
message hop is what an actor system does most: `tell` is one deque append, one flag and, if the flag was down, one more
append, with no lock.

**Why no wake-up is lost.**  A mailbox has `items` (a deque), and a flag `queued` that says "an entry for me is in the
run queue, or about to be put there".

* The sender appends to `items` first, and reads the flag second.  If the flag is up, somebody has put, or is between
  raising the flag and putting, an entry into the run queue; that entry will be popped after this moment.
* Whoever takes turns (one thread at a time for each run queue) lowers the flag *before* it looks at `items`.  So if a
  sender saw the flag up, that look comes after the sender's append and sees the message; if the sender saw
  it down, the sender puts an entry itself.
* A turn that ends with messages left (its budget is used up) raises the flag and puts the mailbox back.

Two senders may both see the flag down and both put an entry: the mailbox is then in the run queue twice.  That is
harmless: turns are taken one after the other, and the second finds what is left, perhaps nothing.

The flag of a new actor is up although there is no entry: messages are kept until `open`, so that none is handled
before `on_start`, whoever finds the actor's address how early.

Each step is one bytecode operation on a deque or an attribute, atomic and totally ordered under the interpreter's
lock.  `pfs.actors` refuses to be imported where there is none.

A ref stays valid after its actor's end.  A message that a sender puts there after the end (it looked at `is_alive`
just before) still raises the flag, and whoever takes that turn answers the asker with `ActorDeadError`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import pykka
from pykka._envelope import Envelope  # what `ActorInbox.put` takes; Pykka's hooks for new actor types need it

from pfs.actors.monitors import Down, Watched
from pfs.actors.waiting import ReplyFuture, Waiter
from pfs.errors import SystemStopped, Timeout, UnsupportedPython

if TYPE_CHECKING:
    from pfs.actors.runtime import Runtime

if not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise UnsupportedPython(
        "pfs relies on the interpreter's lock for its lock-free mailboxes; "
        "run it on a build of Python with the lock, or set PYTHON_GIL=1"
    )

A = TypeVar("A", bound=pykka.Actor)

# An URN must differ between processes, and is read so seldom that it is made only when asked for.
_urn_base = int.from_bytes(os.urandom(8), "big") << 64


def _new_urn_base() -> None:
    global _urn_base
    _urn_base = int.from_bytes(os.urandom(8), "big") << 64


os.register_at_fork(after_in_child=_new_urn_base)


class RefBase(pykka.ActorRef[A], Watched, Generic[A]):
    """What the refs of both kinds of actor have beyond Pykka's: a number, watchers, a way to be killed.

    `number` counts the actors of one scheduler from 1; with the class name it makes `label`, a name that is the same
    in every replay of a simulation (an URN is not).
    """

    __slots__ = ("_actor", "_actor_class", "number", "scheduler")

    scheduler: Runtime
    number: int

    def __init__(self, actor: A, scheduler: Runtime) -> None:
        Watched.__init__(self)
        self._actor: A | None = actor
        self._actor_class = type(actor)
        self.scheduler = scheduler
        self.number = scheduler.next_number()

    @property
    def label(self) -> str:
        return f"{self._actor_class.__name__}-{self.number}"

    @property
    def actor_class(self) -> type[A]:  # type: ignore[override]  # Pykka declares it as a variable
        return self._actor_class

    @property
    def actor_urn(self) -> str:  # type: ignore[override]
        value = f"{(_urn_base | (id(self.scheduler) & 0xFFFFFFFF) << 32 | self.number & 0xFFFFFFFF):032x}"
        return f"urn:uuid:{value[:8]}-{value[8:12]}-{value[12:16]}-{value[16:20]}-{value[20:]}"

    @property
    def actor_stopped(self) -> threading.Event:  # type: ignore[override]
        return cast("threading.Event", StoppedView(self))

    @property
    def _actor_weakref(self) -> Callable[[], A | None]:  # type: ignore[override]
        return lambda: self._actor

    def is_alive(self) -> bool:
        return self._actor is not None

    def __str__(self) -> str:
        return f"{self.label} ({self.actor_urn})"

    def kill(self) -> None:
        """End the actor without its consent, its messages unhandled; its watchers get the reason `ActorKilled`.

        A handler that is running goes on to its end; what it returns or raises is dropped.
        """
        self.scheduler.kill(self)

    def open(self, first: Any = None) -> None:
        """Let the actor handle messages, `first` before all others; called once, when it has been started."""
        raise NotImplementedError

    def release(self) -> None:
        """Called after a kill: let go of whoever still waits for the actor."""

    def mailbox_length(self) -> int:
        """How many messages wait."""
        raise NotImplementedError

    def forbid(self) -> None:
        """Called in a forked child, where the actor does not run: from now on whoever sends gets `SystemForked`."""
        raise NotImplementedError

    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any:
        """Ask the actor to stop (see Pykka's `ActorRef.stop`); with `block`, inside a handler `pfs.CallInHandler`."""
        if block:
            self.scheduler.refuse_in_handler(f"stop() of {self.label}")
        return super().stop(block=block, timeout=timeout)

    def take_left_over(self) -> list[Any]:
        """Remove and return what is in the mailbox of an actor that has ended.  Several threads may call it."""
        raise NotImplementedError


class Ref(RefBase[A]):
    """The address and mailbox of a scheduled actor (see the module)."""

    __slots__ = ("backlog_logged", "high_water", "items", "queued", "reductions", "run_queue")

    def __init__(self, actor: A, scheduler: Runtime, run_queue: deque[Ref[Any]]) -> None:
        super().__init__(actor, scheduler)
        self.items: deque[Any] = deque()
        self.queued = True  # until `open`
        self.run_queue = run_queue
        self.high_water = 0
        self.reductions = 0
        self.backlog_logged = False

    @property
    def actor_inbox(self) -> Any:  # type: ignore[override]
        return self

    # -- Pykka's ActorInbox protocol

    def put(self, envelope: Envelope[Any], /) -> None:
        self.post(envelope)
        if self.scheduler.needs_wake:
            self.scheduler.wake()

    def get(self) -> Envelope[Any]:
        item = self.items.popleft()
        return item if type(item) is Envelope else Envelope(item)

    def empty(self) -> bool:
        return not self.items

    # -- sending

    def tell(self, message: Any) -> None:
        """Send a message; never blocks.  `ActorDeadError` if the actor has ended."""
        if self._actor is None:
            raise pykka.ActorDeadError(f"{self} not found")
        self.items.append(message)
        if not self.queued:
            self.queued = True
            self.run_queue.append(self)
            if self.scheduler.needs_wake:
                self.scheduler.wake()

    def post(self, message: Any) -> None:
        """Send without waking anybody: for a caller that drives the scheduler itself right afterwards."""
        self.items.append(message)
        if not self.queued:
            self.queued = True
            self.run_queue.append(self)

    def post_again(self) -> None:
        """Put a mailbox that has messages back into the run queue."""
        if not self.queued:
            self.queued = True
            self.run_queue.append(self)

    def open(self, first: Any = None) -> None:
        if first is not None:
            self.items.appendleft(first)
        self.queued = False
        if self.items:
            self.post_again()
            if self.scheduler.needs_wake:
                self.scheduler.wake()

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send a message and wait for the reply, from a plain thread (see Pykka's `ActorRef.ask`).

        Raises what the handler raised, `ActorDeadError`, `pfs.Timeout`; inside a handler `pfs.CallInHandler`.
        """
        scheduler = self.scheduler
        if block:
            scheduler.refuse_in_handler(f"ask({type(message).__name__}) of {self.label}")
        future = ReplyFuture(scheduler, self)
        if self._actor is None:
            error = pykka.ActorDeadError(f"{self} not found")
            future.set_exception((pykka.ActorDeadError, error, None))
        else:
            self.post(Envelope(message, reply_to=future))
            if scheduler.needs_wake and not (block and self.run_queue is scheduler.inline_queue):
                scheduler.wake()
        return future.get(timeout=timeout) if block else future

    def mailbox_length(self) -> int:
        return len(self.items)

    def forbid(self) -> None:
        self.__class__ = _ForkedRef

    def take_left_over(self) -> list[Any]:
        left_over = []
        try:
            while True:
                left_over.append(self.items.popleft())
        except IndexError:
            return left_over


class _ForkedRef(Ref[A]):
    """What a ref becomes in a forked child."""

    __slots__ = ()

    def tell(self, message: Any) -> None:
        self.scheduler.wake()  # raises

    def post(self, message: Any) -> None:
        self.scheduler.wake()


class StoppedView:
    """`ActorRef.actor_stopped` with the part of `threading.Event` that has a meaning for readers."""

    __slots__ = ("_ref",)

    def __init__(self, ref: RefBase[Any]) -> None:
        self._ref = ref

    def is_set(self) -> bool:
        return not self._ref.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait on a plain thread until the actor has ended; inside a handler `pfs.CallInHandler`."""
        ref = self._ref
        ref.scheduler.refuse_in_handler(f"waiting for the end of {ref.label}")
        end = _End()
        ref.watch(end)
        try:
            if not end.done:
                ref.scheduler.wait(end, timeout, lambda: f"{ref} did not end")
        except (Timeout, SystemStopped):
            pass
        finally:
            ref.unwatch(end)
        return self.is_set()


class _End(Waiter):
    """A watcher that wakes a plain thread."""

    __slots__ = ()

    def tell(self, message: Down) -> None:
        self.finish()

    def is_alive(self) -> bool:
        return not self.done
