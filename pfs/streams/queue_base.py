"""What named queues of all types share; `pfs.streams.queues` explains them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias, get_args

from pfs.errors import InvalidRequest, NotThisQueueType, StreamClosed, StreamEmpty

QueueType: TypeAlias = Literal["input", "output", "plain"]
Unit: TypeAlias = Literal["element", "message"]

DEFAULT_BLOCK_SIZE: Final = 64
"""Elements in a data message, if nothing else is asked for."""

DEFAULT_CREDITS: Final = 2
"""Data messages in flight, if nothing else is asked for: one on its way while one is used up."""

OPERATIONS: Final = ("put", "get", "write", "read", "flush", "empty", "prepared", "block_end", "credit", "credits")
"""What there is for queues of some type or other; a queue of another type answers `NotThisQueueType`."""


class NamedQueue:
    """What all three types share: a name, a unit, an end, and the answer to operations of another type."""

    __slots__ = ("_closed", "_name", "_unit")

    type: QueueType

    def __init__(self, name: str, unit: Unit) -> None:
        if not isinstance(name, str) or not name:
            raise InvalidRequest(f"a queue's name is {name!r}: give a str that is not empty")
        if unit not in get_args(Unit):
            raise InvalidRequest(f"queue {name!r} has unit {unit!r}: give 'element' or 'message'")
        self._name = name
        self._unit = unit
        self._closed = False

    @property
    def name(self) -> str:
        """The name, which error messages give."""
        return self._name

    @property
    def unit(self) -> Unit:
        """What the queue's user handles: elements or whole messages."""
        return self._unit

    @property
    def closed(self) -> bool:
        """Whether the queue takes nothing more; what is in it can still be had."""
        return self._closed

    # A type checker knows which operations a class has; whoever uses none is told on trying.
    if not TYPE_CHECKING:  # pragma: no branch

        def __getattr__(self, operation: str) -> NoReturn:
            if operation not in OPERATIONS:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {operation!r}")
            self._refuse(operation)

    def _refuse(self, operation: str) -> NoReturn:
        raise NotThisQueueType(f"queue {self._name!r} has type {self.type} and unit {self._unit}: no {operation} here")

    def _check_open(self) -> None:
        if self._closed:
            raise StreamClosed(f"queue {self._name!r} was closed and takes nothing more")

    def _nothing(self, operation: str) -> StreamEmpty | StreamClosed:
        if self._closed:
            return StreamClosed(f"queue {self._name!r} has ended")
        return StreamEmpty(f"queue {self._name!r} is empty: {operation} again when a message has arrived")


def checked_count(name: str, what: str, value: int) -> int:
    """`value` if it is an int of 1 or more, else `InvalidRequest` naming the queue and what the value is."""
    if type(value) is not int or value < 1:
        raise InvalidRequest(f"queue {name!r} has a {what} of {value!r}: give an int of 1 or more")
    return value
