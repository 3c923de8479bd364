"""Actor clients that keep triples in sorted page files: `Loader` appends them, `LookUps` finds them, `Scan` reads all.

A page file of triples is sorted, so that a key's triples are found by binary search over the pages: `look_up`, which
is plain code.  It says which page it wants next and is given that page; the actor around it gets the page from the
server.  That way the search knows nothing of messages, and the actor nothing of searching.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any

import pykka

import pfs
from pfs.protocol import (
    DataAppend,
    DataPages,
    DataRead,
    DataWriteEnd,
    Empty,
    RequestFailed,
    StreamEnd,
    StreamReady,
    new_ref,
)
from pfs.streams.codecs import Triple, TripleCodec

Finished = Callable[[BaseException | None], None]
"""Called when a client ends, with what went wrong, if anything did."""


class WrongAnswer(Exception):
    """The page file says something else than the triples that were put into it."""


def look_up(key: str, page_count: int, codec: TripleCodec) -> Generator[int, bytes, list[Triple]]:
    """Find all triples that begin with `key` in a page file of sorted triples.

    Yields the number of a page, is sent that page, and returns the triples.
    """
    low, high = 0, page_count  # the first page that begins with the key or behind it is one of these
    while low < high:
        middle = (low + high) // 2
        first = codec.first_triple((yield middle))
        if first is not None and first[0] < key:
            low = middle + 1
        else:
            high = middle
    found: list[Triple] = []
    for pgid in range(max(low - 1, 0), page_count):  # the key's first triples may end the page before
        triples = codec.decode((yield pgid))
        found += [triple for triple in triples if triple[0] == key]
        if triples and triples[-1][0] > key:
            break
    return found


class _Client(pfs.Actor):
    """What the clients below have in common: they end once, and say how."""

    def __init__(self, server: pykka.ActorRef[Any], finished: Finished) -> None:
        super().__init__()
        self._server = server
        self._finished = finished
        self._over = False

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finished(exception_value)

    def _end(self, error: BaseException | None = None) -> None:
        if not self._over:  # what was on its way when a client ended may find a second reason
            self._over = True
            self._finished(error)
            self.stop()


class Loader(_Client):
    """Appends triples, which must be sorted, `batch` pages in each request; tells `progress` how many pages are in."""

    def __init__(
        self,
        server: pykka.ActorRef[Any],
        triples: Iterable[Triple],
        codec: TripleCodec,
        batch: int,
        progress: Callable[[int], None],
        finished: Finished,
    ) -> None:
        super().__init__(server, finished)
        self._pages: Iterator[bytes] = codec.encode(triples)
        self._batch = batch
        self._progress = progress
        self._request: list[bytes] = []
        self._sent = 0
        self._credit = 0
        self._ready: StreamReady | None = None

    def on_start(self) -> None:
        self._next_request()

    def on_receive(self, message: Any) -> None:
        match message:
            case StreamReady():
                self._ready, self._credit, self._sent = message, message.credits, 0
                self._send()
            case Empty():
                self._credit += message.n
                self._send()
            case DataWriteEnd():
                self._progress(message.pgid + message.n)
                self._next_request()
            case RequestFailed():
                self._end(message.error)

    def _next_request(self) -> None:
        self._request = list(islice(self._pages, self._batch))
        if self._request:
            self._server.tell(DataAppend(new_ref(), self.actor_ref, len(self._request)))
        else:
            self._end()

    def _send(self) -> None:
        ready, pages = self._ready, self._request
        assert ready is not None
        while self._credit and self._sent < len(pages):
            block = tuple(pages[self._sent : self._sent + ready.block])
            ready.stream.tell(DataPages(ready.ref, ready.stream, None, block))
            self._credit -= 1
            self._sent += len(block)
            if self._sent == len(pages):
                ready.stream.tell(StreamEnd(ready.ref, len(pages)))


class LookUps(_Client):
    """Looks keys up one after the other, and compares each answer with what `expected` has for the key.

    It calls `answered` with the number of pages that the answer took.  A wrong answer ends it with `WrongAnswer`.
    """

    def __init__(
        self,
        server: pykka.ActorRef[Any],
        keys: Sequence[str],
        page_count: int,
        codec: TripleCodec,
        expected: Mapping[str, Sequence[Triple]],
        answered: Callable[[int], None],
        finished: Finished,
    ) -> None:
        super().__init__(server, finished)
        self._keys = iter(keys)
        self._page_count = page_count
        self._codec = codec
        self._expected = expected
        self._answered = answered
        self._key = ""
        self._search: Generator[int, bytes, list[Triple]]
        self._page: bytes | None = None
        self._pages = 0

    def on_start(self) -> None:
        self._next_key()

    def on_receive(self, message: Any) -> None:
        match message:
            case DataPages():
                (self._page,) = message.pages
            case StreamEnd():  # DataReadEnd says the same, and comes before or behind it
                self._go_on(self._page)
            case RequestFailed():
                self._end(message.error)

    def _next_key(self) -> None:
        key = next(self._keys, None)
        if key is None:
            self._end()
            return
        self._key, self._page, self._pages = key, None, 0
        self._search = look_up(key, self._page_count, self._codec)
        self._go_on(None)

    def _go_on(self, page: bytes | None) -> None:
        try:
            pgid = next(self._search) if page is None else self._search.send(page)
        except StopIteration as end:
            self._check(end.value)
            return
        self._pages += 1
        self._server.tell(DataRead(new_ref(), self.actor_ref, pgid, 1))

    def _check(self, found: list[Triple]) -> None:
        expected = self._expected.get(self._key, ())
        if found != list(expected):
            what = f"{len(found)} triples were found for {self._key!r}, {len(expected)} were expected"
            self._end(WrongAnswer(what if len(found) != len(expected) else f"other triples for {self._key!r}"))
            return
        self._answered(self._pages)
        self._next_key()


class Scan(_Client):
    """Reads the whole page file in one request, and compares it with `expected`, triple by triple.

    It calls `progress` with the number of triples of each data message.
    """

    def __init__(
        self,
        server: pykka.ActorRef[Any],
        page_count: int,
        codec: TripleCodec,
        expected: Sequence[Triple],
        progress: Callable[[int], None],
        finished: Finished,
    ) -> None:
        super().__init__(server, finished)
        self._page_count = page_count
        self._codec = codec
        self._expected = expected
        self._progress = progress
        self._at = 0

    def on_start(self) -> None:
        self._server.tell(DataRead(new_ref(), self.actor_ref, 0, self._page_count))

    def on_receive(self, message: Any) -> None:
        match message:
            case DataPages():
                self._take(message)
            case StreamEnd():
                missing = len(self._expected) - self._at
                self._end(WrongAnswer(f"a scan ended {missing} triples too early") if missing else None)
            case RequestFailed():
                self._end(message.error)

    def _take(self, message: DataPages) -> None:
        begin = self._at
        for page in message.pages:
            triples = self._codec.decode(page)
            if triples != self._expected[self._at : self._at + len(triples)]:
                self._end(WrongAnswer(f"a scan found other triples than were put in, near triple {self._at}"))
                return
            self._at += len(triples)
        self._progress(self._at - begin)
        message.stream.tell(Empty(message.ref))
