"""Plain queues: first in, first out, inside one actor; `pfs.streams.queues` explains them."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from pfs.streams.queue_base import NamedQueue, QueueType, Unit

Element = TypeVar("Element")


class PlainQueue(NamedQueue, Generic[Element]):
    """First in, first out, inside one actor.  With the unit message, an element is a message: only the calls' names
    differ.

    Raises:
        InvalidRequest: a name or unit that cannot be.
    """

    __slots__ = ("_elements",)

    type: QueueType = "plain"

    def __init__(self, name: str, *, unit: Unit = "element") -> None:
        super().__init__(name, unit)
        self._elements: deque[Element] = deque()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take out now."""
        return not self._elements

    @property
    def prepared(self) -> bool:
        """Whether a unit can be taken out now."""
        return bool(self._elements)

    def put(self, element: Element) -> None:
        """Put one element in.

        Raises:
            StreamClosed: the queue was closed.
            NotThisQueueType: the unit of this queue is the message.
        """
        if self._unit != "element":
            self._refuse("put")
        self._check_open()
        self._elements.append(element)

    def write(self, message: Element) -> None:
        """Put one message in.

        Raises:
            StreamClosed: the queue was closed.
            NotThisQueueType: the unit of this queue is the element.
        """
        if self._unit != "message":
            self._refuse("write")
        self._check_open()
        self._elements.append(message)

    def get(self) -> Element:
        """Take out the next element.

        Raises:
            StreamEmpty: nothing is here now.
            StreamClosed: nothing is here and nothing more will come.
            NotThisQueueType: the unit of this queue is the message.
        """
        if self._unit != "element":
            self._refuse("get")
        if not self._elements:
            raise self._nothing("get")
        return self._elements.popleft()

    def read(self) -> Element:
        """Take out the next message.

        Raises:
            StreamEmpty: nothing is here now.
            StreamClosed: nothing is here and nothing more will come.
            NotThisQueueType: the unit of this queue is the element.
        """
        if self._unit != "message":
            self._refuse("read")
        if not self._elements:
            raise self._nothing("read")
        return self._elements.popleft()

    def close(self) -> None:
        """Take nothing more: what is here can still be taken out, and then `StreamClosed` is raised."""
        self._closed = True
