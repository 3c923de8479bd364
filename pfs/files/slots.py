"""The slot table: which file has which descriptor, and which one goes next.  Plain code, no I/O, no locks, no waiting.

A slot holds at most one descriptor.  A file remembers where its descriptor is as a handle: the slot and the tag that
the slot had then.  Every filling of a slot gives it a tag that was never used before, so a stale handle never matches.

Nothing here takes a lock: every step that others may see is one atomic step of the interpreter, and these two rules
put them in an order that is right for every interleaving.

**The turn.**  A file has one turn, the single entry of a list.  Who opens, closes, evicts or renames the file has
popped it, and appends it again when done; to pop it is to be alone.  So a file never has two descriptors.

**Pin, then compare; clear, then look.**  A user first pins the slot (appends to `pins`), then compares the tag; if it
differs he takes the pin back.  Who evicts (having the turn) first clears the tag, then looks at the pins; if there
are any he puts the tag back and looks elsewhere.  Of the two at least one sees the other: a descriptor is never
closed under a user whose tag matched.  (The user who lost goes the slow way and finds the tag back.)
"""

from __future__ import annotations

from itertools import count
from typing import Generic, Protocol, TypeVar

from pfs.files.replacement import Replacement

NO_TAG = 0
"""The tag of a slot that nobody may use now."""


class SlotOwner(Protocol):
    """What the table wants to know of a file."""

    turn: list[None]
    """Empty while someone opens, closes, evicts or renames the file; else it has one entry."""

    @property
    def failure(self) -> BaseException | None:
        """Set once and for all when the file must not be used any more."""
        ...

    def end_turn(self) -> None:
        """Give the turn back, and wake those who wait for it."""
        ...


Owner = TypeVar("Owner", bound=SlotOwner)


class Slot(Generic[Owner]):
    """A place for one descriptor.

    index: its number.  tag: that of the present filling, or `NO_TAG`.  descriptor and owner: what it holds, or -1
    and None.  pins: one entry for each operation in flight.
    """

    __slots__ = ("descriptor", "index", "owner", "pins", "tag")

    def __init__(self, index: int) -> None:
        self.index = index
        self.tag = NO_TAG
        self.descriptor = -1
        self.owner: Owner | None = None
        self.pins: list[None] = []


class SlotTable(Generic[Owner]):
    """`limit` slots, replaced as `policy` says.

    A slot is free, occupied, or taken by whoever is about to fill, empty or reserve it.  Who takes an occupied slot has
    its owner's turn.
    """

    def __init__(self, limit: int, policy: Replacement) -> None:
        self.limit = limit
        self._victim = policy.victim
        self.touch = policy.touch
        """Say that a slot, pinned and with the right tag, is used."""
        self._filled = policy.filled
        self._slots: list[Slot[Owner]] = [Slot(index) for index in range(limit)]
        self._free = self._slots[::-1]
        self._tags = count(NO_TAG + 1)
        policy.resize(limit)

    def take(self) -> Slot[Owner] | None:
        """A slot to fill: a free one if there is, else one that the policy gives up, whose `owner` is still set.

        None if every slot is pinned or taken.
        """
        if self._free:
            try:
                return self._free.pop()
            except IndexError:  # another thread was faster
                pass
        index = self._victim(self._claim)
        return None if index is None else self._slots[index]

    def take_occupied(self) -> Slot[Owner] | None:
        """A slot with a descriptor to close, or None if there is none without users."""
        index = self._victim(self._claim)
        return None if index is None else self._slots[index]

    def fill(self, slot: Slot[Owner], owner: Owner, descriptor: int) -> tuple[Slot[Owner], int]:
        """Put a descriptor into a taken slot; returns the handle by which its owner, whose turn is ours, finds it."""
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
        if owner is None or slot.pins or not owner.turn:
            return False
        try:
            owner.turn.pop()
        except IndexError:  # another thread was faster
            return False
        if slot.owner is owner:
            tag = slot.tag
            slot.tag = NO_TAG  # first hide it from users to come ...
            if not slot.pins:  # ... then look for those that are there
                return True
            show(slot, tag)
        owner.end_turn()
        return False


def show(slot: Slot[Owner], tag: int) -> None:
    """Let users have a hidden slot again, unless its owner has failed meanwhile."""
    slot.tag = tag
    if slot.owner is not None and slot.owner.failure is not None:
        slot.tag = NO_TAG
