"""`Actor`: an actor that a scheduler runs, many on one thread.

Use it as Pykka's `ThreadingActor`: subclass it, write `on_receive` (or methods to be called by a proxy), and `start`
it.  Its handlers must be short and must not block: no waiting calls, no sleep, no disk.  What may block is a
`pfs.actors.BlockingActor`.

Where it runs: `start()` puts an actor on the scheduler of the actor that starts it, else on the one given by
`Runtime.start`, else on the process's default scheduler.  Classes of pfs's own have `inline = True`: they may also run
on a plain thread that waits for them.  Leave it False for your own actors, so that a lock that a caller holds, or an
object bound to a thread, cannot hurt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import pykka

from pfs.actors import lifecycle
from pfs.actors.monitors import Address
from pfs.actors.reference import Ref
from pfs.actors.runtime import Runtime, current_runtime
from pfs.actors.timers import Timer
from pfs.actors.waiting import ReplyFuture

if TYPE_CHECKING:
    import threading

    from pykka._actor import ActorInbox


class ActorMixin:
    """What both kinds of actor offer their handlers beyond Pykka's `Actor`."""

    _actor_ref: Any

    mailbox_mark: ClassVar[int] = 10_000
    """A mailbox longer than this is logged once for each actor, as a sign that something sends without credit."""

    @property
    def scheduler(self) -> Runtime:
        """The scheduler that the actor lives on: its clock, timers, names and random source."""
        return cast(Runtime, self._actor_ref.scheduler)

    def monitor(self, ref: pykka.ActorRef[Any]) -> None:
        """Have `Down(ref, reason)` told to this actor when `ref` ends (at once if it has)."""
        self.scheduler.watch(ref, self._actor_ref)

    def demonitor(self, ref: pykka.ActorRef[Any]) -> None:
        """Take `monitor` back."""
        self.scheduler.unwatch(ref, self._actor_ref)

    def send_after(self, delay: float, message: Any, target: Address | None = None) -> Timer:
        """Tell `message` to `target` (by default to this actor) after `delay` seconds; cancel with `Timer.cancel`."""
        return self.scheduler.send_after(delay, target or self._actor_ref, message)


class Actor(ActorMixin, pykka.Actor):
    """A scheduled actor (see the module)."""

    inline: ClassVar[bool] = False
    """Whether handlers may run on a plain thread that waits for a reply.  For pfs's own actors."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        runtime = current_runtime()
        self._actor_ref = Ref(self, runtime, runtime.inline_queue if self.inline else runtime.own_queue)

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> pykka.ActorRef[Self]:
        """Start an actor; raises what its `__init__` or `on_start` raised."""
        return current_runtime().start(cls, *args, **kwargs)

    @property
    def actor_ref(self) -> Ref[Self]:
        return cast("Ref[Self]", self._actor_ref)

    @property
    def actor_urn(self) -> str:  # type: ignore[override]  # Pykka declares these three as variables
        return cast(str, self._actor_ref.actor_urn)

    @property
    def actor_inbox(self) -> ActorInbox:  # type: ignore[override]
        return cast("ActorInbox", self._actor_ref)

    @property
    def actor_stopped(self) -> threading.Event:  # type: ignore[override]
        return cast("threading.Event", self._actor_ref.actor_stopped)

    @staticmethod
    def _create_actor_inbox() -> ActorInbox:
        raise NotImplementedError("the ref of a scheduled actor is its inbox")

    @staticmethod
    def _create_future() -> ReplyFuture:
        return ReplyFuture()

    def _start_actor_loop(self) -> None:
        raise NotImplementedError("Runtime.start starts scheduled actors")

    def _stop(self) -> None:
        lifecycle.stop(self._actor_ref, self)
