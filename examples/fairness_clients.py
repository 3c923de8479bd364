"""The clients of the fairness demo: actors that do what the script says, and the `Recorder` of what they felt.

The server tells the recorder of every chunk that it serves (`pfs.System(observer=...)`); the clients tell it what the
server cannot know: when they sent a request, and when they gave a credit back.  From both it knows from which turn on
a request was ready for its next chunk, and so how long it waited.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import pykka

import pfs
from fairness_report import Served
from fairness_script import Client
from pfs.protocol import (
    DataAppend,
    DataPages,
    DataRead,
    DataReadEnd,
    DataWriteEnd,
    Empty,
    RequestFailed,
    StreamEnd,
    StreamReady,
    new_ref,
)


class Failure(Exception):
    """A client did not get what it should."""


def make_page(number: int, size: int) -> bytes:
    """The page of this number: a reader can tell that it is the right one."""
    return number.to_bytes(8, "little").ljust(size, b".")


@dataclass
class _Open:
    """A request that has not ended.  `ready` is the turn and time from which on it can be served, None if parked."""

    client: str
    reads: bool
    ready: tuple[int, float] | None
    on_their_way: int = 0


class Recorder:
    """Keeps one `Served` for every chunk of the clients' requests.

    `block` and `credits` are the server's; `clock` gives seconds.  Of an append of more than one chunk the second
    chunk's wait has the writing of the first in it, which clients do not see.
    """

    def __init__(self, block: int, credits: int, clock: Callable[[], float]) -> None:
        self.events: list[Served] = []
        self._block = block
        self._credits = credits
        self._clock = clock
        self._turn = 0
        self._open: dict[int, _Open] = {}

    def ready(self, ref: int, client: str, reads: bool) -> None:
        """A client sent a read, or all the pages of an append."""
        self._open[ref] = _Open(client, reads, self._from_now_on())

    def gave_credit(self, ref: int) -> None:
        """A client has used up a data message."""
        request = self._open[ref]
        request.on_their_way -= 1
        if request.ready is None:
            request.ready = self._from_now_on()

    def ended(self, ref: int) -> None:
        """A client has all that it asked for, or wants no more."""
        del self._open[ref]

    def served(self, turn: int, client: Any, ref: int, pages: int) -> None:
        """The server has served a chunk (it calls this itself, in its turn)."""
        self._turn = turn
        request = self._open.get(ref)
        if request is None or request.ready is None:
            return
        now = self._clock()
        self.events.append(Served(request.client, ref, request.ready[0], turn, request.ready[1], now, pages))
        if request.reads:
            request.on_their_way += -(-pages // self._block)
        request.ready = (turn + 1, now) if request.on_their_way < self._credits else None

    def _from_now_on(self) -> tuple[int, float]:
        return self._turn + 1, self._clock()


class Go(NamedTuple):
    """A client to itself: make the next request."""


class UsedUp(NamedTuple):
    """A client to itself: the oldest data message is used up."""


class ScriptedClient(pfs.Actor):
    """Makes one request after the other, as `client` says.

    `pages` are those of a request, `file_pages` and `page_size` those of the file at the start.  It calls `progress`
    after each request and `finished` at its end, with what went wrong, if anything did.
    """

    def __init__(
        self,
        server: pykka.ActorRef[Any],
        name: str,
        client: Client,
        pages: int,
        file_pages: int,
        page_size: int,
        chance: random.Random,
        recorder: Recorder,
        progress: Callable[[], None],
        finished: Callable[[BaseException | None], None],
    ) -> None:
        super().__init__()
        self._server = server
        self._name = name
        self._client = client
        self._pages = pages
        self._file_pages = file_pages
        self._page_size = page_size
        self._chance = chance
        self._recorder = recorder
        self._progress = progress
        self._finished = finished
        self._requests_left = client.requests
        self._ref = 0
        self._next = 0
        self._seen = 0
        self._ends = 0
        self._credit = 0
        self._received: deque[DataPages] = deque()
        self._ready: StreamReady | None = None
        self._over = False

    def on_start(self) -> None:
        self.send_after(self._client.start, Go())

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finished(exception_value)

    def on_receive(self, message: Any) -> None:
        if self._over:
            return  # what was on its way to a client that has ended
        match message:
            case Go():
                self._request()
            case DataPages():
                self._take(message)
            case UsedUp():
                self._use_up()
            case StreamReady():
                self._ready, self._credit, self._next = message, message.credits, 0
                self._send()
            case Empty():
                self._credit += message.n
                self._send()
            case StreamEnd() | DataReadEnd():
                self._ends += 1
                self._end_of_read()
            case DataWriteEnd():
                self._end_request()
            case RequestFailed():
                self._finish(message.error)

    def _request(self) -> None:
        self._ref = ref = new_ref()
        if self._client.kind == "append":
            self._server.tell(DataAppend(ref, self.actor_ref, self._pages, "memory"))
            return
        scan = self._client.kind == "scan"
        pgid = 0 if scan else self._chance.randint(0, self._file_pages - self._pages)
        self._next, self._seen, self._ends = pgid, 0, 0
        self._recorder.ready(ref, self._name, True)
        self._server.tell(DataRead(ref, self.actor_ref, pgid, self._pages))

    # -- reading

    def _take(self, message: DataPages) -> None:
        for page in message.pages:
            if page != make_page(self._next, self._page_size):
                self._finish(Failure(f"{self._name}: page {self._next} has not the content that was written"))
                return
            self._next += 1
        self._seen += len(message.pages)
        client = self._client
        if client.dies and self._requests_left == 1 and self._seen >= client.dies:
            self._recorder.ended(self._ref)
            self._progress()
            self._finish(None)  # without a word to the server: it finds out by itself
            return
        self._received.append(message)
        if not client.pause:
            self._use_up()
        elif len(self._received) == 1:
            self.send_after(client.pause, UsedUp())

    def _use_up(self) -> None:
        message = self._received.popleft()
        if self._seen < self._pages:
            self._recorder.gave_credit(message.ref)
            message.stream.tell(Empty(message.ref))
        if self._received:
            self.send_after(self._client.pause, UsedUp())
        self._end_of_read()

    def _end_of_read(self) -> None:
        if self._ends == 2 and not self._received:
            self._recorder.ended(self._ref)
            self._end_request()

    # -- appending

    def _send(self) -> None:
        ready = self._ready
        assert ready is not None
        while self._credit and self._next < self._pages:
            n = min(ready.block, self._pages - self._next)
            page = make_page(self._file_pages, self._page_size)
            ready.stream.tell(DataPages(ready.ref, ready.stream, None, (page,) * n))
            self._credit -= 1
            self._next += n
            if self._next == self._pages:
                self._recorder.ready(ready.ref, self._name, False)
                ready.stream.tell(StreamEnd(ready.ref, self._pages))

    # -- ends

    def _end_request(self) -> None:
        if self._client.kind == "append":
            self._recorder.ended(self._ref)
        self._requests_left -= 1
        self._progress()
        if not self._requests_left:
            self._finish(None)
        elif self._client.think[1]:
            self.send_after(self._chance.uniform(*self._client.think), Go())
        else:
            self._request()

    def _finish(self, error: BaseException | None) -> None:
        self._over = True
        self._finished(error)
        self.stop()
