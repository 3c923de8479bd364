"""`PageFile`: the handle of a page file for plain threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pfs.actors.requests import check_number
from pfs.calls import ReadCall, SimpleCall, StreamCall, WriteCall
from pfs.errors import InvalidRequest, ReadOnly, WrongPageLength
from pfs.protocol import (
    DataAppend,
    DataRead,
    DataWrite,
    Durability,
    Stat,
    StatReply,
    Sync,
    Truncate,
    new_ref,
)

if TYPE_CHECKING:
    from pfs.actors.page_file_server import PageFileServer
    from pfs.actors.reference import Ref
    from pfs.cache.page_file_state import PageFileState
    from pfs.system import System

Page = bytes | bytearray | memoryview
"""What may be given as a page; what comes back is always `bytes`."""


class PageFile:
    """A page file of a `System`, got by `System.open`; for any number of threads.

    Calls wait for their end, at most `timeout` seconds (None: the system's `call_timeout`), and raise the
    `RequestError` that the server answers, `pfs.Timeout`, `SystemStopped`, `SystemFailed`, or, inside an actor's
    handler, `CallInHandler`.
    """

    def __init__(
        self, system: System, server: Ref[PageFileServer], state: PageFileState, read_only: bool = False
    ) -> None:
        self._system = system
        self._server = server
        self._state = state
        self.read_only = read_only

    def __repr__(self) -> str:
        return f"<PageFile {self.name!r}: {self.page_count} pages of {self.page_size} bytes>"

    @property
    def name(self) -> str:
        return self._state.name

    @property
    def page_size(self) -> int:
        """Bytes in a page."""
        return self._state.page_size

    @property
    def page_count(self) -> int:
        """The pages that the file has now."""
        return self._state.page_count

    @property
    def server(self) -> Ref[PageFileServer]:
        """The server's ref, for actors that speak the protocol (`pfs.protocol`)."""
        return self._server

    def read(self, pgid: int, n: int = 1, *, timeout: float | None = None) -> list[bytes]:
        """Pages pgid .. pgid+n-1, one consistent cut."""
        ref = new_ref()
        call = ReadCall(ref, n)
        system = self._system
        client = system.thread_client()
        system.perform(self._server, client, call, DataRead(ref, client, pgid, n), timeout)
        return call.pages

    def stream(
        self, pgid: int = 0, n: int | None = None, *, chunk: int | None = None, timeout: float | None = None
    ) -> Iterator[bytes]:
        """The same pages one by one, in bounded memory, however many; `n=None`: to the end as of now.

        One consistent cut, as `read`.  `timeout` bounds the wait for each block of pages.
        """
        if n is None:
            check_number("pgid", pgid, 0, self.page_count)
            n = self.page_count - pgid
            if n == 0:
                return
        ref = new_ref()
        call = StreamCall(ref)
        system = self._system
        client = system.thread_client()
        with system.open_call(self._server, client, call, DataRead(ref, client, pgid, n, chunk)):
            while True:
                pages = call.take()
                if pages is not None:
                    yield from pages
                elif call.ended:
                    break
                else:
                    system.wait(call, timeout)
        if call.error is not None:
            raise call.error

    def write(
        self,
        pgid: int,
        pages: Sequence[Page] | Page,
        *,
        durability: Durability = "wal",
        timeout: float | None = None,
    ) -> None:
        """Overwrite existing pages, all or none; durable when it returns, unless durability is `"memory"`.

        `pages`: a list of bytes-like pages, or one buffer of k x page_size bytes.
        """
        data = self._pages(pages)
        ref = new_ref()
        call = WriteCall(ref, pgid, data)
        client = self._system.thread_client()
        message = DataWrite(ref, client, pgid, len(data), durability)
        self._system.perform(self._server, client, call, message, timeout)

    def append(
        self, pages: Sequence[Page] | Page, *, durability: Durability = "wal", timeout: float | None = None
    ) -> int:
        """Append pages, all or none; returns the pgid of the first."""
        data = self._pages(pages)
        ref = new_ref()
        call = WriteCall(ref, None, data)
        client = self._system.thread_client()
        message = DataAppend(ref, client, len(data), durability)
        self._system.perform(self._server, client, call, message, timeout)
        assert call.written is not None
        return call.written.pgid

    def truncate(self, n: int, *, timeout: float | None = None) -> None:
        """Cut the file to its first n pages, durably."""
        self._check_writable()
        self._simple(Truncate, timeout, n=n)

    def sync(self, *, timeout: float | None = None) -> None:
        """Make everything that was acknowledged before durable."""
        self._simple(Sync, timeout)

    def stat(self, *, timeout: float | None = None) -> StatReply:
        """Page count, state and counters of the server."""
        answer = self._simple(Stat, timeout)
        assert isinstance(answer, StatReply)
        return answer

    def _simple(self, message_class: Any, timeout: float | None, **fields: Any) -> object:
        call = SimpleCall(new_ref())
        client = self._system.thread_client()
        message = message_class(ref=call.ref, client=client, **fields)
        self._system.perform(self._server, client, call, message, timeout)
        return call.answer

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnly(f"{self.name!r} was opened with read_only=True")

    def _pages(self, pages: Sequence[Page] | Page) -> list[bytes]:
        """Copies of the pages, so that nobody changes them afterwards."""
        self._check_writable()
        size = self.page_size
        if isinstance(pages, (bytes, bytearray, memoryview)):
            buffer = pages if type(pages) is bytes else memoryview(pages).tobytes()
            if len(buffer) % size:
                raise WrongPageLength(
                    f"a buffer of {len(buffer)} bytes is not a whole number of pages of {size} bytes ({self.name!r})"
                )
            return [buffer[start : start + size] for start in range(0, len(buffer), size)]
        if not isinstance(pages, Iterable):
            raise InvalidRequest(f"pages must be a list of pages or one buffer, not {type(pages).__name__}")
        copies: list[bytes] = []
        for page in pages:
            if not isinstance(page, (bytes, bytearray, memoryview)):
                raise InvalidRequest(f"a page must be a bytes-like object, not {type(page).__name__}")
            copies.append(page if type(page) is bytes else memoryview(page).tobytes())
            if len(copies[-1]) != size:
                raise WrongPageLength(
                    f"page {len(copies) - 1} has {len(copies[-1])} bytes; the page size of {self.name!r} is {size}"
                )
        return copies
