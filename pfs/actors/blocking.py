"""`BlockingActor`: an actor with a thread of its own, for what may block: disks, sockets, others' libraries.

These are what Erlang calls dirty I/O schedulers.  It is Pykka's `ThreadingActor` with a faster inbox, which may take
its whole backlog as one batch: override `on_batch` and be given every message that is waiting, which is what makes
group commit natural.  Keep its work to the blocking call itself: threads that both compute fight over the
interpreter's lock.

Under the simulated scheduler the same class runs as a coroutine whose every file call is a scheduling point.

A message that is put after the actor's last look at its inbox is not lost to the asker: whoever puts looks at
`is_alive` afterwards, and drains the inbox of an actor that is gone.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import pykka
from pykka._envelope import Envelope

from pfs.actors import lifecycle
from pfs.actors.actor import ActorMixin
from pfs.actors.lifecycle import SPECIAL_MESSAGES
from pfs.actors.reference import A, RefBase
from pfs.actors.runtime import Runtime, current_runtime
from pfs.actors.waiting import ReplyFuture, answer_ended

if TYPE_CHECKING:
    import threading

    from pykka._actor import ActorInbox


class BlockingRef(RefBase[A]):
    """The address of a blocking actor."""

    __slots__ = ("backlog_logged", "first", "high_water", "inbox", "owed", "reductions")

    def __init__(self, actor: A, scheduler: Runtime) -> None:
        super().__init__(actor, scheduler)
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.first: Any = None
        """What is handled before all else."""
        self.owed: Envelope[Any] | None = None
        """The ask that is being handled."""
        self.high_water = 0
        self.reductions = 0
        self.backlog_logged = False

    @property
    def actor_inbox(self) -> Any:  # type: ignore[override]  # Pykka declares it as a variable
        return self.inbox

    def tell(self, message: Any) -> None:
        """Send a message; never blocks.  `ActorDeadError` if the actor has ended."""
        if self._actor is None:
            raise pykka.ActorDeadError(f"{self} not found")
        self.inbox.put(message)

    def open(self, first: Any = None) -> None:
        self.first = first  # the thread is started after this

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send a message and wait for the reply, from a plain thread (see Pykka's `ActorRef.ask`)."""
        if block:
            self.scheduler.refuse_in_handler(f"ask({type(message).__name__}) of {self.label}")
        future = ReplyFuture(self.scheduler, self)
        if self._actor is None:
            error = pykka.ActorDeadError(f"{self} not found")
            future.set_exception((pykka.ActorDeadError, error, None))
        else:
            self.inbox.put(Envelope(message, reply_to=future))
            if self._actor is None:  # it ended meanwhile and may have looked at its inbox for the last time
                lifecycle.drain(self)  # type: ignore[unreachable]
        return future.get(timeout=timeout) if block else future

    def release(self) -> None:
        owed = self.owed
        if owed is not None:  # the thread may be held up in its handler for ever
            answer_ended(owed, self)
        self.inbox.put(None)  # wakes the thread, which sees that it is to end

    def mailbox_length(self) -> int:
        return self.inbox.qsize()

    def forbid(self) -> None:
        self.__class__ = _ForkedBlockingRef

    def take_left_over(self) -> list[Any]:
        left_over = []
        try:
            while True:
                left_over.append(self.inbox.get_nowait())
        except queue.Empty:
            return left_over


class _ForkedBlockingRef(BlockingRef[A]):
    """What a ref becomes in a forked child."""

    __slots__ = ()

    def tell(self, message: Any) -> None:
        self.scheduler.wake()  # raises

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        self.scheduler.wake()


class BlockingActor(ActorMixin, pykka.ThreadingActor):
    """An actor that may block (see the module)."""

    blocking: ClassVar[bool] = True

    most_in_batch: ClassVar[int] = 1024
    """The most messages that `on_batch` is given at once."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self._actor_ref = current_runtime().make_blocking_ref(self)

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> pykka.ActorRef[Self]:
        """Start an actor; raises what its `__init__` or `on_start` raised."""
        return current_runtime().start(cls, *args, **kwargs)

    def on_batch(self, messages: list[Any]) -> None:
        """Handle all messages that were waiting, in order; by default each is given to `on_receive`.

        Messages that were asked, and Pykka's own, are handled one at a time between batches.
        """
        for message in messages:
            if not self._actor_ref.is_alive():
                return  # it was killed, or stopped itself: the rest is not handled
            self.on_receive(message)

    @property
    def actor_ref(self) -> RefBase[Self]:
        return cast("RefBase[Self]", self._actor_ref)

    @property
    def actor_urn(self) -> str:  # type: ignore[override]  # Pykka declares these three as variables
        return cast(str, self._actor_ref.actor_urn)

    @property
    def actor_inbox(self) -> ActorInbox:  # type: ignore[override]
        return cast("ActorInbox", self._actor_ref.actor_inbox)

    @property
    def actor_stopped(self) -> threading.Event:  # type: ignore[override]
        return cast("threading.Event", self._actor_ref.actor_stopped)

    @staticmethod
    def _create_future() -> ReplyFuture:
        return ReplyFuture()

    def _actor_loop(self) -> None:
        ref: BlockingRef[Self] = self._actor_ref
        inbox = ref.inbox
        get, get_nowait = inbox.get, inbox.get_nowait
        scheduler = self.scheduler
        with scheduler.ambient():
            if ref.first is not None:
                self.handle_batch([ref.first])
            while ref.is_alive():
                batch = [get()]
                try:
                    while len(batch) < self.most_in_batch:
                        batch.append(get_nowait())
                except queue.Empty:
                    pass
                backlog = len(batch) + inbox.qsize()
                if backlog > ref.high_water:
                    scheduler.note_backlog(ref, self, backlog)
                ref.reductions += len(batch)
                self.handle_batch(batch)
        lifecycle.drain(ref)

    def handle_batch(self, batch: list[Any]) -> None:
        """Handle messages of all kinds, those for `on_batch` in as few calls as their order allows."""
        ref = self._actor_ref
        plain: list[Any] = []
        done = 0
        """How many messages need no answer any more."""
        try:
            for message in batch:
                if not ref.is_alive():
                    break
                if type(message) not in SPECIAL_MESSAGES:
                    plain.append(message)
                    done += 1
                    continue
                if plain:
                    self.on_batch(plain)
                    plain = []
                    if not ref.is_alive():
                        break
                done += 1
                self._handle_special(ref, message)
            if plain and ref.is_alive():
                self.on_batch(plain)
        except BaseException as error:
            lifecycle.fail(ref, self, error)
        for message in batch[done:]:
            if type(message) is Envelope and message.reply_to is not None:
                answer_ended(message, ref)

    def _handle_special(self, ref: Any, message: Any) -> None:
        if isinstance(ref, BlockingRef) and type(message) is Envelope and message.reply_to is not None:
            ref.owed = message
            try:
                lifecycle.handle_special(ref, self, message)
            finally:
                ref.owed = None
        else:
            lifecycle.handle_special(ref, self, message)

    def _stop(self) -> None:
        lifecycle.stop(self._actor_ref, self)
