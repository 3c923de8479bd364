"""Reads of pages through the whole protocol, beside the bare system call and a bare Pykka actor.

A read through the protocol is a `DataRead` to the page file's server, its turn, the page on a stream, the credit back,
and the end.  "Pool hit": the page is in the buffer pool.  "Pool miss": the pool is far smaller than the file, so that
nearly every page is read from the kernel's page cache.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pykka

import pfs
from benchmarks.harness import Case, CaseSet, Options, rate
from pfs.actors import Waiter
from pfs.protocol import DataPages, DataRead, Empty, StreamEnd, new_ref

PAGE_SIZE = 8192
STRIDE = 7919
"""A prime: the next page read is so many pages further, which no read-ahead guesses."""

MUST = 60_000
GOAL = 120_000
THREADS = 16
CLIENTS = 256
READ_AT_ONCE = 64
"""Pages in one system call of the raw scan: as many as the server serves in a turn."""

WAIT = 60.0
"""Seconds after which clients that do not end are given up."""


class PykkaPages(pykka.ThreadingActor):
    """What one would write with Pykka alone: answers `ask` with a page from a dict."""

    use_daemon_thread = True

    def __init__(self, pages: dict[int, bytes]) -> None:
        super().__init__()
        self._pages = pages

    def on_receive(self, message: Any) -> bytes:
        return self._pages[message]


class Readers:
    """What the client actors of one run share."""

    def __init__(self, clients: int) -> None:
        self.reads = 0
        self.running = clients
        self.go_on = True
        self.all_ended = Waiter()


class Reader(pfs.Actor):
    """Reads one page after the other until it is told to end."""

    def __init__(self, file: pfs.PageFile, first: int, readers: Readers) -> None:
        super().__init__()
        self._server = file.server
        self._count = file.page_count
        self._pgid = first
        self._readers = readers

    def on_start(self) -> None:
        self._read()

    def _read(self) -> None:
        self._pgid = (self._pgid + STRIDE) % self._count
        self._server.tell(DataRead(new_ref(), self._actor_ref, self._pgid, 1))

    def on_receive(self, message: Any) -> None:
        kind = type(message)
        if kind is DataPages:
            message.stream.tell(Empty(message.ref))
        elif kind is StreamEnd:
            readers = self._readers
            readers.reads += 1
            if readers.go_on:
                self._read()
            else:
                readers.running -= 1
                if not readers.running:
                    readers.all_ended.finish()
                self.stop()


def page(number: int) -> bytes:
    return number.to_bytes(8, "little") * (PAGE_SIZE // 8)


def fill(file: pfs.PageFile, count: int) -> None:
    for first in range(0, count, 256):
        file.append([page(number) for number in range(first, min(first + 256, count))], durability="memory")
    file.sync()
    for number in (0, count // 2, count - 1):
        if file.read(number) != [page(number)]:
            raise AssertionError(f"page {number} has not the content that was written")


def one_by_one(file: pfs.PageFile) -> Callable[[], object]:
    """Read the next page each time it is called."""
    pgid, count, read = 0, file.page_count, file.read

    def read_next() -> None:
        nonlocal pgid
        pgid = (pgid + STRIDE) % count
        read(pgid)

    return read_next


def by_threads(file: pfs.PageFile, threads: int, seconds: float) -> float:
    """Reads a second of several plain threads together."""
    rates: list[float] = []
    barrier = threading.Barrier(threads)

    def work() -> None:
        read_next = one_by_one(file)
        barrier.wait(WAIT)
        rates.append(rate(read_next, seconds))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if len(rates) != threads:
        raise RuntimeError(f"{threads - len(rates)} of {threads} threads failed")
    return sum(rates)


def by_actors(system: pfs.System, file: pfs.PageFile, clients: int, seconds: float) -> float:
    """Reads a second of several client actors together, once all of them run."""
    readers = Readers(clients)
    for number in range(clients):
        system.start(Reader, file, number * 31, readers)
    reads, begin = readers.reads, time.perf_counter()
    time.sleep(seconds)
    result = (readers.reads - reads) / (time.perf_counter() - begin)
    readers.go_on = False
    if not readers.all_ended.sleep(WAIT):
        raise RuntimeError(f"{readers.running} of {clients} client actors did not end")
    return result


def scan(file: pfs.PageFile, seconds: float) -> float:
    """Pages a second of reads of the whole file."""

    def read_all() -> None:
        for _ in file.stream():
            pass

    return rate(read_all, seconds, batch=file.page_count)


def raw_reads(descriptor: int, count: int) -> Callable[[], object]:
    pgid = 0

    def read_next() -> None:
        nonlocal pgid
        pgid = (pgid + STRIDE) % count
        os.preadv(descriptor, [bytearray(PAGE_SIZE)], pgid * PAGE_SIZE)

    return read_next


def raw_scan(descriptor: int, count: int) -> Callable[[], object]:
    def read_all() -> None:
        for first in range(0, count, READ_AT_ONCE):
            buffers = [bytearray(PAGE_SIZE) for _ in range(min(READ_AT_ONCE, count - first))]
            os.preadv(descriptor, buffers, first * PAGE_SIZE)

    return read_all


@contextmanager
def data_file(directory: str) -> Iterator[int]:
    """A descriptor of the file below the only page file of a data directory."""
    largest = max((path for path in Path(directory).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    descriptor = os.open(largest, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def filled(count: int, buffer_pages: int) -> Iterator[tuple[pfs.System, pfs.PageFile, int]]:
    """A system with a page file of so many pages, and a descriptor of the same file."""
    options = pfs.SystemOptions(buffer_bytes=buffer_pages * (PAGE_SIZE + 256))
    with tempfile.TemporaryDirectory(prefix="pfs-bench-") as directory, pfs.System(directory, options) as system:
        file = system.open("pages", page_size=PAGE_SIZE)
        fill(file, count)
        with data_file(directory) as descriptor:
            yield system, file, descriptor


@contextmanager
def open_reads(options: Options) -> Iterator[Sequence[Case]]:
    count = 256 if options.quick else 4096
    threads, clients = (4, 16) if options.quick else (THREADS, CLIENTS)
    with filled(count, 2 * count) as (system, file, descriptor), filled(count, count // 16) as (small_system, small, _):
        actor = PykkaPages.start({number: page(number) for number in range(count)})
        try:
            pgid = 0

            def ask_next() -> None:
                nonlocal pgid
                pgid = (pgid + STRIDE) % count
                actor.ask(pgid)

            yield [
                Case("raw os.preadv", lambda seconds: rate(raw_reads(descriptor, count), seconds)),
                Case("bare Pykka actor, ask", lambda seconds: rate(ask_next, seconds)),
                Case(
                    "pfs, 1 thread, pool hit",
                    lambda seconds: rate(one_by_one(file), seconds),
                    MUST,
                    GOAL,
                    "value",
                ),
                Case(
                    f"pfs, {threads} threads, pool hit",
                    lambda seconds: by_threads(file, threads, seconds),
                    MUST,
                    GOAL,
                    "value",
                ),
                Case(
                    f"pfs, {clients} client actors, pool hit",
                    lambda seconds: by_actors(system, file, clients, seconds),
                    MUST,
                    GOAL,
                    "value",
                ),
                Case("pfs, 1 thread, pool miss", lambda seconds: rate(one_by_one(small), seconds)),
                Case(
                    f"pfs, {clients} client actors, pool miss",
                    lambda seconds: by_actors(small_system, small, clients, seconds),
                ),
            ]
        finally:
            actor.stop()


@contextmanager
def open_scan(options: Options) -> Iterator[Sequence[Case]]:
    count = 256 if options.quick else 4096
    with filled(count, 2 * count) as (_, file, descriptor), filled(count, count // 16) as (_, small, _):
        yield [
            Case(
                f"raw os.preadv, {READ_AT_ONCE} pages at once",
                lambda seconds: rate(raw_scan(descriptor, count), seconds, batch=count),
            ),
            Case("pfs, 1 thread, pool hit", lambda seconds: scan(file, seconds)),
            Case("pfs, 1 thread, pool miss", lambda seconds: scan(small, seconds)),
        ]


SETS = [
    CaseSet(
        "reads",
        "Single-page reads through the whole protocol",
        open_reads,
        unit="reads/s",
        reference="raw os.preadv",
        note=f"4,096 pages of {PAGE_SIZE} bytes, all in the kernel's page cache, read {STRIDE} pages apart; "
        "raw reads fill a new buffer each time. Pool hit: the page is in the buffer pool. Pool miss: the pool holds a "
        "sixteenth of the file.",
    ),
    CaseSet(
        "scan",
        "Scans of a page file",
        open_scan,
        unit="pages/s",
        reference=f"raw os.preadv, {READ_AT_ONCE} pages at once",
        note=f"The whole file, 4,096 pages of {PAGE_SIZE} bytes, in one request, by one plain thread, page by page.",
    ),
]
