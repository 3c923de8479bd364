"""Named queues: how an actor handles a stream element by element, though it travels in blocks.

A stream carries data messages.  Its users mostly think in elements: a page, a triple.  A named queue stands between the
two at either end of a stream, and is plain code: an actor feeds it what arrives, and it sends by calling functions that
it was given.  It has one of three types, and keeps it:

* An **output** queue gathers what is put into blocks of exactly `block_size` elements and sends each as one data
  message.
* An **input** queue takes data messages and unpacks them; each element comes with its sender, as messages of several
  senders may arrive in one queue.
* A **plain** queue is first in, first out, inside one actor: no blocks, no credits, and as long as its user makes it.

The unit, element or message, is also set when the queue is made.  A user of elements calls `put` and `get`; a user of
whole messages calls `write` and `read`.  (A stream always feeds an input queue by `write`: a message is what arrives.)

**Credits.**  Picture a circular train with a fixed number of wagons between a mill and a shop.  The mill fills an
empty wagon and sends it off; the shop unloads it and sends it back empty.  When all wagons are on the way or waiting at
the shop, the mill stops: nothing piles up at the shop, however slow it is.  A wagon is a credit, the right to send one
data message.  An output queue starts with all `credits`, uses one for each block, and gets one back by `credit(n)`.
An input queue calls `return_credit(sender, 1)` when a block is used up.

**Three stages.**  A producer of numbers, a stage that squares them, and a consumer.  Lists stand for the two
streams; each has two wagons, of four elements on the first and of three on the second.

>>> first, second = [], []
>>> numbers = OutputQueue("numbers", first.append, block_size=4, credits=2)
>>> to_square = InputQueue("to square", lambda sender, n: numbers.credit(n), block_size=4, credits=2)
>>> squares = OutputQueue("squares", second.append, block_size=3, credits=2)
>>> results = InputQueue("results", lambda sender, n: squares.credit(n), block_size=3, credits=2)

The producer puts numbers.  Two blocks leave; the third is complete but finds no wagon, so it waits in the queue.  It
is `prepared`: the producer should now do something else until credit is back.  If it puts all the same, the queue
refuses, and the element stays with the producer:

>>> for number in range(12):
...     numbers.put(number)
>>> first
[(0, 1, 2, 3), (4, 5, 6, 7)]
>>> numbers.prepared
True
>>> numbers.put(12)
Traceback (most recent call last):
pfs.errors.Busy: queue 'numbers' holds a block of 4 and has no credit: put again when credit is back

The second stage takes one message from the first stream and works until its input is empty.  With the last element
of the block its credit goes back, and the block that waited at the producer leaves:

>>> to_square.write("numbers", first.pop(0))
>>> while not to_square.empty:
...     sender, number = to_square.get()
...     squares.put(number * number)
>>> (sender, to_square.block_end)
('numbers', True)
>>> first
[(4, 5, 6, 7), (8, 9, 10, 11)]
>>> numbers.prepared
False

Three of the four squares left; one is in a half-full block, which is neither `empty` nor `prepared`.  At the end of its
input a stage closes its output: the rest leaves as a shorter block (as it does by `flush`), and then the end:

>>> second, squares.empty, squares.prepared
([(0, 1, 4)], False, False)
>>> squares.close()
>>> second
[(0, 1, 4), (9,)]

The consumer reads until the stream has ended.  An empty queue and an ended one are told apart:

>>> for message in second:
...     results.write("squares", message)
>>> [results.get()[1] for _ in range(4)]
[0, 1, 4, 9]
>>> results.get()
Traceback (most recent call last):
pfs.errors.StreamEmpty: queue 'results' is empty: get again when a message has arrived
>>> results.close()
>>> results.get()
Traceback (most recent call last):
pfs.errors.StreamClosed: queue 'results' has ended

**Failure.**  A queue knows no actors: when the other end of its stream dies, its user lets go of the queue.  A
peer that breaks the rules is a `ProtocolError` and changes nothing: a message beyond the credits or larger than a
block, or more credits back than were used.  The functions given must not raise; sending to an actor that is gone is
for them to deal with.

Invariants: blocks leave in the order in which they were put; credits held and messages not yet paid back add up to
`credits`; an output queue holds at most one block, complete or not; an input queue holds at most `credits` blocks of
each sender.

Source: data streams and named queues in the PFS architecture notes; the circular trains of big3store's query nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal, TypeVar, overload

from pfs.errors import InvalidRequest
from pfs.streams.input_queue import InputQueue
from pfs.streams.output_queue import OutputQueue
from pfs.streams.plain_queue import PlainQueue
from pfs.streams.queue_base import DEFAULT_BLOCK_SIZE, DEFAULT_CREDITS, QueueType, Unit

__all__ = [
    "DEFAULT_BLOCK_SIZE",
    "DEFAULT_CREDITS",
    "InputQueue",
    "OutputQueue",
    "PlainQueue",
    "QueueType",
    "Unit",
    "named_queue",
]

Element = TypeVar("Element")
Sender = TypeVar("Sender", bound=Hashable)


@overload
def named_queue(
    name: str,
    type: Literal["input"],
    *,
    return_credit: Callable[[Sender, int], None],
    unit: Unit = "element",
    block_size: int = DEFAULT_BLOCK_SIZE,
    credits: int = DEFAULT_CREDITS,
) -> InputQueue[Sender, Element]: ...


@overload
def named_queue(
    name: str,
    type: Literal["output"],
    *,
    send: Callable[[tuple[Element, ...]], None],
    unit: Unit = "element",
    block_size: int = DEFAULT_BLOCK_SIZE,
    credits: int = DEFAULT_CREDITS,
    send_end: Callable[[int], None] | None = None,
) -> OutputQueue[Element]: ...


@overload
def named_queue(name: str, type: Literal["plain"], *, unit: Unit = "element") -> PlainQueue[Element]: ...


def named_queue(name: str, type: QueueType, **options: object) -> object:  # noqa: A002
    """Make a queue of the type named; the options are those of `InputQueue`, `OutputQueue` or `PlainQueue`.

    Raises:
        InvalidRequest: there is no such type, or an option has a value that cannot be.
        TypeError: an option is missing, or is not one of this type.
    """
    queue_classes: dict[str, Callable[..., object]] = {"input": InputQueue, "output": OutputQueue, "plain": PlainQueue}
    if type not in queue_classes:
        raise InvalidRequest(f"queue {name!r} has type {type!r}: give one of {', '.join(queue_classes)}")
    return queue_classes[type](name, **options)
