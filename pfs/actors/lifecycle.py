"""How an actor of either kind begins, answers and ends: the rules in one place.

* An `on_start` that raises ends the actor without `on_failure` (Pykka's rule); whoever started it gets the exception.
* A handler that raises under `ask` answers the asker with the exception; the actor lives on (Pykka's rule).
* A handler that raises under `tell` ends the actor: `on_failure`, then `Down(ref, exception)` to its watchers.
* `SystemExit` and other exceptions that are not `Exception` end the actor in both cases; an asker gets
  `ActorDeadError` with the cause, and no other actor is stopped (Pykka stops them all and leaves the asker hanging).
* However an actor ends, whoever asked it and was not answered gets `ActorDeadError`; who asked it to stop gets None.
* An actor ends once: of several that would end it (a failure, `stop`, a kill from another thread) the one that takes
  it out of the scheduler's books does, and the others do nothing.

Unregistering is not constant time: Pykka's public registry scans a list.  Ending the actor that was started last took
0.18 ms with 10,000 actors in the registry and 1.8 ms with 100,000, and 7 us without (November 2026, CPython 3.11).
"""

from __future__ import annotations

import logging
import queue
import sys
from typing import TYPE_CHECKING, Any

import pykka
from pykka._envelope import Envelope
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from pfs.actors.replies import DelayedReply
from pfs.actors.waiting import StartMessage, answer_ended

if TYPE_CHECKING:
    from pfs.actors.reference import RefBase

logger = logging.getLogger("pfs.actors")


class ActorKilled(pykka.ActorDeadError):
    """The exit reason of an actor that was killed."""


SPECIAL_MESSAGES = frozenset({Envelope, _ActorStop, StartMessage, ProxyCall, ProxyGetAttr, ProxySetAttr})
"""The classes of messages that the runtime handles; all others go to `on_receive`."""


def handle_special(ref: RefBase[Any], actor: pykka.Actor, message: Any) -> None:
    """Handle one message of `SPECIAL_MESSAGES`.  Raises what ends the actor."""
    envelope = message if type(message) is Envelope else Envelope(message)
    body = envelope.message
    reply_to = envelope.reply_to
    if type(body) is StartMessage:
        begin(ref, actor, envelope)
        return
    handle = actor._handle_receive if type(body) in SPECIAL_MESSAGES else actor.on_receive
    if reply_to is None:
        handle(body)
        return
    try:
        answer = handle(body)
    except Exception as error:
        logger.info("%s raised %r, returned to the asker", ref, error)
        _answer_with_exception(reply_to)
    except BaseException as error:
        _answer_ended_by(reply_to, ref, error)
        raise
    else:
        if type(answer) is DelayedReply:
            answer.bind(ref, envelope)
            return
        try:
            reply_to.set(answer)
        except queue.Full:
            pass  # the actor was killed meanwhile, and the asker told so


def begin(ref: RefBase[Any], actor: pykka.Actor, envelope: Envelope[Any]) -> None:
    """Run `on_start` and answer whoever waits for it."""
    reply_to = envelope.reply_to
    try:
        answer: Any = actor.on_start()  # type: ignore[func-returns-value]  # it may return a DelayedReply
    except BaseException as error:
        if reply_to is None:
            logger.error("%s could not start:", ref, exc_info=error)
        end(ref, error)
        if reply_to is not None:
            if isinstance(error, Exception):
                _answer_with_exception(reply_to)
            else:
                _answer_ended_by(reply_to, ref, error)
        if is_serious(error):
            raise
        return
    if reply_to is None:
        return
    if type(answer) is DelayedReply:
        answer.bind(ref, envelope)
    else:
        reply_to.set(None)


def is_serious(error: BaseException) -> bool:
    """Whether an exception that struck in a handler must be raised again to the thread that ran it (an interrupt)."""
    return not isinstance(error, (Exception, SystemExit))


def fail(ref: RefBase[Any], actor: pykka.Actor, error: BaseException) -> None:
    """End an actor because a handler raised."""
    if not _leave(ref):
        return  # it was killed while it handled a message
    logger.error("Unhandled exception in %s:", ref, exc_info=error)
    try:
        actor.on_failure(type(error), error, error.__traceback__)
    except BaseException:
        logger.exception("Unhandled exception in on_failure of %s:", ref)
    _settle(ref, error)


def stop(ref: RefBase[Any], actor: pykka.Actor) -> None:
    """End an actor normally, in its own context."""
    if not _leave(ref):
        return
    reason: BaseException | None = None
    try:
        actor.on_stop()
    except BaseException as error:
        logger.error("Unhandled exception in on_stop of %s:", ref, exc_info=error)
        reason = error
    _settle(ref, reason)
    if reason is not None and is_serious(reason):
        raise reason


def end(ref: RefBase[Any], reason: BaseException | None) -> None:
    """End an actor without running any code of its own."""
    if _leave(ref):
        _settle(ref, reason)


def drain(ref: RefBase[Any]) -> None:
    """Answer whoever asked an actor that has ended, and drop what was told to it."""
    for envelope in ref.take_left_over():
        if type(envelope) is Envelope and envelope.reply_to is not None:
            answer_ended(envelope, ref)


def _leave(ref: RefBase[Any]) -> bool:
    """Take an actor out of the books; returns whether it was still in them."""
    if not ref.scheduler.forget(ref):
        return False
    ref._actor = None
    pykka.ActorRegistry.unregister(ref)
    return True


def _settle(ref: RefBase[Any], reason: BaseException | None) -> None:
    drain(ref)
    ref.tell_watchers(reason)


def _answer_with_exception(reply_to: pykka.Future[Any]) -> None:
    try:
        reply_to.set_exception(sys.exc_info())
    except queue.Full:
        pass  # the actor was killed meanwhile, and the asker told so


def _answer_ended_by(reply_to: pykka.Future[Any], ref: RefBase[Any], error: BaseException) -> None:
    dead = pykka.ActorDeadError(f"{ref} was ended by {type(error).__name__} while it handled this message")
    dead.__cause__ = error
    try:
        reply_to.set_exception((pykka.ActorDeadError, dead, None))
    except queue.Full:
        pass
