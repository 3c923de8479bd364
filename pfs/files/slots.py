"""The slot table: which file has which descriptor, and which one goes next.  Plain code, no I/O, no locks.

A slot holds at most one descriptor.  A file remembers where its descriptor is as a handle: the slot and the tag that the
slot had then.  Every filling of a slot gives it a tag that was never used before, so a stale handle never matches.

A slot is used without a lock, by this rule:

* A user first pins the slot (appends to `pins`), then compares the tag.  If it differs the pin is taken back.
* An evictor first clears the tag, then looks at the pins.  If there are any, it puts the tag back, looks elsewhere.

Both steps are in order for everyone under the interpreter's lock, so of the two at least one sees the other: a
descriptor is never closed under a user whose tag matched.  (The user who lost goes the slow way and finds the tag back.)
All other methods are called by one thread at a time (under the mutex of `pfs.files.descriptors`).
"""

from __future__ import annotations

from itertools import count
from typing import Generic, Protocol, TypeVar

from pfs.files.replacement import Replacement

NO_TAG = 0
"""The tag of a slot that nobody may use now."""


class SlotOwner(Protocol):
    """What the table wants to know of a file."""

    changing: bool
    """True while someone opens, closes or renames the file: then its descriptor is his alone to close."""


Owner = TypeVar("Owner", bound=SlotOwner)


class Slot(Generic[Owner]):
    """A place for one descriptor.

    index: its number.  tag: that of the present filling, or `NO_TAG`.  descriptor and owner: what it holds, or -1
    and None.  pins: one entry for each operation in flight.  drained: the tag to put back, while the slot takes no new
    users because somebody waits for a slot and this one is never free; else `NO_TAG`.
    """

    __slots__ = ("descriptor", "drained", "index", "owner", "pins", "tag")

    def __init__(self, index: int) -> None:
        self.index = index
        self.tag = NO_TAG
        self.descriptor = -1
        self.owner: Owner | None = None
        self.pins: list[None] = []
        self.drained = NO_TAG


class SlotTable(Generic[Owner]):
    """At most `limit` slots, replaced as `policy` says.

    A slot is free, occupied, or taken by whoever is about to fill, empty or reserve it.  It is occupied exactly while
    it has an owner who is not changing, or drains; so who makes an owner change takes the slot.
    """

    def __init__(self, limit: int, policy: Replacement) -> None:
        self.limit = limit
        self._policy = policy
        self._filled = policy.filled
        self._slots: list[Slot[Owner]] = []
        self._free: list[Slot[Owner]] = []
        self._tags = count(NO_TAG + 1)

    def take(self) -> Slot[Owner] | None:
        """A slot to fill: a free one if there is, else one that the policy gives up, whose `owner` is still set.

        None if every slot is pinned or taken.
        """
        if self._free:
            return self._free.pop()
        if len(self._slots) < self.limit:
            slot: Slot[Owner] = Slot(len(self._slots))
            self._slots.append(slot)
            self._policy.add()
            return slot
        index = self._policy.victim(self._claim)
        return None if index is None else self._slots[index]

    def take_occupied(self) -> Slot[Owner] | None:
        """A slot with a descriptor to close, its owner changing from now on; None if there is none without users."""
        index = self._policy.victim(self._claim)
        return None if index is None else self._slots[index]

    def fill(self, slot: Slot[Owner], owner: Owner, descriptor: int) -> tuple[Slot[Owner], int]:
        """Put a descriptor into a taken slot; returns the handle by which its owner finds it.

        The owner is changing, so that nobody claims the slot before the handle is in place; this needs no mutex.
        """
        slot.descriptor = descriptor
        slot.owner = owner
        slot.tag = tag = next(self._tags)
        self._filled(slot.index)
        return slot, tag

    def put_back(self, slot: Slot[Owner]) -> None:
        """A taken slot, empty, is free."""
        self._free.append(slot)

    def _claim(self, index: int) -> bool:
        slot = self._slots[index]
        owner = slot.owner
        if owner is None or (owner.changing and not slot.drained):
            return False
        tag = slot.tag
        slot.tag = NO_TAG  # first hide it from users to come ...
        if slot.pins:  # ... then look for those that are there
            slot.tag = tag
            return False
        owner.changing = True
        return True
