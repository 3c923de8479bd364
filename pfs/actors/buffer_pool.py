"""`BufferPool`: the actor that fills the page table from disk.

The page table itself (`pfs.cache.PageTable`) is shared, as an ETS table is in Erlang: the pool's and the page file
servers' handlers all run under one scheduler's drive lock, one at a time, so a server looks pages up in it directly,
and a hit costs no message.  What is missing a server registers there (`begin_fetch`) in the same step in which it
looked, and then tells the pool to `LoadRuns`.  The pool reads what the kernel has in its page cache at once, without
waiting; for the rest it asks a worker.  Every waiter is told `PagesLoaded`.  If the pool itself fails, so does the
system.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from types import TracebackType
from typing import Any

import msgspec
import pykka

from pfs.actors import Actor, Address
from pfs.actors.file_worker import BlocksRead, ReadBlocks
from pfs.actors.monitors import tell_if_alive
from pfs.cache.page_table import Fetch, Outcome, PageTable
from pfs.errors import FatalError, PfsError
from pfs.files.block_file import BlockFile

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


def tell_outcomes(outcomes: Sequence[Outcome[Waiting]]) -> None:
    """Tell the waiters what became of their waits."""
    for outcome in outcomes:
        tell_if_alive(outcome.waiter.server, PagesLoaded(outcome.waiter.token, outcome.pages, outcome.error))


class BufferPool(Actor):
    """Loads pages (see the module)."""

    inline = True

    def __init__(
        self,
        table: PageTable[Waiting],
        workers: Sequence[Address],
        panic: Callable[[BaseException], None] | None = None,
    ) -> None:
        super().__init__()
        self._panic = panic
        self._table = table
        self._workers = cycle(workers)
        self.inline_reads = 0
        self.disk_reads = 0

    def on_receive(self, message: Any) -> None:
        match message:
            case LoadRuns(file, fetches):
                for fetch in fetches:
                    self._load(file, fetch)
            case BlocksRead(fetch, results):
                tell_outcomes(self._table.complete(fetch, results))

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
            try:
                next(self._workers).tell(ReadBlocks(file, fetch.pgid, fetch.n, self._actor_ref, fetch))
            except pykka.ActorDeadError as error:
                failure = FatalError(f"nobody is there to read pages of {file.name}: {error}")
                tell_outcomes(self._table.fail(fetch, failure))
