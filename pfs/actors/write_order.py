"""Which writes, truncations and bulk appends of a page file may begin.  Plain code.

Writes and appends whose pages have all come begin as they come, any number at a time: their COMMITs order them.  Two
kinds of change must know where the file ends, and so begin *alone*, when nothing else is under way:

* a truncation: while one waits or is under way nothing else begins,
* a bulk append: while one waits nothing else begins either, so that it is not starved; while it is under way
  overwrites go on, but no append, and nothing else that begins alone.

Whoever has to wait begins in the order of asking; those that begin alone go before the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

Write = TypeVar("Write", bound=Hashable)
Alone = TypeVar("Alone", bound=Hashable)


class WriteOrder(Generic[Write, Alone]):
    """What is under way, and what waits (see the module)."""

    def __init__(self) -> None:
        self._under_way: dict[Write, None] = {}
        self._waiting: dict[Write, bool] = {}
        """Writes that may not begin yet, and whether they are appends."""
        self._waiting_alone: deque[tuple[Alone, bool]] = deque()
        """What waits until nothing is under way, and whether overwrites go on beside it."""
        self._alone: Alone | None = None
        """What began alone, and is under way."""
        self._overwrites_go_on = False

    def ask(self, write: Write, append: bool) -> bool:
        """Whether a write begins now; if not, `next` names it later."""
        if self._may_begin(append):
            self._under_way[write] = None
            return True
        self._waiting[write] = append
        return False

    def ask_alone(self, each: Alone, overwrites_go_on: bool) -> None:
        """`next` names it when it begins, which may be now."""
        self._waiting_alone.append((each, overwrites_go_on))

    def next(self) -> Sequence[Write | Alone]:
        """Those that begin now, in their order; to be asked for again until there are none."""
        if self._waiting_alone and self._alone is None and not self._under_way:
            self._alone, self._overwrites_go_on = self._waiting_alone.popleft()
            return (self._alone,)
        if not self._waiting:
            return ()
        beginning = [write for write, append in self._waiting.items() if self._may_begin(append)]
        for write in beginning:
            del self._waiting[write]
            self._under_way[write] = None
        return beginning

    def ended(self, write: Write) -> None:
        """A write has ended, whether it had begun or not, or asked or not."""
        self._under_way.pop(write, None)
        self._waiting.pop(write, None)

    def ended_alone(self, each: Alone) -> None:
        """The same for what begins alone."""
        if each == self._alone:
            self._alone = None
        else:
            self._waiting_alone = deque(pair for pair in self._waiting_alone if pair[0] != each)

    def _may_begin(self, append: bool) -> bool:
        if self._alone is not None:
            return self._overwrites_go_on and not append
        return not self._waiting_alone

    @property
    def under_way(self) -> int:
        """How many writes are under way, but for what began alone."""
        return len(self._under_way)
