"""Input queues: data messages in, elements with their senders out; `pfs.streams.queues` explains them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from pfs.errors import ProtocolError
from pfs.streams.queue_base import DEFAULT_BLOCK_SIZE, DEFAULT_CREDITS, NamedQueue, QueueType, Unit, checked_count

Element = TypeVar("Element")
Sender = TypeVar("Sender", bound=Hashable)


class InputQueue(NamedQueue, Generic[Sender, Element]):
    """The receiving end of one or more streams: messages in, elements (or the messages) out.

    Args:
        name: for error messages.
        return_credit: called with a sender and 1 when a block of it is used up: when its last element was taken,
            the message was read, or (a block without elements) it is reached.
        unit: what the user takes out: "element" (by `get`) or "message" (by `read`).
        block_size: the most elements that a message may have.
        credits: the most messages that each sender may have in this queue; what it was granted.

    Raises:
        InvalidRequest: a name, unit, block size or number of credits that cannot be.
    """

    __slots__ = ("_block_end", "_block_size", "_blocks", "_credits", "_held", "_index", "_return_credit")

    type: QueueType = "input"

    def __init__(
        self,
        name: str,
        return_credit: Callable[[Sender, int], None],
        *,
        unit: Unit = "element",
        block_size: int = DEFAULT_BLOCK_SIZE,
        credits: int = DEFAULT_CREDITS,
    ) -> None:
        super().__init__(name, unit)
        self._return_credit = return_credit
        self._block_size = checked_count(name, "block size", block_size)
        self._credits = checked_count(name, "number of credits", credits)
        self._blocks: deque[tuple[Sender, Sequence[Element]]] = deque()
        self._index = 0  # of the next element in the first block, which always has one if the unit is the element
        self._held: dict[Sender, int] = {}
        self._block_end = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take out now."""
        return not self._blocks

    @property
    def prepared(self) -> bool:
        """Whether a unit can be taken out now."""
        return bool(self._blocks)

    @property
    def block_end(self) -> bool:
        """Whether the element taken last was the last of its block."""
        return self._block_end

    def write(self, sender: Sender, elements: Sequence[Element]) -> None:
        """Put in a data message that has arrived; its elements are not copied, so do not change them afterwards.

        Raises:
            ProtocolError: the message is larger than a block, or was sent without credit.
            StreamClosed: the queue was closed.
        """
        self._check_open()
        if len(elements) > self._block_size:
            raise ProtocolError(
                f"queue {self._name!r} got a message of {len(elements)} elements from {sender!r}: "
                f"a block has {self._block_size} at most"
            )
        held = self._held.get(sender, 0)
        if held == self._credits:
            raise ProtocolError(
                f"queue {self._name!r} got a message from {sender!r} without credit: {held} of it are here unused"
            )
        self._held[sender] = held + 1
        self._blocks.append((sender, elements))
        if self._unit == "element":
            self._pass_blocks_without_elements()

    def get(self) -> tuple[Sender, Element]:
        """Take out the next element; returns its sender and the element.

        Raises:
            StreamEmpty: nothing is here now.
            StreamClosed: nothing is here and nothing more will come.
            NotThisQueueType: the unit of this queue is the message.
        """
        if self._unit != "element":
            self._refuse("get")
        if not self._blocks:
            raise self._nothing("get")
        sender, elements = self._blocks[0]
        element = elements[self._index]
        self._index += 1
        self._block_end = self._index == len(elements)
        if self._block_end:
            self._use_up()
            self._pass_blocks_without_elements()
        return sender, element

    def read(self) -> tuple[Sender, Sequence[Element]]:
        """Take out the next message; returns its sender and its elements, of which there may be none.

        Raises:
            StreamEmpty: nothing is here now.
            StreamClosed: nothing is here and nothing more will come.
            NotThisQueueType: the unit of this queue is the element.
        """
        if self._unit != "message":
            self._refuse("read")
        if not self._blocks:
            raise self._nothing("read")
        sender, elements = self._blocks[0]
        self._block_end = True
        self._use_up()
        return sender, elements

    def close(self) -> None:
        """The streams have ended: what is here can still be taken out, and then `StreamClosed` is raised."""
        self._closed = True

    def _pass_blocks_without_elements(self) -> None:
        while self._blocks and not self._blocks[0][1]:
            self._use_up()

    def _use_up(self) -> None:
        sender, _ = self._blocks.popleft()
        self._index = 0
        if self._held[sender] == 1:
            del self._held[sender]
        else:
            self._held[sender] -= 1
        self._return_credit(sender, 1)
