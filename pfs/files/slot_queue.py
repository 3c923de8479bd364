"""Who gets a slot, and who waits for one: first come, first served, but not at every price.

While there are free slots, or slots whose files have no I/O in flight, taking one needs no lock and no queue.  When
there is none, one queues.  Two things make the queue fair:

* **Handing over.**  When an operation ends while others queue, its slot goes to the first of them.
* **Draining.**  A slot that is never free of users, because they overlap, takes no new ones while somebody queues.

And one keeps many clients from thrashing on few slots.  Handing a slot over switches threads, which takes longer than
a cached read, and the one who gave it must queue for his next operation: if every operation handed over, every
operation would cost two thread switches (measured: 64 threads over 16 slots reached a tenth of the rate of 8).  So
there is a handing over at most every `HANDOVER_INTERVAL`; in between, those who run go on running, and overtake. That
bounds the clients at work to about the number of slots, and what a waiter waits to one interval for each who stands
before him, and the I/O in flight.

Those who run may stop without another operation, just before they would have handed over.  Therefore who waits also
looks for free slots himself from time to time (`LOOK_INTERVAL`), the first in the queue most often.

No wake-up is lost: a waiter stands in the queue before he looks a last time, and who frees a slot looks at the queue
afterwards; one of them sees the other.  The mutex guards the queue, and is never held across a wait or a file call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pfs.files.filesystem import FileSystem
from pfs.files.metrics import Metrics
from pfs.files.open_file import OpenFile, Waiter
from pfs.files.slots import NO_TAG, Slot, SlotTable, show

HANDOVER_INTERVAL = 0.0005
"""Seconds between two handings over: many times what switching threads costs, a tenth of the interpreter's interval."""
LOOK_INTERVAL = 0.001
"""Seconds after which the first who waits looks for a slot himself; the n-th looks after n times that."""


class SlotQueue:
    """The slots of a pool and those who wait for them."""

    def __init__(
        self,
        fs: FileSystem,
        table: SlotTable[OpenFile],
        clock: Callable[[], float],
        metrics: Metrics,
        handover_interval: float = HANDOVER_INTERVAL,
    ) -> None:
        self.waiting: deque[Waiter] = deque()
        """Those who wait for any slot, in order."""
        self.closing: list[Waiter] = []
        """Those who wait for a certain slot to have no users."""
        self._fs = fs
        self._table = table
        self._clock = clock
        self._metrics = metrics
        self._handover_interval = handover_interval
        self._next_handover = clock()
        self._mutex = fs.mutex()
        self._draining: list[tuple[Slot[OpenFile], int]] = []

    def take(self) -> Slot[OpenFile]:
        """A slot, sooner or later.  If it has an owner, his turn is ours, and his descriptor is ours to close."""
        if not self.waiting or self._clock() < self._next_handover:
            slot = self._table.take()
            if slot is not None:
                return slot
        waiter = Waiter(self._fs.condition())
        self._metrics.slot_waits += 1
        with self._mutex:
            self.waiting.append(waiter)
            self._serve()
        try:
            while not waiter.wait(LOOK_INTERVAL * (len(self.waiting) + 1)):
                with self._mutex:
                    self._serve()
        except BaseException:
            with self._mutex:
                if waiter.slot is None:
                    self.waiting.remove(waiter)
                else:  # served at the last moment
                    self._refuse(waiter.slot)
                self._serve()
            raise
        assert waiter.slot is not None
        return waiter.slot

    def take_occupied(self) -> Slot[OpenFile] | None:
        """A slot with a descriptor that can be closed now, or None.  His owner's turn is ours."""
        return self._table.take_occupied()

    def put_back(self, slot: Slot[OpenFile]) -> None:
        """A slot that was taken is empty, and free."""
        self._table.put_back(slot)
        if self.waiting:
            with self._mutex:
                self._serve()

    def unpin(self, slot: Slot[OpenFile]) -> None:
        """An operation is over."""
        slot.pins.pop()
        if self.waiting or self.closing:
            self.offer(slot)

    def offer(self, slot: Slot[OpenFile]) -> None:
        """A pin of this slot is gone and somebody waits: serve them if it is time, or see to it that it comes free."""
        if not self.closing and self._clock() < self._next_handover:
            return
        with self._mutex:
            self._serve()
            if self.waiting and slot.pins:
                self._drain(slot)

    def wait_for_users(self, slot: Slot[OpenFile]) -> None:
        """Keep new users from a slot whose owner's turn is ours, and wait for the last to leave."""
        slot.tag = NO_TAG
        if slot.pins:
            waiter = Waiter(self._fs.condition(), slot)
            with self._mutex:
                self.closing.append(waiter)
                self._serve()
            waiter.wait_for_ever()

    def _serve(self) -> None:
        """Under the mutex: give slots to those who wait, as far as they go."""
        for waiter in self.closing[:]:
            if waiter.slot is not None and not waiter.slot.pins:
                self.closing.remove(waiter)
                waiter.wake()
        while self.waiting:
            slot = self._take_drained() or self._table.take()
            if slot is None:
                return
            waiter = self.waiting.popleft()
            waiter.slot = slot
            waiter.wake()
            self._next_handover = self._clock() + self._handover_interval
        for slot, tag in self._draining:  # nobody waits any more
            self._undrain(slot, tag)
        self._draining.clear()

    def _drain(self, slot: Slot[OpenFile]) -> None:
        """Under the mutex: no new users for this slot.  It has its owner's turn until somebody takes it."""
        owner = slot.owner
        if owner is None:
            return
        try:
            owner.turn.pop()
        except IndexError:  # it is being changed already
            return
        if slot.owner is owner:
            self._draining.append((slot, slot.tag))
            slot.tag = NO_TAG
        else:
            owner.end_turn()

    def _take_drained(self) -> Slot[OpenFile] | None:
        for place, (slot, _) in enumerate(self._draining):
            if not slot.pins:
                del self._draining[place]
                return slot
        return None

    def _refuse(self, slot: Slot[OpenFile]) -> None:
        """Under the mutex: a slot was given to somebody who does not want it any more."""
        if slot.owner is None:
            self._table.put_back(slot)
        else:
            self._draining.append((slot, slot.owner.handle[1]))

    def _undrain(self, slot: Slot[OpenFile], tag: int) -> None:
        show(slot, tag)
        assert slot.owner is not None
        slot.owner.end_turn()
