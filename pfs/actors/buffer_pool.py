"""`BufferPool`: the actor that fills the page table from disk.

The page table itself (`pfs.cache.PageTable`) is shared, as an ETS table is in Erlang: the pool's and the page file
servers' handlers all run under one scheduler's drive lock, one at a time, so a server looks pages up in it directly,
and a hit costs no message.  What is missing a server registers there (`begin_fetch`) in the same step in which it
looked, and then tells the pool to `LoadRuns`.  The pool reads what the kernel has in its page cache at once, without
waiting; for the rest it asks a worker.  Every waiter is told `PagesLoaded`.  If the pool itself fails, so does the
system.

A page that is damaged on disk is looked for in the log.  If that still has it, the waiters get it from there, and it
becomes a dirty page, which is written back like any other; else they get `PageCorrupt`.  Where the log has no room for
the slot of one more dirty page (`pfs.wal.checkpoint_room`), the waiters get it, and that is all: the next reader finds
it damaged again, when there may be room.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from types import TracebackType
from typing import Any

import msgspec
import pykka

from pfs.actors import Actor, Address
from pfs.actors.file_worker import BlocksRead, Carried, Carry, ReadBlocks
from pfs.actors.monitors import tell_if_alive
from pfs.cache.dirty_pages import DirtyPages
from pfs.cache.page_table import Fetch, Outcome, PageTable
from pfs.errors import FatalError, PageCorrupt, PfsError
from pfs.files.block_file import BlockFile
from pfs.wal.heal import FoundPage
from pfs.wal.shared_log import SharedLog

logger = logging.getLogger("pfs")

INLINE_PAGES = 64
"""The most pages that are copied from the kernel's page cache for one message; more go to a worker."""


class Waiting(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Who waits for pages: the waiter in the page table."""

    server: Address
    token: Any


class LoadRuns(msgspec.Struct, frozen=True, gc=False):
    """Read these runs of a file, which `begin_fetch` returned."""

    file: BlockFile
    fetches: tuple[Fetch, ...]


class PagesLoaded(msgspec.Struct, frozen=True, gc=False):
    """The pool tells a waiter its pages, all of them, or why they could not be read."""

    token: Any
    pages: list[bytes]
    error: PfsError | None


class _Read(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: pages of a fetch are read by a worker."""

    file: BlockFile
    fetch: Fetch


class _Healing(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: pages of a fetch, which has these results, are looked for in the log."""

    file: BlockFile
    fetch: Fetch
    results: list[bytes | PfsError]
    damaged: tuple[int, ...]


def tell_outcomes(outcomes: Sequence[Outcome[Waiting]]) -> None:
    """Tell the waiters what became of their waits."""
    for outcome in outcomes:
        tell_if_alive(outcome.waiter.server, PagesLoaded(outcome.waiter.token, outcome.pages, outcome.error))


class BufferPool(Actor):
    """Loads pages (see the module).

    `heal` finds a damaged page in the log (it may block); `dirtied` is called when a page was found and is dirty, or
    should be; `log` says whether there is room for it.  Without them damaged pages stay damaged.
    """

    inline = True

    def __init__(
        self,
        table: PageTable[Waiting],
        workers: Sequence[Address],
        panic: Callable[[BaseException], None] | None = None,
        dirty: DirtyPages | None = None,
        heal: Callable[[int, int], FoundPage | None] | None = None,
        dirtied: Callable[[], None] | None = None,
        log: SharedLog | None = None,
    ) -> None:
        super().__init__()
        self._panic = panic
        self._table = table
        self._workers = cycle(workers)
        self._dirty = dirty
        self._heal = heal
        self._dirtied = dirtied
        self._log = log
        self.inline_reads = 0
        self.disk_reads = 0
        self.damaged = 0
        """Pages that did not match their checksums."""
        self.healed = 0
        """Those of them that the log had."""

    def on_receive(self, message: Any) -> None:
        match message:
            case LoadRuns(file, fetches):
                for fetch in fetches:
                    self._load(file, fetch)
            case BlocksRead(_Read(file, fetch), results):
                self._read(file, fetch, results)
            case Carried(_Healing() as token, found, error):
                self._searched(token, found, error)

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nobody may be left waiting for pages that will not come."""
        if self._panic is not None and exception_value is not None:
            self._panic(exception_value)

    def _load(self, file: BlockFile, fetch: Fetch) -> None:
        pages: list[bytes] | None = None
        if fetch.n <= INLINE_PAGES:
            try:
                pages = file.try_read(fetch.pgid, fetch.n)
            except Exception:
                pages = None  # a worker meets the error again, and tells the pages apart
        if pages is not None:
            self.inline_reads += 1
            tell_outcomes(self._table.complete(fetch, pages))
        else:
            self.disk_reads += 1
            self._ask_worker(fetch, file, ReadBlocks(file, fetch.pgid, fetch.n, self._actor_ref, _Read(file, fetch)))

    def _ask_worker(self, fetch: Fetch, file: BlockFile, message: ReadBlocks | Carry) -> None:
        try:
            next(self._workers).tell(message)
        except pykka.ActorDeadError as error:
            failure = FatalError(f"nobody is there to read pages of {file.name}: {error}")
            tell_outcomes(self._table.fail(fetch, failure))

    # -- damaged pages

    def _read(self, file: BlockFile, fetch: Fetch, results: list[bytes | PfsError]) -> None:
        damaged = tuple(
            pgid
            for pgid, result in enumerate(results, fetch.pgid)
            if isinstance(result, PageCorrupt) and self._table.awaits(fetch, pgid)
        )
        self.damaged += len(damaged)
        if damaged and self._heal is not None:
            call = partial(_search, self._heal, fetch.file_id, damaged)
            self._ask_worker(fetch, file, Carry(call, self._actor_ref, _Healing(file, fetch, results, damaged)))
        else:
            tell_outcomes(self._table.complete(fetch, results))

    def _searched(self, token: _Healing, found: list[FoundPage | None], error: PfsError | None) -> None:
        fetch, results = token.fetch, token.results
        not_kept: list[int] = []
        if error is None:
            assert self._dirty is not None
            assert self._dirtied is not None
            assert self._log is not None
            for pgid, image in zip(token.damaged, found, strict=True):
                if image is None:
                    logger.error("%s", results[pgid - fetch.pgid])
                elif self._table.awaits(fetch, pgid):
                    self.healed += 1
                    results[pgid - fetch.pgid] = image.page
                    if self._log.has_room_to_heal:
                        logger.warning("page %d of %s was damaged, and is healed from the log", pgid, token.file.name)
                        self._dirty.put(fetch.file_id, pgid, image.page, image.lsn, image.first_lsn)
                    else:
                        logger.warning(
                            "page %d of %s is damaged; the log has it, but no room for it to be written back yet",
                            pgid,
                            token.file.name,
                        )
                        not_kept.append(pgid)
                    self._dirtied()
        outcomes = self._table.complete(fetch, results)
        for pgid in not_kept:
            self._table.forget(fetch.file_id, pgid)
        tell_outcomes(outcomes)


def _search(heal: Callable[[int, int], FoundPage | None], file_id: int, pgids: Sequence[int]) -> list[FoundPage | None]:
    return [heal(file_id, pgid) for pgid in pgids]
