"""How an actor of either kind begins, answers and ends: the rules in one place.

* A handler that raises under `ask` answers the asker with the exception; the actor lives on (Pykka's rule).
* A handler that raises under `tell` ends the actor: `on_failure`, then `Down(ref, exception)` to its watchers.
* `SystemExit` and other exceptions that are not `Exception` end the actor in both cases; an asker gets
  `ActorDeadError` with the cause, and no other actor is stopped (Pykka stops them all and leaves the asker hanging).
* However an actor ends, whoever asked it and was not answered gets `ActorDeadError`.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pykka
from pykka._envelope import Envelope
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from pfs.actors.waiting import answer_dead

if TYPE_CHECKING:
    from pfs.actors.reference import RefBase

logger = logging.getLogger("pfs.actors")


class StartMessage(NamedTuple):
    """The first message of an actor that has an `on_start`."""


class ActorKilled(pykka.ActorDeadError):
    """The exit reason of an actor that was killed."""


SPECIAL_MESSAGES = frozenset({Envelope, _ActorStop, StartMessage, ProxyCall, ProxyGetAttr, ProxySetAttr})
"""The classes of messages that the runtime handles; all others go to `on_receive`."""


def handle_special(ref: RefBase[Any], actor: pykka.Actor, message: Any) -> None:
    """Handle one message of `SPECIAL_MESSAGES`.  Raises what ends the actor."""
    if type(message) is not Envelope:
        if type(message) is StartMessage:
            actor.on_start()
        else:
            actor._handle_receive(message)
        return
    reply_to = message.reply_to
    body = message.message
    if reply_to is None:
        if type(body) in SPECIAL_MESSAGES:
            handle_special(ref, actor, body)
        else:
            actor.on_receive(body)
        return
    try:
        if type(body) is StartMessage:
            actor.on_start()
            answer: Any = None
        else:
            answer = actor._handle_receive(body)
    except Exception as error:
        if type(body) is StartMessage:
            end(ref, error)
            reply_to.set_exception(sys.exc_info())
            return
        logger.info("%s raised %r, returned to the asker", ref, error)
        reply_to.set_exception(sys.exc_info())
    except BaseException as error:
        dead = pykka.ActorDeadError(f"{ref} was ended by {error!r} while it handled this message")
        dead.__cause__ = error
        reply_to.set_exception((pykka.ActorDeadError, dead, None))
        raise
    else:
        reply_to.set(answer)


def fail(ref: RefBase[Any], actor: pykka.Actor, error: BaseException) -> None:
    """End an actor because a handler raised."""
    if not ref.is_alive():
        return  # it was killed while it handled a message
    logger.error("Unhandled exception in %s:", ref, exc_info=error)
    _leave(ref)
    try:
        actor.on_failure(type(error), error, error.__traceback__)
    except Exception:
        logger.exception("Unhandled exception in on_failure of %s:", ref)
    _settle(ref, error)


def stop(ref: RefBase[Any], actor: pykka.Actor) -> None:
    """End an actor normally, in its own context."""
    if not ref.is_alive():
        return
    _leave(ref)
    reason: BaseException | None = None
    try:
        actor.on_stop()
    except Exception as error:
        logger.exception("Unhandled exception in on_stop of %s:", ref)
        reason = error
    _settle(ref, reason)


def end(ref: RefBase[Any], reason: BaseException | None) -> None:
    """End an actor without running any code of its own."""
    if ref.is_alive():
        _leave(ref)
        _settle(ref, reason)


def drain(ref: RefBase[Any]) -> None:
    """Answer whoever asked an actor that has ended, and drop what was told to it."""
    for envelope in ref.take_left_over():
        if type(envelope) is Envelope and envelope.reply_to is not None:
            if isinstance(envelope.message, _ActorStop):
                envelope.reply_to.set(None)
            else:
                answer_dead(envelope.reply_to, ref)


def _leave(ref: RefBase[Any]) -> None:
    ref._actor = None
    ref.scheduler.forget(ref)
    pykka.ActorRegistry.unregister(ref)


def _settle(ref: RefBase[Any], reason: BaseException | None) -> None:
    drain(ref)
    ref.tell_watchers(reason)
