"""Which slot to empty: replacement policies, as plain classes without locks or I/O.

All may be called by any thread and without a lock: `touch` and `filled` are one atomic step of the interpreter each,
and `victim` only proposes, in order of merit; `claim` decides, and takes the first slot that has a descriptor and no
I/O in flight.  Two threads that look for a victim at once may offer the same slot, or miss a use; that costs a worse
choice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, Protocol

ReplacementName = Literal["clock", "lru"]


class Replacement(Protocol):
    """A replacement policy over slots, which are numbered from 0."""

    touch: Callable[[int], object]
    """The slot was used."""
    filled: Callable[[int], object]
    """The slot holds another file's descriptor now."""

    def resize(self, slots: int) -> None:
        """How many slots there are; called once, before all else."""
        ...

    def victim(self, claim: Callable[[int], bool]) -> int | None:
        """The first slot, in order of merit, that `claim` takes; None if it takes none."""
        ...


class LeastRecentlyUsed:
    """Exact recency: a use moves the slot to the end of an ordered dictionary."""

    def __init__(self) -> None:
        self._order: OrderedDict[int, None] = OrderedDict()
        self.touch: Callable[[int], object] = self._order.move_to_end
        self.filled: Callable[[int], object] = self._order.move_to_end

    def resize(self, slots: int) -> None:
        self._order.update(dict.fromkeys(range(slots)))

    def victim(self, claim: Callable[[int], bool]) -> int | None:
        # The copy is one atomic step; uses by other threads would upset a running iteration.
        for index in list(self._order):
            if claim(index):
                return index
        return None


class ClockSweep:
    """Second chance: a hand goes round and passes over slots used since it last came by.

    A slot is filled as not used, so a file that is read once leaves before one that is read twice.
    The hand stops after two rounds: by then every slot has been offered.
    """

    def __init__(self) -> None:
        self._slots = 0
        self._used: set[int] = set()
        self._hand = 0
        self.touch: Callable[[int], object] = self._used.add
        self.filled: Callable[[int], object] = self._used.discard

    def resize(self, slots: int) -> None:
        self._slots = slots

    def victim(self, claim: Callable[[int], bool]) -> int | None:
        used = self._used
        index = self._hand
        for _ in range(2 * self._slots):
            if index >= self._slots:
                index = 0
            if index in used:
                used.discard(index)
            elif claim(index):
                self._hand = index + 1
                return index
            index += 1
        return None


def make_replacement(name: ReplacementName) -> Replacement:
    """The policy of that name."""
    return ClockSweep() if name == "clock" else LeastRecentlyUsed()
