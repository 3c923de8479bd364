"""Durable commits: each client writes one page of 8 KiB, waits until it is durable, and writes the next.

Beside pfs: the raw limit, which is one thread that writes the same number of pages to a preallocated file and syncs
once for each round of clients; and the databases of `benchmarks.databases`.  All files are on one file system, and the
ratios are taken within rounds, since the time of a sync varies more than anything else here.

Log, sidecars and checksums are on.  In each interval of pfs that is measured a checkpoint is made: it begins after a
fifth of the interval, which does not end before the checkpoint has.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pfs
from benchmarks.databases import DATABASES, Database, Put
from benchmarks.harness import Case, CaseSet, Measurement, Options, Unavailable, rate
from benchmarks.reads import one_by_one
from pfs.actors import Waiter
from pfs.actors.checkpointer import MakeCheckpoint
from pfs.protocol import DataPages, DataWrite, DataWriteEnd, RequestFailed, StreamEnd, StreamReady, new_ref

PAGE_SIZE = 8192
PAGES = 4096
"""How many pages there are to be overwritten."""

STRIDE = 7919
IMAGES = tuple(os.urandom(PAGE_SIZE) for _ in range(61))
"""What is written, in turn, so that no page is overwritten with what it holds (SQLite would not write it)."""

_runs = count()
"""Each run begins with another image, as it writes the same pages in the same order as the one before."""

APPENDED = 16_384
RAW_BYTES = 64 << 20
RAW_PIECE = 128
"""Pages in one write of the raw append: 1 MiB."""

CHECKPOINT_AFTER = 0.2
"""The part of an interval after which its checkpoint begins."""

WAIT = 60.0
"""Seconds after which clients that do not end are given up."""

RAW = "raw"

Meanwhile = Callable[[float], object]
"""What is done while clients commit, for about so many seconds."""


class RawFile:
    """A preallocated file, written from front to back, again and again."""

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        self._offset = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        for offset in range(0, size, 1 << 20):
            os.pwrite(self._descriptor, bytes(1 << 20), offset)
        os.fsync(self._descriptor)

    def write(self, pages: Sequence[bytes]) -> None:
        if self._offset + len(pages) * PAGE_SIZE > self._size:
            self._offset = 0
        self._offset += os.pwritev(self._descriptor, pages, self._offset)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def raw_commits(file: RawFile, clients: int) -> Callable[[float], float]:
    pages = [IMAGES[number % len(IMAGES)] for number in range(clients)]

    def one_round() -> None:
        file.write(pages)
        file.sync()

    return lambda seconds: rate(one_round, seconds, clients)


# ---------------------------------------------------------------------------------------------- clients


def by_threads(puts: Sequence[Put], seconds: float, meanwhile: Meanwhile = time.sleep) -> float:
    """Commits a second of threads that each put one page after the other, for as long as `meanwhile` takes."""
    counts = [0] * len(puts)
    first = next(_runs)
    go_on = True
    errors: list[BaseException] = []
    ready = threading.Barrier(len(puts) + 1)

    def work(client: int, put: Put) -> None:
        number = client * 31
        done = 0
        ready.wait(WAIT)
        try:
            while go_on:
                number = (number + STRIDE) % PAGES
                put(number, IMAGES[(first + done) % len(IMAGES)])
                done += 1
                counts[client] = done
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=each) for each in enumerate(puts)]
    for worker in workers:
        worker.start()
    ready.wait(WAIT)
    begin = time.perf_counter()
    meanwhile(seconds)
    while not any(counts) and not errors:  # the disk is very slow
        time.sleep(0.001)
    result = sum(counts) / (time.perf_counter() - begin)
    go_on = False
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return result


class Committers:
    """What the client actors of one run share."""

    def __init__(self, clients: int) -> None:
        self.first = next(_runs)
        self.commits = 0
        self.running = clients
        self.go_on = True
        self.error: pfs.PfsError | None = None
        self.all_ended = Waiter()


class Committer(pfs.Actor):
    """Writes one page after the other, each when the one before is durable, until it is told to end."""

    def __init__(self, file: pfs.PageFile, client: int, shared: Committers) -> None:
        super().__init__()
        self._server = file.server
        self._pgid = client * 31
        self._done = 0
        self._shared = shared

    def on_start(self) -> None:
        self._write()

    def _write(self) -> None:
        self._pgid = (self._pgid + STRIDE) % PAGES
        self._server.tell(DataWrite(new_ref(), self._actor_ref, self._pgid, 1))

    def on_receive(self, message: Any) -> None:
        kind = type(message)
        if kind is StreamReady:
            page = IMAGES[(self._shared.first + self._done) % len(IMAGES)]
            message.stream.tell(DataPages(message.ref, message.stream, self._pgid, (page,)))
            message.stream.tell(StreamEnd(message.ref, 1))
        elif kind is DataWriteEnd:
            self._done += 1
            self._shared.commits += 1
            if self._shared.go_on:
                self._write()
            else:
                self._end()
        elif kind is RequestFailed:
            self._shared.error = message.error
            self._end()

    def _end(self) -> None:
        self._shared.running -= 1
        if not self._shared.running:
            self._shared.all_ended.finish()
        self.stop()


def by_actors(
    system: pfs.System,
    file: pfs.PageFile,
    clients: int,
    seconds: float,
    meanwhile: Meanwhile = time.sleep,
) -> float:
    """Commits a second of client actors."""
    shared = Committers(clients)
    for number in range(clients):
        system.start(Committer, file, number, shared)
    commits, begin = shared.commits, time.perf_counter()
    meanwhile(seconds)
    while shared.commits == commits and shared.error is None:  # the disk is very slow
        time.sleep(0.001)
    result = (shared.commits - commits) / (time.perf_counter() - begin)
    shared.go_on = False
    if not shared.all_ended.sleep(WAIT):
        raise RuntimeError(f"{shared.running} of {clients} client actors did not end")
    if shared.error is not None:
        raise shared.error
    return result


# ---------------------------------------------------------------------------------------------- pfs


@contextmanager
def opened_pfs(directory: Path, pages: int = PAGES) -> Iterator[tuple[pfs.System, pfs.PageFile]]:
    """A system with a page file."""
    with pfs.System(directory, pfs.SystemOptions(buffer_bytes=256 << 20)) as system:
        file = system.open("pages", page_size=PAGE_SIZE)
        for first in range(0, pages, 256):
            file.append([IMAGES[0]] * min(256, pages - first))
        system.checkpoint()
        yield system, file


class _Made(Waiter):
    """Whom the checkpointer tells that a checkpoint has been made."""

    __slots__ = ()

    def tell(self, _message: Any) -> None:
        self.finish()

    def is_alive(self) -> bool:
        return True


def with_a_checkpoint(system: pfs.System, meanwhile: Meanwhile) -> Meanwhile:
    """The same, with a checkpoint in it from begin to end."""

    def run(seconds: float) -> None:
        made = _Made()
        begin = MakeCheckpoint(made)
        timer = threading.Timer(CHECKPOINT_AFTER * seconds, system._storage.checkpointer.tell, (begin,))
        timer.start()
        meanwhile(seconds)
        if not made.sleep(WAIT):
            raise RuntimeError(f"a checkpoint took more than {WAIT:g} s")
        timer.join()

    return run


def measured(
    system: pfs.System, run: Callable[[float, Meanwhile], float], meanwhile: Meanwhile = time.sleep
) -> Callable[[float], Measurement]:
    """Commits a second with a checkpoint among them, and how many commits shared a sync."""

    def measure(seconds: float) -> Measurement:
        before = system.stats()["wal"]
        result = run(seconds, with_a_checkpoint(system, meanwhile))
        after = system.stats()["wal"]
        counts = {name: after[name] - before[name] for name in ("batches", "commits")}
        system.checkpoint()
        return Measurement(result, {"commits per sync": counts["commits"] / counts["batches"]})

    return measure


def pfs_cases(
    system: pfs.System,
    file: pfs.PageFile,
    clients: int,
    actors: tuple[float | None, float | None],
    threads: tuple[float | None, float | None],
) -> list[Case]:
    def put(number: int, page: bytes) -> None:
        file.write(number, [page])

    return [
        Case(
            "pfs, actors",
            measured(system, lambda seconds, meanwhile: by_actors(system, file, clients, seconds, meanwhile)),
            *actors,
        ),
        Case(
            "pfs, plain threads",
            measured(system, lambda seconds, meanwhile: by_threads([put] * clients, seconds, meanwhile)),
            *threads,
        ),
    ]


# ---------------------------------------------------------------------------------------------- databases


def not_there(missing: Unavailable) -> Callable[[float], float]:
    def run(_seconds: float) -> float:
        raise missing

    return run


@contextmanager
def opened_databases(root: Path, use: Callable[[Database], Callable[[float], float]]) -> Iterator[list[Case]]:
    """A case for each database; one that is not installed says so."""
    with ExitStack() as stack:
        cases = []
        for name, opened in DATABASES.items():
            directory = root / name
            directory.mkdir()
            try:
                database = stack.enter_context(opened(directory))
            except Unavailable as missing:
                cases.append(Case(name, not_there(missing)))
                continue
            cases.append(Case(name, use(database)))
        yield cases


def database_commits(clients: int) -> Callable[[Database], Callable[[float], float]]:
    def use(database: Database) -> Callable[[float], float]:
        database.load([IMAGES[0]] * PAGES)
        database.rest()
        puts = [database.client() for _ in range(clients)]

        def run(seconds: float) -> float:
            result = by_threads(puts, seconds)
            database.rest()
            return result

        return run

    return use


def best_of(cases: Sequence[Case]) -> Callable[[float], Measurement]:
    """The best of some cases, run one after the other."""

    def run(seconds: float) -> Measurement:
        results: dict[str, float] = {}
        for case in cases:
            try:
                result = case.run(seconds)
            except Unavailable:
                continue
            results[case.name] = result.value if isinstance(result, Measurement) else result
        return Measurement(max(results.values()), results)

    return run


# ---------------------------------------------------------------------------------------------- sets

Targets = tuple[float | None, float | None]


def commits(clients: int, actors: Targets, threads: Targets) -> Callable[[Options], Any]:
    @contextmanager
    def open_cases(options: Options) -> Iterator[list[Case]]:
        with ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pfs-bench-")))
            raw = RawFile(root / "raw", RAW_BYTES)
            stack.callback(raw.close)
            databases = stack.enter_context(opened_databases(root, database_commits(clients)))
            system, file = stack.enter_context(opened_pfs(root / "pfs"))
            yield [
                Case(RAW, raw_commits(raw, clients)),
                *pfs_cases(system, file, clients, actors, threads),
                *databases,
            ]

    return open_cases


BEST = "the best database"


@contextmanager
def beside_the_best(options: Options) -> Iterator[list[Case]]:
    clients = 64
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pfs-bench-")))
        databases = stack.enter_context(opened_databases(root, database_commits(clients)))
        system, file = stack.enter_context(opened_pfs(root / "pfs"))
        yield [Case(BEST, best_of(databases)), *pfs_cases(system, file, clients, (4.0, None), (None, None))]


@contextmanager
def per_sync(options: Options) -> Iterator[list[Case]]:
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pfs-bench-")))
        system, file = stack.enter_context(opened_pfs(root / "pfs"))

        def of(case: Case) -> Callable[[float], Measurement]:
            def run(seconds: float) -> Measurement:
                result = case.run(seconds)
                assert isinstance(result, Measurement)
                return Measurement(result.details["commits per sync"], {"commits/s": result.value})

            return run

        yield [
            Case(case.name, of(case), 16, 32, target="value")
            for case in pfs_cases(system, file, 64, (None, None), (None, None))
        ]


def append_at_once(file: pfs.PageFile, pages: Sequence[bytes]) -> None:
    """Append all pages as one request, which is all there or not there after a crash."""
    file.append(pages)


@contextmanager
def appends(options: Options) -> Iterator[list[Case]]:
    count = 1024 if options.quick else APPENDED
    pages = [IMAGES[number % len(IMAGES)] for number in range(count)]
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pfs-bench-")))
        raw = RawFile(root / "raw", count * PAGE_SIZE)
        stack.callback(raw.close)
        system, file = stack.enter_context(opened_pfs(root / "pfs", pages=0))

        def write_raw() -> None:
            for first in range(0, count, RAW_PIECE):
                raw.write(pages[first : first + RAW_PIECE])
            raw.sync()

        def cut() -> None:
            file.truncate(0)
            system.checkpoint()

        def timed(run: Callable[[], object], afterwards: Callable[[], object]) -> Callable[[float], float]:
            def measure(_seconds: float) -> float:
                begin = time.perf_counter()
                run()
                result = count / (time.perf_counter() - begin)
                afterwards()
                return result

            return measure

        databases = stack.enter_context(
            opened_databases(root, lambda database: timed(lambda: database.load(pages), database.rest))
        )
        yield [
            Case(RAW, timed(write_raw, lambda: None)),
            Case("pfs, one request", timed(lambda: append_at_once(file, pages), cut), 0.4, 0.7),
            *[case for case in databases if case.name != "PostgreSQL"],
        ]


QUIET = "nobody commits"


@contextmanager
def reads_meanwhile(options: Options) -> Iterator[list[Case]]:
    clients = 16
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pfs-bench-")))
        system, file = stack.enter_context(opened_pfs(root / "pfs"))

        def read(seconds: float) -> float:
            return rate(one_by_one(file), seconds)

        def put(number: int, page: bytes) -> None:
            file.write(number, [page])

        def while_committing(
            run: Callable[[float, Meanwhile], float],
        ) -> Callable[[float], Measurement]:
            def measure(seconds: float) -> Measurement:
                reads: list[float] = []
                commits = measured(system, run, lambda left: reads.append(read(left)))(seconds)
                return Measurement(reads[0], {"commits/s": commits.value, **commits.details})

            return measure

        yield [
            Case(QUIET, read),
            Case(
                f"{clients} actors commit",
                while_committing(lambda seconds, meanwhile: by_actors(system, file, clients, seconds, meanwhile)),
                0.4,
                0.7,
            ),
            Case(
                f"{clients} plain threads commit",
                while_committing(lambda seconds, meanwhile: by_threads([put] * clients, seconds, meanwhile)),
                0.4,
                0.7,
            ),
        ]


NOTE = (
    "Raw: one thread writes as many pages as there are clients to a preallocated file, and one fdatasync. "
    f"{PAGES} pages of {PAGE_SIZE} bytes are overwritten all over; each interval of pfs has a checkpoint in it."
)


def commit_set(clients: int, actors: Targets = (None, None), threads: Targets = (None, None)) -> CaseSet:
    return CaseSet(
        f"commits-{clients}",
        f"Durable commits of one page, {clients} client{'s' if clients > 1 else ''}",
        commits(clients, actors, threads),
        unit="commits/s",
        reference=RAW,
        note=NOTE,
    )


SETS = [
    commit_set(1, (0.7, 0.85), (0.5, 0.7)),
    commit_set(16),
    commit_set(64, (0.35, 0.6), (0.12, 0.3)),
    CaseSet(
        "commits-best",
        "Durable commits of one page, 64 clients, beside the best database of each round",
        beside_the_best,
        unit="commits/s",
        reference=BEST,
        note=NOTE,
    ),
    CaseSet(
        "commits-per-sync",
        "Commits that share one sync, 64 clients",
        per_sync,
        unit="commits/sync",
        note="All syncs of the log count, those of checkpoints and seals too.",
    ),
    CaseSet(
        "append",
        "One append of 16,384 pages, made durable once",
        appends,
        unit="pages/s",
        reference=RAW,
        note=f"128 MiB. Raw: to a preallocated file, {RAW_PIECE} pages a write, one fdatasync. SQLite, LMDB: one "
        "transaction; RocksDB: one batch.",
    ),
    CaseSet(
        "reads-while-committing",
        "Single-page reads of one plain thread while 16 clients commit",
        reads_meanwhile,
        unit="reads/s",
        reference=QUIET,
        note="All pages are in the buffer pool.",
    ),
]
