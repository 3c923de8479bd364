"""`DelayedReply`: an answer that a handler gives later, as Erlang's `gen_server:reply` does.

A handler that cannot answer an `ask` yet, because the answer depends on messages still to come, returns a
`DelayedReply` and keeps it; when the answer is known it calls `set` or `set_exception`, and the asker wakes.  An
`on_start` may do the same: whoever started the actor then waits until it is ready.  The reply watches its actor, so
that the asker gets `ActorDeadError` if the actor ends first.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

from pfs.actors.waiting import answer_ended

if TYPE_CHECKING:
    from pykka._envelope import Envelope

    from pfs.actors.monitors import Down
    from pfs.actors.reference import RefBase


class DelayedReply:
    """Return it from a handler; settle it once, now or later, in the same actor.

    If the message was told rather than asked, settling has no effect.
    """

    __slots__ = ("_envelope", "_error", "_ref", "_value", "settled")

    def __init__(self) -> None:
        self.settled = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._envelope: Envelope[Any] | None = None
        self._ref: RefBase[Any] | None = None

    def set(self, value: Any = None) -> None:
        """Answer with a value; the first answer counts."""
        self._settle(value, None)

    def set_exception(self, error: BaseException) -> None:
        """Answer with an exception, which `ask` raises."""
        self._settle(None, error)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if not self.settled:
            self.settled = True
            self._value, self._error = value, error
            if self._ref is not None:
                self._ref.unwatch(self)
                self._answer()

    def bind(self, ref: RefBase[Any], envelope: Envelope[Any]) -> None:
        """The runtime says whom the handler that returned this owes an answer."""
        self._envelope = envelope
        self._ref = ref
        if self.settled:
            self._answer()
        else:
            ref.watch(self)

    def _answer(self) -> None:
        assert self._envelope is not None
        future = self._envelope.reply_to
        assert future is not None
        try:
            if self._error is None:
                future.set(self._value)
            else:
                future.set_exception((type(self._error), self._error, self._error.__traceback__))
        except queue.Full:
            pass  # the actor was killed at this moment, and the asker told so

    # -- what watches the actor

    def tell(self, message: Down) -> None:
        assert self._envelope is not None
        assert self._ref is not None
        self.settled = True
        answer_ended(self._envelope, self._ref)

    def is_alive(self) -> bool:
        return not self.settled
