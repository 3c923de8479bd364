"""Output queues: elements in, data messages out as far as credits go; `pfs.streams.queues` explains them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from pfs.errors import Busy, ProtocolError, RequestTooLarge
from pfs.streams.queue_base import DEFAULT_BLOCK_SIZE, DEFAULT_CREDITS, NamedQueue, QueueType, Unit, checked_count

Element = TypeVar("Element")


class OutputQueue(NamedQueue, Generic[Element]):
    """The sending end of a stream: elements (or messages) in, data messages out as far as credits go.

    Args:
        name: for error messages.
        send: called with the elements of each data message, when there is credit for it.
        unit: what the user puts in: "element" (by `put`) or "message" (by `write`).
        block_size: elements in a block.
        credits: the most data messages in flight.  The queue holds them all at the start.
        send_end: called once with the number of all elements sent, when the queue was closed and its last message
            was sent: it cannot overtake the data.

    Raises:
        InvalidRequest: a name, unit, block size or number of credits that cannot be.
    """

    __slots__ = (
        "_block_end",
        "_block_size",
        "_credits",
        "_in_flight",
        "_open",
        "_send",
        "_send_end",
        "_sent",
        "_waiting",
    )

    type: QueueType = "output"

    def __init__(
        self,
        name: str,
        send: Callable[[tuple[Element, ...]], None],
        *,
        unit: Unit = "element",
        block_size: int = DEFAULT_BLOCK_SIZE,
        credits: int = DEFAULT_CREDITS,
        send_end: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(name, unit)
        self._send = send
        self._send_end = send_end
        self._block_size = checked_count(name, "block size", block_size)
        self._credits = checked_count(name, "number of credits", credits)
        self._in_flight = 0
        self._open: list[Element] = []
        self._waiting: tuple[Element, ...] | None = None
        self._sent = 0
        self._block_end = False

    @property
    def empty(self) -> bool:
        """Whether all that was put has been sent."""
        return not self._open and self._waiting is None

    @property
    def prepared(self) -> bool:
        """Whether a complete block waits here for credit; if so, `put` and `write` raise `Busy`."""
        return self._waiting is not None

    @property
    def block_end(self) -> bool:
        """Whether the element put last was the last of its block."""
        return self._block_end

    @property
    def credits(self) -> int:
        """How many data messages may be sent now."""
        return self._credits - self._in_flight

    def put(self, element: Element) -> None:
        """Put one element in; with it a block may be complete, which is sent if there is credit.

        Raises:
            Busy: a block waits for credit.  The element was not taken: put it again when credit is back.
            StreamClosed: the queue was closed.
            NotThisQueueType: the unit of this queue is the message.
        """
        if self._unit != "element":
            self._refuse("put")
        self._check_open()
        self._check_room("put")
        self._open.append(element)
        self._block_end = False
        if len(self._open) == self._block_size:
            self._complete_block()

    def write(self, elements: Sequence[Element]) -> None:
        """Put in a whole message, of no more elements than a block; there may be none.

        Raises:
            Busy: a message waits for credit.  This one was not taken: write it again when credit is back.
            RequestTooLarge: it has more elements than a block.
            StreamClosed: the queue was closed.
            NotThisQueueType: the unit of this queue is the element.
        """
        if self._unit != "message":
            self._refuse("write")
        self._check_open()
        self._check_room("write")
        if len(elements) > self._block_size:
            raise RequestTooLarge(
                f"queue {self._name!r} was given a message of {len(elements)} elements: "
                f"a block has {self._block_size} at most"
            )
        self._open.extend(elements)
        self._complete_block()

    def flush(self) -> None:
        """Make a block of what was put since the last one, if anything: shorter than the rest, and sent like them.

        Raises:
            StreamClosed: the queue was closed.
        """
        self._check_open()
        if self._open:
            self._complete_block()

    def close(self) -> None:
        """Flush, and take nothing more.  Closing again does nothing."""
        if not self._closed:
            self.flush()
            self._closed = True
            self._end_if_all_is_sent()

    def credit(self, n: int) -> None:
        """`n` credits have come back; a block that waited for one is sent.

        Raises:
            InvalidRequest: `n` is not an int of 1 or more.
            ProtocolError: more than are in flight.  Nothing has changed.
        """
        checked_count(self._name, "number of credits", n)
        if n > self._in_flight:
            raise ProtocolError(
                f"queue {self._name!r} got {n} credits back, but only {self._in_flight} messages are in flight"
            )
        self._in_flight -= n
        if self._waiting is not None:
            message, self._waiting = self._waiting, None
            self._dispatch(message)
            if self._closed:
                self._end_if_all_is_sent()

    def _check_room(self, operation: str) -> None:
        if self._waiting is not None:
            raise Busy(
                f"queue {self._name!r} holds a block of {len(self._waiting)} and has no credit: "
                f"{operation} again when credit is back"
            )

    def _complete_block(self) -> None:
        message = tuple(self._open)
        self._open.clear()
        self._block_end = True
        if self._in_flight < self._credits:
            self._dispatch(message)
        else:
            self._waiting = message

    def _dispatch(self, message: tuple[Element, ...]) -> None:
        self._in_flight += 1
        self._sent += len(message)
        self._send(message)

    def _end_if_all_is_sent(self) -> None:
        if self._waiting is None and self._send_end is not None:
            self._send_end(self._sent)
