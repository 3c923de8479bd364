"""Clients of a real `System`, threads and actors, whose every request is recorded and judged as one history a file.

`record` builds a system on a directory with small pools and limits, so that pages are evicted and read back, reads take
many turns, and checkpoints run; lets plain threads and client actors read, write and append at random, on the same few
pages much of the time; and returns what they saw, for `pfs.testing.linearizability` to judge.

A moment is a number that a counter gives (`itertools.count` is one step under the interpreter's lock): taken before a
request is sent, and when its end is known.  The seed chooses what each client asks for; in which order threads run is
the machine's choice, so a seed is not one run here as it is in the simulation.

    python -m pfs.testing.recorded_clients DIRECTORY --seed 7 --operations 100000
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any, Literal, NamedTuple

import msgspec

from pfs.actors import Actor
from pfs.actors.requests import ServerOptions
from pfs.calls import WriteCall
from pfs.errors import Busy, OutOfRange, PfsError, SnapshotTooOld
from pfs.page_file import PageFile
from pfs.protocol import (
    DataAppend,
    DataPages,
    DataRead,
    DataReadEnd,
    DataWrite,
    DataWriteEnd,
    Durability,
    Empty,
    RequestFailed,
    Stat,
    StatReply,
    StreamEnd,
    StreamReady,
    new_ref,
)
from pfs.system import System, SystemOptions
from pfs.testing.history import make_page
from pfs.testing.linearizability import Operation, check_by_lsn
from pfs.wal.shared_log import WalOptions

PAGE_SIZE = 512
MARK = 16
"""Bytes that a page repeats, and that stand for it in a history."""
MOST_PAGES = 12
HOT_PAGES = 24
"""So many pages at the beginning of a file are written and read most."""
IN_MEMORY = 0.9
"""The part of the changes that need not wait for the disk; all take effect in the order of their LSNs."""

_EXPECTED = (SnapshotTooOld, Busy)
"""What a request may fail with, without effect, because limits are small."""


def mark_of(page: bytes) -> bytes:
    """What stands for a page: the mark that it repeats, or the page itself if it does not."""
    mark = page[:MARK]
    return mark if page == mark * (len(page) // MARK) else page


class Recorder:
    """The history of one page file, filled from any thread."""

    moment = count(1).__next__
    """The logical clock, one for all."""

    def __init__(self, number: int, file: PageFile) -> None:
        self.number = number
        self.file = file
        self.operations: list[Operation] = []
        self.excused = 0
        """How many requests failed as they may."""
        self._writes = count(1).__next__

    def new_pages(self, client: int, n: int) -> list[bytes]:
        """Pages that nobody has written before."""
        write = self._writes()
        return [make_page(PAGE_SIZE, self.number, client, write, index) for index in range(n)]


class Request(NamedTuple):
    """What a client is to ask for."""

    recorder: Recorder
    kind: Literal["read", "write", "append", "count"]
    pgid: int
    n: int
    pages: list[bytes]
    durability: Durability


class Chooser:
    """One client's random requests."""

    def __init__(self, client: int, recorders: Sequence[Recorder], random: Random) -> None:
        self.client = client
        self.random = random
        self._recorders = recorders

    def next(self) -> Request:
        random = self.random
        recorder = random.choice(self._recorders)
        kinds: tuple[Literal["read", "write", "append", "count"], ...] = ("read", "write", "append", "count")
        kind = random.choices(kinds, (60, 25, 12, 3))[0]
        n = random.choice((1, 1, 2, 3, random.randint(1, MOST_PAGES)))
        size = recorder.file.page_count
        if random.random() < 0.6:
            pgid = random.randrange(HOT_PAGES)
        elif random.random() < 0.5:
            pgid = max(size - random.randint(0, MOST_PAGES), 0)  # the end, where appends are
        else:
            pgid = random.randrange(size)
        pages = recorder.new_pages(self.client, n) if kind in ("write", "append") else []
        durability: Durability = "memory" if random.random() < IN_MEMORY else "wal"
        return Request(recorder, kind, pgid, n, pages, durability)


# ------------------------------------------------------------------------------------------ plain threads


def written(file: PageFile, pgid: int | None, pages: list[bytes], durability: Durability = "wal") -> DataWriteEnd:
    """`PageFile.write`, or `append` if `pgid` is None, that returns the server's answer, which has the LSN."""
    call = WriteCall(new_ref(), pgid, pages)
    system = file._system
    client = system.thread_client()
    message: DataAppend | DataWrite
    if pgid is None:
        message = DataAppend(call.ref, client, len(pages), durability)
    else:
        message = DataWrite(call.ref, client, pgid, len(pages), durability)
    system.perform(file.server, client, call, message, None)
    assert call.written is not None
    return call.written


def thread_body(chooser: Chooser, requests: int) -> None:
    """Make so many requests, one after the other."""
    name = f"thread-{chooser.client}"
    for _ in range(requests):
        recorder, kind, pgid, n, pages, durability = chooser.next()
        file, marks, lsn = recorder.file, tuple(map(mark_of, pages)), 0
        started = recorder.moment()
        outcome: Any = kind
        try:
            if kind == "read":
                marks = tuple(map(mark_of, file.read(pgid, n)))
            elif kind == "count":
                n = file.stat().page_count
            else:
                answer = written(file, pgid if kind == "write" else None, pages, durability)
                pgid, lsn = answer.pgid, answer.lsn
        except OutOfRange:
            outcome, marks = "refused", ()
        except _EXPECTED:
            recorder.excused += 1
            continue
        ended = recorder.moment()
        recorder.operations.append(Operation(outcome, pgid, n, marks, started, ended, lsn, name))


# ------------------------------------------------------------------------------------------ actors


class GiveBack(msgspec.Struct, frozen=True):
    """A client to itself: the credit that was held back may go."""

    stream: Any
    ref: int


class _Open:
    """A request that has not ended."""

    def __init__(self, request: Request, started: int) -> None:
        self.request = request
        self.started = started
        self.received: list[bytes] = []
        self.ends = 0
        self.slow = False
        self.stream: Any = None
        self.block = 1
        self.credit = 0
        self.sent = 0


class RecordedActor(Actor):
    """A client actor with up to `most_open` requests under way; `done` is called when it has made all of them.

    Some of its reads are slow: credit is held back a little, so that others write meanwhile.
    """

    def __init__(
        self, chooser: Chooser, requests: int, most_open: int, done: Callable[[PfsError | None], None]
    ) -> None:
        super().__init__()
        self._chooser = chooser
        self._left = requests
        self._most_open = most_open
        self._done = done
        self._open: dict[int, _Open] = {}

    def on_start(self) -> None:
        self._begin()

    def on_receive(self, message: Any) -> None:
        if isinstance(message, GiveBack):
            message.stream.tell(Empty(message.ref))
            return
        request = self._open[message.ref]
        match message:
            case DataPages():
                request.received += message.pages
                if request.slow and self._chooser.random.random() < 0.5:
                    self.send_after(self._chooser.random.random() / 1000, GiveBack(message.stream, message.ref))
                else:
                    message.stream.tell(Empty(message.ref))
            case StreamReady():
                request.stream, request.block, request.credit = message.stream, message.block, message.credits
                self._write_on(message.ref, request)
            case Empty():
                request.credit += message.n
                self._write_on(message.ref, request)
            case StreamEnd() | DataReadEnd():
                request.ends += 1
                if request.ends == 2:
                    self._ended(message.ref, tuple(map(mark_of, request.received)))
            case DataWriteEnd():
                self._ended(message.ref, tuple(map(mark_of, request.request.pages)), message.pgid, message.lsn)
            case StatReply():
                self._ended(message.ref, (), n=message.page_count)
            case RequestFailed():
                self._failed(message.ref, message.error)

    def _begin(self) -> None:
        while self._left and len(self._open) < self._most_open:
            self._left -= 1
            request = self._chooser.next()
            recorder, kind, pgid, n, _, durability = request
            ref, me = new_ref(), self.actor_ref
            started = recorder.moment()
            opened = self._open[ref] = _Open(request, started)
            opened.slow = self._chooser.random.random() < 0.2
            message: Any
            if kind == "read":
                message = DataRead(ref, me, pgid, n, self._chooser.random.choice((None, 1, 3)))
            elif kind == "write":
                message = DataWrite(ref, me, pgid, n, durability)
            elif kind == "append":
                message = DataAppend(ref, me, n, durability)
            else:
                message = Stat(ref, me)
            recorder.file.server.tell(message)
        if not self._left and not self._open:
            self._done(None)
            self.stop()

    def _write_on(self, ref: int, opened: _Open) -> None:
        _, kind, pgid, n, pages, _ = opened.request
        while opened.sent < n and opened.credit:
            first = opened.sent
            opened.sent = min(first + opened.block, n)
            opened.credit -= 1
            place = pgid + first if kind == "write" else None
            opened.stream.tell(DataPages(ref, opened.stream, place, tuple(pages[first : opened.sent])))
            if opened.sent == n:
                opened.stream.tell(StreamEnd(ref, n))

    def _ended(self, ref: int, marks: tuple[bytes, ...], pgid: int = -1, lsn: int = 0, n: int = 0) -> None:
        opened = self._open.pop(ref)
        request = opened.request
        recorder = request.recorder
        recorder.operations.append(
            Operation(
                request.kind,
                pgid if lsn else request.pgid,
                n or request.n,
                marks,
                opened.started,
                recorder.moment(),
                lsn,
                f"actor-{self._chooser.client}",
            )
        )
        self._begin()

    def _failed(self, ref: int, error: PfsError) -> None:
        opened = self._open.pop(ref)
        recorder, _, pgid, n, _, _ = opened.request
        if isinstance(error, OutOfRange):
            who = f"actor-{self._chooser.client}"
            recorder.operations.append(Operation("refused", pgid, n, (), opened.started, recorder.moment(), 0, who))
        elif isinstance(error, _EXPECTED):
            recorder.excused += 1
        else:
            self._left = 0
            self._done(error)
        self._begin()


# ------------------------------------------------------------------------------------------ a recording


class Recording(NamedTuple):
    """What the clients of a run saw."""

    seed: int
    recorders: list[Recorder]
    initial: list[list[bytes]]
    """The marks of each file's first pages."""
    stats: dict[str, Any]

    @property
    def operations(self) -> int:
        return sum(len(recorder.operations) for recorder in self.recorders)

    def violations(self) -> list[str]:
        """What contradicts linearizability, with the command that makes such a run again."""
        found = [
            f"{recorder.file.name}: {violation}"
            for recorder, marks in zip(self.recorders, self.initial, strict=True)
            for violation in check_by_lsn(recorder.operations, marks)
        ]
        return [*found, *([replay(self.seed, self.operations)] if found else [])]


def replay(seed: int, operations: int) -> str:
    """The command for a run of this seed."""
    return f"replay: python -m pfs.testing.recorded_clients DIRECTORY --seed {seed} --operations {operations}"


def small_options(random: Random) -> SystemOptions:
    """Pools and limits so small that everything that they lead to happens."""
    return SystemOptions(
        buffer_bytes=random.choice((0, 40, 200)) * (PAGE_SIZE + 200),
        descriptors=random.choice((3, 50)),
        segment_bytes=256 * PAGE_SIZE,
        dirty_bytes=random.choice((16, 400)) * PAGE_SIZE,
        wal=WalOptions(
            segment_bytes=256 << 10,
            most_bytes=8 << 20,
            checkpoint_bytes=1 << 20,
            checkpoint_seconds=random.choice((0.05, 300.0)),
            batch_requests=random.choice((4, 256)),
            compress=random.random() < 0.3,
            commit_delay=random.choice((0.0, 0.005)),
        ),
        server=ServerOptions(
            chunk=random.choice((1, 4)),
            block=random.choice((1, 2)),
            credits=random.choice((1, 3)),
            version_bytes=1 << 20,
        ),
    )


def record(
    directory: str | Path,
    seed: int,
    operations: int,
    *,
    files: int = 2,
    threads: int = 4,
    actors: int = 12,
    options: SystemOptions | None = None,
    timeout: float = 600.0,
) -> Recording:
    """Have threads and actors make about so many requests, and return what they saw.

    Raises what a request failed with that must not fail; `TimeoutError` if the actors do not end.
    """
    random = Random(f"recorded {seed}")
    ends: SimpleQueue[BaseException | None] = SimpleQueue()
    with System(directory, options or small_options(random)) as system:
        recorders, initial = [], []
        for number in range(files):
            file = system.open(f"file-{number}", page_size=PAGE_SIZE)
            pages = [make_page(PAGE_SIZE, number, 0, 0, index) for index in range(HOT_PAGES + 2 * MOST_PAGES)]
            file.append(pages)
            initial.append(list(map(mark_of, pages)))
            recorders.append(Recorder(number, file))
        share = operations // (threads + actors) + 1
        choosers = [Chooser(n, recorders, Random(f"{n} of {seed}")) for n in range(1, threads + actors + 1)]

        def run(chooser: Chooser) -> None:
            try:
                thread_body(chooser, share)
            except BaseException as error:
                ends.put(error)
            else:
                ends.put(None)

        running = [threading.Thread(target=run, args=(chooser,)) for chooser in choosers[:threads]]
        for thread in running:
            thread.start()
        for chooser in choosers[threads:]:
            system.start(RecordedActor, chooser, share, chooser.random.randint(1, 4), ends.put)
        errors = [ends.get(timeout=timeout) for _ in choosers]
        for thread in running:
            thread.join()
        stats = system.stats()
    for error in filter(None, errors):
        raise error
    return Recording(seed, recorders, initial, stats)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a history is not linearizable."""
    parser = argparse.ArgumentParser(
        prog="python -m pfs.testing.recorded_clients", description="Record requests of many clients, and judge them."
    )
    parser.add_argument("directory", type=Path, help="a directory for the page files; each seed gets one of its own")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--operations", type=int, default=20_000, help="how many requests for each seed")
    given = parser.parse_args(arguments)
    broken = 0
    for seed in range(given.seed, given.seed + given.seeds):
        recording = record(given.directory / str(seed), seed, given.operations)
        violations = recording.violations()
        broken += bool(violations)
        excused = sum(recorder.excused for recorder in recording.recorders)
        print(f"seed={seed}: {recording.operations} operations, {excused} excused, {len(violations)} violations")
        print(*violations[-10:], sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
