"""The buffer pool's page table: which pages are in memory, which are on their way, and who waits for them.

Plain code, without actors, threads or I/O: it says what must be read, is told what was read, and says who is served.
The buffer pool's actor turns messages into calls of it.  A reader's chunk goes through it like this:

1. `lookup` splits a run of pages into hits and holes.  Without holes the chunk is served, and nothing else happens.
2. `begin_fetch` makes the reader wait for the holes.  It returns as `Fetch`es the contiguous runs that must really
   be read; a page that is on its way already is joined instead, so that a miss by two readers is one disk read.
3. `complete` takes what was read, page by page a `bytes` or an error, and returns an `Outcome` for each reader that
   is now served or has failed.

A write that goes to the disk first goes `begin_write`, then the disk, then `publish` (or `abandon_write`).  From
`begin_write` on, nothing trusts bytes read from that part of the disk, as a read beside a write may return half of
each.  Hits still get the old page; misses wait for the write, and `publish` serves them.

pfs itself writes to the log first: it only publishes, and the disk is written later, while the page is dirty
(`pfs.cache.dirty_pages`) and so is not read from there.

Invariants:

* A page in the table is the one that was published last, or was read from disk when no later publication or write
  had begun.  This is by construction: a page on its way has one owner, a fetch or a write.  A write, a publication
  and `discard` take ownership away, and `complete` installs only what its fetch still owns (the fetch is the
  version of its misses).
* A page is read from disk at most once at a time, unless a write, publication or `discard` made the first read void.
* A waiter gets all its pages, though they may be evicted at once or never fit: it holds them itself.
* Every waiter gets exactly one outcome, as long as every fetch is completed or failed and every write ends.
* What is published is on disk already, or held elsewhere until it is: an evicted page is read from disk again.
* A page is a `bytes` object of its own.  A slice of a larger buffer would keep all of that alive: a `memoryview` is
  refused.  So a page's charge is what it keeps alive: its bytes, its object, and its entry here.

Each page that a waiter gets was current at some moment between its lookup and its outcome.  A run of them is not
one cut of the file: cuts, page counts and the version counter under which plain threads read without messages
belong to the page file server, which keeps old versions for the reads that need them.

Threads: `hit` may be called from any thread (see `pfs.cache.lru`); all else belongs to one actor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from pfs.cache.lru import LruCache
from pfs.errors import InvalidRequest, PfsError, ProtocolError, WrongPageLength

Waiter = TypeVar("Waiter")

MAX_PAGES: Final = 1 << 48
"""A page number is below this, so that file and page make one int, the cheapest key there is."""

PAGE_OVERHEAD: Final = 200
"""Bytes charged for a page besides its own: the `bytes` object's header (33), its key and its entry in the table
(140 to 160, measured by `tracemalloc`)."""

COUNTERS: Final = {
    "hits": "pages found in the table",
    "misses": "pages looked up and not found, joins included",
    "joins": "misses that waited for a read or write already under way instead of reading",
    "fetched": "pages read from disk and installed",
    "published": "pages put in by writes",
    "stale": "pages read from disk and thrown away, as a write or truncation came between",
    "failed": "pages whose read failed",
    "evictions": "pages that went for want of room",
    "pages": "pages in the table now",
    "bytes": "bytes of memory that the pages in the table are charged now",
    "capacity": "the most bytes that they may be charged",
    "in_flight": "pages being read or written now",
}
"""The names that `PageTable.stats` gives, with their help texts."""


class Fetch:
    """A contiguous run of pages that must be read from disk; compared by identity, as it is its misses' version."""

    __slots__ = ("file_id", "n", "pgid")

    def __init__(self, file_id: int, pgid: int, n: int) -> None:
        self.file_id = file_id
        self.pgid = pgid
        self.n = n

    def __repr__(self) -> str:
        return f"Fetch(file_id={self.file_id}, pgid={self.pgid}, n={self.n})"


class Outcome(NamedTuple, Generic[Waiter]):
    """The end of one wait: all pages of its run in order, or (with no pages) why it failed."""

    waiter: Waiter
    pages: list[bytes]
    error: PfsError | None


class _Wait(Generic[Waiter]):
    """One reader's run: `pages` is filled in until `missing` is 0; `failed` once an error was its outcome."""

    __slots__ = ("failed", "missing", "pages", "pgid", "waiter")

    def __init__(self, waiter: Waiter, pgid: int, pages: list[bytes | None], missing: int) -> None:
        self.waiter = waiter
        self.pgid = pgid
        self.pages = pages
        self.missing = missing
        self.failed = False


class _Flight(Generic[Waiter]):
    """One page on its way: whose answer counts (`None` is the write under way), and the waits that need it."""

    __slots__ = ("owner", "waits")

    def __init__(self, owner: Fetch | None) -> None:
        self.owner = owner
        self.waits: list[_Wait[Waiter]] = []


def page_charge(page: bytes) -> int:
    """The bytes of memory that a page in the table keeps alive."""
    return len(page) + PAGE_OVERHEAD


class PageTable(Generic[Waiter]):
    """The pages of all page files of a system, in memory and on their way.

    A waiter is whatever the caller wants back in the `Outcome`; one waiter may wait for several runs.

    Args:
        capacity: the most bytes of memory that the pages may be charged (see `page_charge`).

    Raises:
        InvalidRequest: the capacity is not an int of 0 or more.
    """

    __slots__ = ("_cache", "_failed", "_fetched", "_get", "_in_flight", "_joins", "_published", "_stale")

    def __init__(self, capacity: int) -> None:
        self._cache: LruCache[int, bytes] = LruCache(capacity, page_charge)
        self._get: Callable[[int], bytes | None] = self._cache.get
        self._in_flight: dict[int, _Flight[Waiter]] = {}
        self._joins = 0
        self._fetched = 0
        self._published = 0
        self._stale = 0
        self._failed = 0

    # ------------------------------------------------------------------------------------------ reading

    def hit(self, file_id: int, pgid: int) -> bytes | None:
        """One page if it is in the table, else `None`.  From any thread; the arguments are not checked."""
        return self._get(file_id << 48 | pgid)

    def lookup(self, file_id: int, pgid: int, n: int) -> list[bytes | None]:
        """The pages of a run in order, `None` where one is not in the table.  The arguments are not checked."""
        get = self._get
        first = file_id << 48 | pgid
        return [get(key) for key in range(first, first + n)]

    def begin_fetch(self, waiter: Waiter, file_id: int, pgid: int, pages: list[bytes | None]) -> list[Fetch]:
        """Let a waiter wait for the holes in its run.

        Args:
            waiter: comes back in the run's `Outcome`.
            file_id: the file.
            pgid: the number of the run's first page.
            pages: what `lookup` returned for the run; the table fills it in and hands it back in the outcome.

        Returns:
            the runs to read from disk, none if all holes are on their way already.  For each, `complete` or
            `fail` must be called, or its waiters wait for ever.

        Raises:
            InvalidRequest: the run has no holes, or is not within the page numbers that there can be.
        """
        first = _first_key(file_id, pgid, len(pages))
        missing = pages.count(None)
        if not missing:
            raise InvalidRequest(
                f"pages {pgid} to {pgid + len(pages) - 1} of file {file_id} are all there: nobody would end the wait"
            )
        wait = _Wait(waiter, pgid, pages, missing)
        in_flight = self._in_flight
        fetches: list[Fetch] = []
        fetch: Fetch | None = None
        for number, page in enumerate(pages):
            if page is not None:
                fetch = None
                continue
            flight = in_flight.get(first + number)
            if flight is not None:
                self._joins += 1
                fetch = None
            else:
                if fetch is None:
                    fetch = Fetch(file_id, pgid + number, 0)
                    fetches.append(fetch)
                fetch.n += 1
                flight = in_flight[first + number] = _Flight(fetch)
            flight.waits.append(wait)
        return fetches

    def awaits(self, fetch: Fetch, pgid: int) -> bool:
        """Whether what a fetch reads of a page still counts: no write or truncation came between."""
        flight = self._in_flight.get(fetch.file_id << 48 | pgid)
        return flight is not None and flight.owner is fetch

    def complete(self, fetch: Fetch, results: Sequence[bytes | PfsError]) -> list[Outcome[Waiter]]:
        """Take what was read for a fetch: for each of its pages in order a page, or the error that it met.

        An error concerns the waiters that need that page, and no others.  Pages that the fetch no longer owns are
        thrown away.

        Returns:
            the waits that have ended by this.

        Raises:
            InvalidRequest: there are more or fewer results than pages, or one is neither an error nor a `bytes`.
        """
        if len(results) != fetch.n:
            raise InvalidRequest(f"{len(results)} results for {fetch!r}: give one for each of its {fetch.n} pages")
        for result in results:
            if not isinstance(result, PfsError):
                _check_page(result)
        outcomes: list[Outcome[Waiter]] = []
        key = fetch.file_id << 48 | fetch.pgid
        for pgid, result in enumerate(results, fetch.pgid):
            flight = self._in_flight.get(key)
            if flight is None or flight.owner is not fetch:
                self._stale += 1
            else:
                del self._in_flight[key]
                if isinstance(result, PfsError):
                    self._failed += 1
                    _fail(flight, result, outcomes)
                else:
                    self._fetched += 1
                    self._cache.insert(key, result)
                    _serve(flight, pgid, result, outcomes)
            key += 1
        return outcomes

    def fail(self, fetch: Fetch, error: PfsError) -> list[Outcome[Waiter]]:
        """A fetch failed as a whole; returns the waits that have failed by this."""
        return self.complete(fetch, [error] * fetch.n)

    def forget(self, file_id: int, pgid: int) -> None:
        """Let a page go, if it is in the table: the next reader has it read from disk."""
        self._cache.remove(file_id << 48 | pgid)

    # ------------------------------------------------------------------------------------------ writing

    def begin_write(self, file_id: int, pgid: int, n: int) -> None:
        """The pages of this run are about to be overwritten on disk.

        Reads of them under way are void from now on; their waiters, and later misses, wait for the write to end.
        End it with `publish`, or with `abandon_write`, for the same run or piece by piece.

        Raises:
            InvalidRequest: the run is not within the page numbers that there can be.
            ProtocolError: a page of the run is being written already; nothing has changed.
        """
        first = _first_key(file_id, pgid, n)
        in_flight = self._in_flight
        for number, key in enumerate(range(first, first + n), pgid):
            flight = in_flight.get(key)
            if flight is not None and flight.owner is None:
                raise ProtocolError(f"page {number} of file {file_id} is being written already: order the writes")
        for key in range(first, first + n):
            flight = in_flight.get(key)
            if flight is None:
                in_flight[key] = _Flight(None)
            else:
                flight.owner = None

    def publish(self, file_id: int, pgid: int, pages: Sequence[bytes]) -> list[Outcome[Waiter]]:
        """Put new pages in place of the old ones; reads of them under way are void.

        Returns:
            the waits that have ended by this: whoever waited for these pages has them.

        Raises:
            InvalidRequest: a page is not a `bytes`, or the run is not within the page numbers that there can be.
            WrongPageLength: the pages are not all of one length.
        """
        first = _first_key(file_id, pgid, len(pages))
        for page in pages:
            _check_page(page)
            if len(page) != len(pages[0]):
                raise WrongPageLength(
                    f"pages of {len(pages[0])} and {len(page)} bytes published for file {file_id}: a file has one size"
                )
        outcomes: list[Outcome[Waiter]] = []
        for number, page in enumerate(pages):
            flight = self._in_flight.pop(first + number, None)
            self._cache.insert(first + number, page)
            if flight is not None:
                _serve(flight, pgid + number, page, outcomes)
        self._published += len(pages)
        return outcomes

    def abandon_write(self, file_id: int, pgid: int, n: int, error: PfsError) -> list[Outcome[Waiter]]:
        """A write begun over this run will not be published.  The old pages that are in the table stay.

        Returns:
            the waits that have failed by this, as they waited for the write.

        Raises:
            InvalidRequest: the run is not within the page numbers that there can be.
        """
        first = _first_key(file_id, pgid, n)
        outcomes: list[Outcome[Waiter]] = []
        for key in range(first, first + n):
            flight = self._in_flight.get(key)
            if flight is not None and flight.owner is None:
                del self._in_flight[key]
                _fail(flight, error, outcomes)
        return outcomes

    def discard(self, file_id: int, from_pgid: int, error: PfsError) -> list[Outcome[Waiter]]:
        """Forget a file's pages from `from_pgid` on, as it is truncated (or dropped: from page 0).

        Walks over the whole table: truncation is rare, and an index by file would cost every insert.

        Returns:
            the waits for such pages, which fail with this error.

        Raises:
            InvalidRequest: the page number is not one that there can be.
        """
        first = _first_key(file_id, from_pgid, 0)
        end = (file_id + 1) << 48
        for key in [key for key in self._cache.keys_in_order() if first <= key < end]:
            self._cache.remove(key)
        outcomes: list[Outcome[Waiter]] = []
        for key in [key for key in self._in_flight if first <= key < end]:
            _fail(self._in_flight.pop(key), error, outcomes)
        return outcomes

    # ------------------------------------------------------------------------------------------ the pool as a whole

    def resize(self, capacity: int) -> None:
        """Set the most bytes that the pages may be charged; what no longer fits goes at once.

        Raises:
            InvalidRequest: the capacity is not an int of 0 or more.
        """
        self._cache.resize(capacity)

    def stats(self) -> dict[str, int]:
        """The counters, by the names in `COUNTERS`."""
        cache = self._cache
        return {
            "hits": cache.hits,
            "misses": cache.misses,
            "joins": self._joins,
            "fetched": self._fetched,
            "published": self._published,
            "stale": self._stale,
            "failed": self._failed,
            "evictions": cache.evictions,
            "pages": len(cache),
            "bytes": cache.charged,
            "capacity": cache.capacity,
            "in_flight": len(self._in_flight),
        }


def _serve(flight: _Flight[Waiter], pgid: int, page: bytes, outcomes: list[Outcome[Waiter]]) -> None:
    for wait in flight.waits:
        wait.pages[pgid - wait.pgid] = page
        wait.missing -= 1
        if not wait.missing:  # never so for a wait that has failed: the page that failed stays missing
            outcomes.append(Outcome(wait.waiter, [page for page in wait.pages if page is not None], None))


def _fail(flight: _Flight[Waiter], error: PfsError, outcomes: list[Outcome[Waiter]]) -> None:
    for wait in flight.waits:
        if not wait.failed:
            wait.failed = True
            outcomes.append(Outcome(wait.waiter, [], error))


def _first_key(file_id: int, pgid: int, n: int) -> int:
    if type(file_id) is not int or file_id < 0:
        raise InvalidRequest(f"file id {file_id!r}: give an int of 0 or more")
    if type(pgid) is not int or type(n) is not int or pgid < 0 or n < 0 or pgid + n > MAX_PAGES:
        raise InvalidRequest(
            f"{n!r} pages from page {pgid!r} of file {file_id}: pages are numbered from 0 to 2**48 - 1"
        )
    return file_id << 48 | pgid


def _check_page(page: object) -> None:
    if type(page) is not bytes:
        raise InvalidRequest(
            f"a page is a {type(page).__name__}: give a bytes object of its own, not a view of a larger buffer"
        )
