"""What bounds the writes of all page files together: dirty bytes, and the log.  Plain code.

A write takes its *share* before its first page is logged, and gives it back when it is published, or has failed:

* of the dirty bytes: pages that were logged must be kept in memory until they are in the data file, so their bytes and
  the promised ones are held to a limit,
* of the log: a write that began without room for all of it would hold up the very checkpoint that makes room.

Shares are given first come, first served, so a large write is not starved by small ones.  A write that is larger than
the limit is let pass when it is alone, rather than never.  Whoever waits is named by `grant` when there is room: when
pages have been written, a checkpoint was made, or a write has ended.

Nobody waits for ever: if there are dirty pages they can be written, since the log is flushed for it on demand; if there
is too much log, and no write under way, a checkpoint can let it be forgotten, or there is room; and writes under way
need nothing of those that wait.  If the data files have no space, whoever waits is refused (`refuse`).

Before it comes to that, writers are *held back*: when the log is filled to `HOLD_BACK_AT`, no new ones are invited and
no credit is given, until a checkpoint has brought it down.  So it is the clients that wait, and not their pages in our
memory.  While the data files have no space nobody is held back, so that writers learn it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from pfs.actors import Address
from pfs.cache.dirty_pages import DirtyPages
from pfs.wal.log_buffer import COMMIT_SIZE
from pfs.wal.shared_log import SharedLog


class Share:
    """What a write may take: bytes of pages, and bytes of log that it has not inserted yet."""

    __slots__ = ("data", "granted", "image", "log")

    def __init__(self, pages: int, page_size: int, image: int) -> None:
        self.data = pages * page_size
        self.image = image
        """Bytes of log that a page takes."""
        self.log = pages * image + COMMIT_SIZE
        self.granted = False


class Waiter(NamedTuple):
    """Who waits for a share: an address, and what it wants to be reminded of."""

    address: Address
    token: Any


class WriteRoom:
    """Who may have how much (see the module).  `limit`: the most dirty bytes."""

    def __init__(self, dirty: DirtyPages, log: SharedLog, limit: int) -> None:
        self._dirty = dirty
        self._log = log
        self._limit = limit
        self._waiting: deque[tuple[Share, Waiter]] = deque()
        self._held_back: dict[Address, None] = {}
        self._under_way = 0
        self._promised_log = 0
        self.promised = 0
        """Bytes of pages of writes that have a share; some are dirty already."""
        self.no_space = False
        """Whether the data files have no space."""

    # -- shares

    def ask(self, share: Share, waiter: Waiter) -> bool:
        """Take a share; if it must wait, returns False, and `grant` or `refuse` names the waiter later."""
        if not self._waiting and self._fits(share):
            self._take(share)
            return True
        self._waiting.append((share, waiter))
        return False

    def logged(self, share: Share, pages: int) -> None:
        """So many pages of a write are in the log."""
        share.log -= pages * share.image
        self._promised_log -= pages * share.image

    def give_back(self, share: Share) -> None:
        """The write is published, or has failed; its dirty pages count by themselves."""
        if share.granted:
            share.granted = False
            self._under_way -= 1
            self.promised -= share.data
            self._promised_log -= share.log

    def grant(self) -> list[Waiter]:
        """Give shares to those for whom there is room now."""
        granted = []
        while self._waiting and self._fits(self._waiting[0][0]):
            share, waiter = self._waiting.popleft()
            self._take(share)
            granted.append(waiter)
        return granted

    def refuse(self) -> list[Waiter]:
        """Let nobody wait any more."""
        waiters = [waiter for _, waiter in self._waiting]
        self._waiting.clear()
        return waiters

    @property
    def waiting(self) -> int:
        """How many writes wait for a share."""
        return len(self._waiting)

    def _take(self, share: Share) -> None:
        share.granted = True
        self._under_way += 1
        self.promised += share.data
        self._promised_log += share.log

    def _fits(self, share: Share) -> bool:
        used = self._dirty.bytes + self.promised
        if used and used + share.data > self._limit:
            return False
        return not self._under_way or self._promised_log + share.log <= self._log.free

    # -- what is to be done for it

    @property
    def wants_clean_pages(self) -> bool:
        """Whether dirty pages should be written now, though they are few."""
        return bool(self._waiting) or self._log.is_filling or self._log.wants_clean_pages

    # -- holding back

    def holds_back(self, server: Address) -> bool:
        """Whether a server must give no credit now; if so, `let_go` names it later."""
        if self.no_space or not self._log.is_filling:
            return False
        self._held_back[server] = None
        return True

    def let_go(self) -> list[Address]:
        """The servers that may give credit again, in the order in which they were held back."""
        if not self._held_back or (self._log.is_filling and not self.no_space):
            return []
        held_back, self._held_back = list(self._held_back), {}
        return held_back
