"""Which slot to empty: replacement policies, as plain classes without locks or I/O.

`touch` is called on every use of a slot, by any thread and without a lock, so it is one atomic step of the interpreter.
All else is called by one thread at a time.  `victim` offers slots in order of merit to `claim`, which takes the
first that has no I/O in flight.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, Protocol

ReplacementName = Literal["clock", "lru"]


class Replacement(Protocol):
    """A replacement policy over slot indexes."""

    touch: Callable[[int], object]

    def add(self, index: int) -> None:
        """The slot holds a descriptor now."""
        ...

    def remove(self, index: int) -> None:
        """The slot is not to be offered any more."""
        ...

    def victim(self, claim: Callable[[int], bool]) -> int | None:
        """The first slot, in order of merit, that `claim` takes; None if it takes none.  The slot stays added."""
        ...


class LeastRecentlyUsed:
    """Exact recency.  A use moves the slot to the end of an ordered dictionary."""

    def __init__(self) -> None:
        self._order: OrderedDict[int, None] = OrderedDict()
        # A slot is used only while it cannot be removed (it is pinned), so the key is there.
        self.touch: Callable[[int], object] = self._order.move_to_end

    def add(self, index: int) -> None:
        self._order[index] = None

    def remove(self, index: int) -> None:
        del self._order[index]

    def victim(self, claim: Callable[[int], bool]) -> int | None:
        # The copy is one atomic step; uses by other threads would upset a running iteration.
        for index in list(self._order):
            if claim(index):
                return index
        return None


class ClockSweep:
    """Second chance: a hand goes round and passes over slots used since it last came by.

    A slot starts as not used, so a file that is read once leaves before one that is read twice.
    The hand stops after two rounds: by then every slot has been offered.
    """

    def __init__(self) -> None:
        self._present = bytearray()
        self._used: set[int] = set()
        self._hand = 0
        self.touch: Callable[[int], object] = self._used.add

    def add(self, index: int) -> None:
        present = self._present
        if index >= len(present):
            present.extend(bytes(index + 1 - len(present)))
        present[index] = 1

    def remove(self, index: int) -> None:
        self._present[index] = 0
        self._used.discard(index)

    def victim(self, claim: Callable[[int], bool]) -> int | None:
        present, used = self._present, self._used
        size = len(present)
        index = self._hand
        for _ in range(2 * size):
            hand = index + 1 if index + 1 < size else 0
            if index in used:
                used.discard(index)
            elif present[index] and claim(index):
                self._hand = hand
                return index
            index = hand
        return None


def make_replacement(name: ReplacementName) -> Replacement:
    """The policy of that name."""
    return ClockSweep() if name == "clock" else LeastRecentlyUsed()
