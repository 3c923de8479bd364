"""The clients of a simulation: actors that speak the protocol, at random, well and badly; and a plain thread's calls.

A `RandomClient` has some requests open at once.  It reads, writes, appends, truncates, syncs, stops and starts page
files; it takes its data promptly, slowly, or not at all; it gives up, lies, and dies half-way.  All that it does is
chosen with its own random source, and all that it sends is told to the `History` first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import Any, NamedTuple

import msgspec
import pykka

from pfs.actors import Actor, Address
from pfs.errors import PfsError, SystemFailed, SystemStopped, Timeout
from pfs.page_file import PageFile
from pfs.protocol import (
    Cancel,
    DataAppend,
    DataPages,
    DataRead,
    DataWrite,
    Empty,
    Start,
    Stat,
    Stop,
    StreamEnd,
    StreamReady,
    Sync,
    Truncate,
)
from pfs.testing.history import History, Line, Request, make_page

MOST_PAGES = 12
"""The most pages of most requests."""


class Begin(msgspec.Struct, frozen=True):
    """A client to itself: make a request."""


class Later(msgspec.Struct, frozen=True):
    """A client to itself: go on with what was put off."""

    go_on: Callable[[], None]


class Finish(msgspec.Struct, frozen=True):
    """The simulation to a client: make no new requests, and end those that are open."""


class Habits(NamedTuple):
    """What a client is like: how many requests it has open, and how probable each vice is."""

    most_open: int
    slow: float
    withhold: float
    cancel: float
    lie: float
    die: float


class World:
    """What the clients share: the page files, the history, and the numbers of requests and pages.

    `refs`: where a client's numbers for its requests come from.
    """

    def __init__(
        self, history: History, files: Sequence[PageFile], page_size: int, staging_pages: int, credits: int
    ) -> None:
        self.history = history
        self.files = list(files)
        self.page_size = page_size
        self.staging_pages = staging_pages
        self.credits = credits
        self.lines: list[Line] = []
        self.refs = count(-1, -1)  # below 0, so that they are never those of plain threads' calls
        self.writes = count(1)
        self.finishing = False

    def new_pages(self, file: int, writer: int, n: int) -> list[bytes]:
        """Pages that nobody has written before."""
        number = next(self.writes)
        return [make_page(self.page_size, file, writer, number, index) for index in range(n)]


class _Writing:
    """A write's or append's sending, once it is admitted."""

    def __init__(self, ready: StreamReady) -> None:
        self.stream = ready.stream
        self.block = ready.block
        self.credit = ready.credits
        self.next = 0
        self.ended = False


class RandomClient(Actor):
    """One client (see the module)."""

    def __init__(self, number: int, line: Line, world: World, habits: Habits, random: Random) -> None:
        super().__init__()
        self._number = number
        self._line = line
        self._world = world
        self._history = world.history
        self._habits = habits
        self._random = random
        self._open: dict[int, Request] = {}
        self._writing: dict[int, _Writing] = {}
        self._withheld: list[tuple[Any, int]] = []
        self._pending_begin = False

    def on_receive(self, message: Any) -> None:
        match message:
            case Begin():
                self._pending_begin = False
                self._begin()
            case Later(go_on):
                go_on()
            case Finish():
                self._finish()
            case DataPages():
                self._consume(message)
            case StreamReady():
                self._start_writing(message)
            case Empty(ref, n):
                writing = self._writing.get(ref)
                if writing is not None:
                    writing.credit += n
                    self._write_on(ref)
            case StreamEnd():
                pass
            case _:
                self._ended(message.ref)
        self._vices(getattr(message, "ref", 0))
        if not self._world.finishing and not self._pending_begin and len(self._open) < self._habits.most_open:
            self._pending_begin = True
            self.send_after(self._random.choice((0.0, 0.0, 1e-4, 1e-2)), Begin())

    def _chance(self, odds: float) -> bool:
        return self._random.random() < odds

    def _tell(self, address: Address, message: Any) -> None:
        try:
            address.tell(message)
        except pykka.ActorDeadError:
            pass

    def _later(self, go_on: Callable[[], None]) -> None:
        self.send_after(self._random.choice((1e-4, 1e-2, 0.3)), Later(go_on))

    # -- making requests

    def _begin(self) -> None:
        world, random = self._world, self._random
        if world.finishing or len(self._open) >= self._habits.most_open:
            return
        number = random.randrange(len(world.files))
        file = world.files[number]
        count = file.page_count
        kinds = ("read", "write", "append", "control") if count else ("append",)
        kind = random.choices(kinds, (10, 6, 4, 1)[: len(kinds)])[0]
        n = random.randint(1, MOST_PAGES)
        ref, client = next(world.refs), self._line
        pages: list[bytes] = []
        message: Any
        if kind == "append":
            if self._chance(0.02):
                n = world.staging_pages + 1
            pages = world.new_pages(number, self._number, n)
            message = DataAppend(ref, client, n, random.choice(("wal", "wal", "memory")))
        elif kind == "control":
            self._control(file, ref, count)
            return
        else:
            pgid = random.randrange(count)
            n = min(n, count - pgid)
            if self._chance(0.05):
                n = count - pgid + random.randint(0, 1)
            if kind == "write":
                n = min(n, world.staging_pages)
                pages = world.new_pages(number, self._number, n)
                message = DataWrite(ref, client, pgid, n, random.choice(("wal", "wal", "memory")))
            else:
                to = random.choice(world.lines) if self._chance(0.1) else None
                message = DataRead(ref, client, pgid, n, random.choice((None, None, 1, 2, 5)), to)
        self._send(file, Request(file.name, client, message, pages))

    def _send(self, file: PageFile, request: Request) -> None:
        message = request.message
        if isinstance(message, (DataWrite, DataAppend)) and message.n > self._world.staging_pages:
            request.excuses.add("RequestTooLarge")
        if self._chance(self._habits.lie):
            request.manner = self._random.choice(LIES[type(message)])
            request.excuses.update(("ProtocolError", "InvalidRequest", "WrongPageLength", "IdleTooLong"))
        elif self._chance(self._habits.withhold):
            request.manner = "withhold"
            request.excuses.add("IdleTooLong")
        elif self._chance(self._habits.slow):
            request.manner = "slow"
            request.excuses.add("IdleTooLong")
        self._history.send(request)
        self._open[request.ref] = request
        if request.manner == "twice":
            request.owed += 1
            self._tell(file.server, message)
        self._tell(file.server, message)
        if request.manner == "early":
            self._tell_stream(request)

    def _tell_stream(self, request: Request) -> None:
        """Send data before it is asked for, on a stream that another request to the same server has made known."""
        for ref, writing in self._writing.items():
            if self._open[ref].file == request.file:
                self._tell(writing.stream, DataPages(request.ref, writing.stream, None, tuple(request.pages[:1])))
                return

    def _control(self, file: PageFile, ref: int, count: int) -> None:
        kind: Any = self._random.choice((Truncate, Sync, Stat, Stop))
        message: Any
        if kind is Truncate:
            message = Truncate(ref, self._line, self._random.randint(count // 2, count + 1))
        else:
            message = kind(ref=ref, client=self._line)
        self._send(file, Request(file.name, self._line, message))
        if kind is Stop:
            start = Start(next(self._world.refs), self._line)
            self._send(file, Request(file.name, self._line, start))

    # -- the ends of requests

    def _ended(self, ref: int) -> None:
        request = self._open.get(ref)
        if request is not None and request.done:
            del self._open[ref]
            self._writing.pop(ref, None)

    def _finish(self) -> None:
        for stream, ref in self._withheld:
            self._give_back(stream, ref)
        self._withheld.clear()
        for request in list(self._open.values()):
            if request.manner.startswith("forged"):  # it has cut itself off, and only giving up ends that
                self._give_up(request)

    def _give_up(self, request: Request) -> None:
        request.excuses.add("Cancelled")
        file = next(each for each in self._world.files if each.name == request.file)
        self._tell(file.server, Cancel(request.ref, self._line))

    def _vices(self, ref: int) -> None:
        request = self._open.get(ref)
        if request is not None and self._chance(self._habits.cancel):
            self._give_up(request)
        if not self._world.finishing and self._chance(self._habits.die):
            for each in self._open.values():
                each.manner += ", died"
            if self._chance(0.5):
                self.stop()
            else:
                self._actor_ref.kill()

    # -- reading

    def _consume(self, message: DataPages) -> None:
        """A data message, of this client's request or of another's who had it sent here."""
        request = self._history.requests[message.ref]
        stream, ref = message.stream, message.ref
        match request.manner:
            case "slow":
                self._later(lambda: self._give_back(stream, ref))
            case "withhold" if not self._world.finishing:
                self._withheld.append((stream, ref))
            case "too much credit":
                self._tell(stream, Empty(ref, self._world.credits + 1))
            case "forged end":
                self._tell(stream, StreamEnd(ref, request.message.n))
            case "forged data":
                self._tell(stream, DataPages(ref, stream, message.pgid, message.pages))
                self._give_back(stream, ref)
            case "nonsense credit":
                self._tell(stream, Empty(ref, self._random.choice((0, -1, True, "1"))))  # type: ignore[arg-type]
            case _:
                self._give_back(stream, ref)

    def _give_back(self, stream: Any, ref: int) -> None:
        self._history.credit(ref)
        self._tell(stream, Empty(ref))

    # -- writing

    def _start_writing(self, message: StreamReady) -> None:
        request = self._open.get(message.ref)
        if request is None:
            return
        self._writing[message.ref] = _Writing(message)
        match request.manner:
            case "withhold":
                pass  # sends nothing until its room lapses
            case "slow":
                self._later(lambda: self._write_on(message.ref))
            case "none at all":
                self._tell(message.stream, StreamEnd(message.ref, len(request.pages)))
            case _:
                self._write_on(message.ref)

    def _write_on(self, ref: int) -> None:
        request, writing = self._open.get(ref), self._writing.get(ref)
        if request is None or writing is None or writing.ended:
            return
        pages, block, manner = request.pages, writing.block, request.manner
        if manner == "too many":
            pages = [*pages, pages[-1]]
        elif manner == "too few":
            pages = pages[:-1]
        while writing.next < len(pages) and (writing.credit > 0 or manner == "no credit"):
            if manner == "big blocks":
                block = writing.block + 1
            self._send_block(request, writing, pages[writing.next : writing.next + block])
            if manner == "slow" and writing.next < len(pages):
                if writing.credit:
                    self._later(lambda: self._write_on(ref))
                return
        if writing.next >= len(pages):
            writing.ended = True
            n = len(pages) + (1 if manner == "wrong count" else 0)
            self._tell(writing.stream, StreamEnd(ref, n if manner != "too few" else self._random.choice((n, n + 1))))
            if manner == "after the end":
                self._send_block(request, writing, pages[:1])
                self._tell(writing.stream, StreamEnd(ref, n))

    def _send_block(self, request: Request, writing: _Writing, pages: list[bytes]) -> None:
        message = request.message
        pgid = message.pgid + writing.next if isinstance(message, DataWrite) else None
        sent: Any = tuple(pages)
        match request.manner:
            case "wrong pgid":
                pgid = 1 if pgid is None else pgid + 1
            case "wrong length":
                sent = (pages[0] + b"x", *pages[1:])
            case "no bytes":
                sent = (None, *pages[1:])
        writing.next += len(pages)
        writing.credit -= 1
        self._tell(writing.stream, DataPages(request.ref, writing.stream, pgid, sent))


_WRITE_LIES = (
    "too many",
    "too few",
    "none at all",
    "wrong count",
    "no credit",
    "wrong pgid",
    "wrong length",
    "no bytes",
    "big blocks",
    "after the end",
    "early",
    "twice",
)
LIES: dict[type[Any], tuple[str, ...]] = {
    DataRead: ("too much credit", "nonsense credit", "forged end", "forged data", "twice"),
    DataWrite: _WRITE_LIES,
    DataAppend: _WRITE_LIES,
    Truncate: ("",),
    Sync: ("",),
    Stat: ("",),
    Stop: ("",),
    Start: ("",),
}
"""What clients do that they must not, by the request in which they do it."""


def thread_process(number: int, world: World, random: Random, open_ones: Callable[[], bool]) -> Callable[[], None]:
    """What a plain thread does with `PageFile`, for `SimulatedScheduler.spawn`; it ends when `open_ones()` is false."""

    def body() -> None:
        while open_ones():
            index = random.randrange(len(world.files))
            file = world.files[index]
            timeout = random.choice((None, None, 0.05))
            try:
                _call(file, index, timeout)
            except (SystemFailed, SystemStopped):
                return
            except (PfsError, Timeout):
                pass  # the history knows whether it was right

    def _call(file: PageFile, index: int, timeout: float | None) -> None:
        pages = file.page_count
        pgid = random.randrange(pages + 1)
        n = random.randint(1, MOST_PAGES)
        match random.choice(("read", "read", "stream", "write", "append", "sync", "stat")):
            case "read":
                file.read(pgid, n, timeout=timeout)
            case "stream":
                taken = random.randint(1, MOST_PAGES)
                for number_, _ in enumerate(file.stream(pgid, n, timeout=timeout)):
                    if number_ > taken:
                        break
            case "write":
                file.write(pgid, world.new_pages(index, number, n), durability="wal", timeout=timeout)
            case "append":
                first = file.append(world.new_pages(index, number, n), timeout=timeout)
                if first + n > file.page_count:
                    world.history.events["appended and truncated"] += 1
            case "sync":
                file.sync(timeout=timeout)
            case "stat":
                file.stat(timeout=timeout)

    return body
