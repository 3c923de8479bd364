"""How an actor uses a page file: a `Writer` appends pages, then a `Reader` reads them, both by the protocol.

A plain thread calls `file.append(...)` and waits.  An actor never waits: it tells the page file server what it wants,
goes back to its mailbox, and goes on when an answer comes.  So one thread carries thousands of such clients, each with
any number of requests under way, told apart by their `ref`.

Pages travel over a *stream*, an actor between the server and the client, like wagons on a circular train line:

    append   client -> server   DataAppend          I want to append n pages
             server -> client   StreamReady         room is reserved; here are your stream and `credits` empty wagons
             client -> stream   DataPages           a wagon with up to `block` pages: takes one credit
             stream -> client   Empty               the empty wagon came back: one credit more
             client -> stream   StreamEnd           that was the last one, n pages in all
             server -> client   DataWriteEnd        all n pages are durable, from page `pgid` on

    read     client -> server   DataRead            I want n pages from page `pgid` on
             stream -> client   DataPages           a wagon with up to `block` pages
             client -> stream   Empty               I have used them up: the wagon goes back to be filled
             stream -> client   StreamEnd           that was the last wagon
             server -> client   DataReadEnd         the server has handed over all n pages

Who does not send wagons back gets no more data and holds up nobody else.  Whatever goes wrong, the request ends with
one `RequestFailed`, which says why.  `pfs.protocol` has every message with its fields.
"""

from __future__ import annotations

import tempfile
from typing import Any

import pykka

import pfs
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

PAGE_SIZE = 512


class Writer(pfs.Actor):
    """Appends `n` pages that it makes when there is credit for them, however many they are.

    `server` is a page file's `server`; `done` gets the number of the first page, or the error.
    """

    def __init__(self, server: pykka.ActorRef[Any], n: int, done: pykka.Future[int]) -> None:
        super().__init__()
        self.server = server
        self.n = n
        self.done = done
        self.made = 0
        self.credit = 0
        self.stream: Any = None
        self.block = 0

    def on_start(self) -> None:
        self.server.tell(DataAppend(new_ref(), self.actor_ref, self.n))

    def on_receive(self, message: Any) -> None:
        match message:
            case StreamReady():
                self.stream, self.block = message.stream, message.block
                self.credit = message.credits
                self.send(message.ref)
            case Empty():
                self.credit += message.n
                self.send(message.ref)
            case DataWriteEnd():
                self.done.set(message.pgid)
                self.stop()
            case RequestFailed():
                self.done.set_exception((type(message.error), message.error, None))
                self.stop()

    def send(self, ref: int) -> None:
        """Fill the empty wagons that are here."""
        while self.credit and self.made < self.n:
            count = min(self.block, self.n - self.made)
            pages = tuple(make_page(number) for number in range(self.made, self.made + count))
            self.stream.tell(DataPages(ref, self.stream, None, pages))  # pgid None: an append's place is not known yet
            self.made += count
            self.credit -= 1
            if self.made == self.n:
                self.stream.tell(StreamEnd(ref, self.n))


class Reader(pfs.Actor):
    """Reads `n` pages from `pgid` on and adds up the numbers in them, in the memory of a few pages.

    `done` gets the sum, or the error.
    """

    def __init__(self, server: pykka.ActorRef[Any], pgid: int, n: int, done: pykka.Future[int]) -> None:
        super().__init__()
        self.server = server
        self.request = DataRead(new_ref(), self.actor_ref, pgid, n)
        self.done = done
        self.sum = 0

    def on_start(self) -> None:
        self.server.tell(self.request)

    def on_receive(self, message: Any) -> None:
        match message:
            case DataPages():
                self.sum += sum(int(page) for page in message.pages)
                message.stream.tell(Empty(message.ref))
            case StreamEnd():
                self.done.set(self.sum)  # it comes on the stream, so behind the last page; DataReadEnd may come before
                self.stop()
            case DataReadEnd():
                pass
            case RequestFailed():
                self.done.set_exception((type(message.error), message.error, None))
                self.stop()


def make_page(number: int) -> bytes:
    return str(number).encode().ljust(PAGE_SIZE)


def main(n: int = 1000) -> None:
    """Write and read `n` pages."""
    with tempfile.TemporaryDirectory() as directory, pfs.System(directory) as system:
        file = system.open("numbers", page_size=PAGE_SIZE)
        written: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
        system.start(Writer, file.server, n, written)
        first = written.get(timeout=60)
        print(f"{n} pages written, from page {first} on")
        total: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
        system.start(Reader, file.server, first, n, total)
        print(f"the numbers in them make {total.get(timeout=60)}")


if __name__ == "__main__":
    main()
