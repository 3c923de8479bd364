"""What a plain thread waits on: a reply slot (`Waiter`) and Pykka's future made from it (`ReplyFuture`).

A waiter is finished once, by an actor's handler, and is watched by at most a few plain threads.  It costs no lock
until a thread really has to sleep, because in the common case the thread that waits is the one that drives the
scheduler (see `pfs.actors.scheduler`) and finds the reply there when it looks.

No wake-up is lost: the finisher sets `done` and then looks for a lock; the sleeper publishes its lock and then looks
at `done`.  Under the interpreter's lock one of the two sees the other.
"""

from __future__ import annotations

import _thread
import os
import queue
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import pykka
from pykka.messages import _ActorStop

from pfs.errors import CallInHandler, Timeout

if TYPE_CHECKING:
    from pykka._envelope import Envelope

    from pfs.actors.reference import RefBase
    from pfs.actors.runtime import Runtime

ExceptionInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]

handler_threads: dict[int, Runtime] = {}
"""The threads that are running handlers of scheduled actors now, by thread ident."""

_making_a_lock = _thread.allocate_lock()
os.register_at_fork(
    before=_making_a_lock.acquire, after_in_parent=_making_a_lock.release, after_in_child=_making_a_lock.release
)


def refuse_in_handler(what: str) -> None:
    """Raise `CallInHandler` if this thread is inside a handler of a scheduled actor."""
    if _thread.get_ident() in handler_threads:
        raise CallInHandler(
            f"{what} would wait inside an actor's handler, and no reply could come; "
            "tell a message and handle the answer when it arrives"
        )


class StartMessage(NamedTuple):
    """The first message of an actor that has an `on_start`."""


class Waiter:
    """Something that will be finished once."""

    __slots__ = ("_sleeper", "done")

    def __init__(self) -> None:
        self.done = False
        self._sleeper: _thread.LockType | None = None

    def finish(self) -> None:
        """Say that the result is there; wakes every thread that sleeps on it."""
        self.done = True
        sleeper = self._sleeper
        if sleeper is not None:
            try:
                sleeper.release()
            except RuntimeError:
                pass  # released already: a woken thread passes the lock on

    def rearm(self) -> None:
        """Make a finished waiter ready for its next use, by its only waiting thread."""
        self.done = False
        self._sleeper = None

    def sleep(self, timeout: float | None) -> bool:
        """Sleep until finished, at most `timeout` seconds; returns whether it is finished."""
        if self.done:
            return True
        with _making_a_lock:
            sleeper = self._sleeper
            if sleeper is None:
                sleeper = _thread.allocate_lock()
                sleeper.acquire()
                self._sleeper = sleeper
        limit = -1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX)
        while not self._is_done() and sleeper.acquire(timeout=limit):
            if self._is_done():
                try:
                    sleeper.release()  # for the next thread that sleeps on the same waiter
                except RuntimeError:
                    pass
            elif timeout is not None:
                break  # woken by a finisher from before `rearm`
        return self._is_done()

    def _is_done(self) -> bool:
        return self.done

    def describe(self) -> str:
        """Who waits for whom, for the report of a deadlock."""
        return "a thread waits for a reply"


class ReplyFuture(pykka.Future[Any], Waiter):
    """Pykka's future for asks of pfs's actors.

    `get` called on a plain thread lends that thread to the scheduler while the reply is not there; called inside an
    actor's handler it raises `CallInHandler` at once unless the reply is there already.
    """

    def __init__(self, scheduler: Runtime | None = None, target: RefBase[Any] | None = None) -> None:
        pykka.Future.__init__(self)
        Waiter.__init__(self)
        self._scheduler = scheduler
        self._target = target
        self._value: Any = None
        self._exc_info: ExceptionInfo | None = None

    def describe(self) -> str:
        return f"a reply of {self._target} is awaited"

    def get(self, *, timeout: float | None = None) -> Any:
        """The value, or the exception raised; `pfs.Timeout` after `timeout` seconds."""
        if self._get_hook is not None:
            return super().get(timeout=timeout)
        if not self.done:
            if self._scheduler is not None:
                self._scheduler.wait(self, timeout, self._what_times_out)
            else:
                refuse_in_handler("get() of a future")
                if not self.sleep(timeout):
                    raise Timeout(f"the future was not set within {timeout} seconds")
        if self._exc_info is None:
            return self._value
        exception_type, exception, traceback = self._exc_info
        if exception is None:
            assert exception_type is not None
            exception = exception_type()
        raise exception.with_traceback(traceback)

    def _what_times_out(self) -> str:
        return f"{self._target} did not answer"

    def set(self, value: Any | None = None) -> None:
        self._refuse_a_second_result()
        self._value = value
        self.finish()

    def set_exception(self, exc_info: ExceptionInfo | None = None) -> None:
        self._refuse_a_second_result()
        self._exc_info = sys.exc_info() if exc_info is None else exc_info
        self.finish()

    def set_get_hook(self, func: Callable[[float | None], Any]) -> None:
        self._refuse_a_second_result()
        super().set_get_hook(func)

    def _refuse_a_second_result(self) -> None:
        if self.done or self._get_hook is not None:
            raise queue.Full


def answer_ended(envelope: Envelope[Any], ref: pykka.ActorRef[Any]) -> None:
    """Answer who asked an actor that has ended: `ActorDeadError`, unless it was asked to stop.

    Who waits for its start gets the exception that ended it, if it is known.
    """
    future = envelope.reply_to
    assert future is not None
    reason: BaseException | None = getattr(ref, "exit_reason", None)
    try:
        if type(envelope.message) is _ActorStop:
            future.set(None)
        elif type(envelope.message) is StartMessage and isinstance(reason, Exception):
            future.set_exception((type(reason), reason, reason.__traceback__))
        else:
            error = pykka.ActorDeadError(f"{ref} stopped before handling the message")
            future.set_exception((pykka.ActorDeadError, error, None))
    except queue.Full:
        pass  # it was answered at this very moment
