"""A page file server in a whole `System` under the simulated scheduler, on a simulated disk.

`Client` is an actor that speaks the protocol and keeps all it was told.  `world.settle()` takes steps until nothing but
timers is left to happen, so tests say what was done and look at what came of it.  `world.hold("sync")` keeps the log
device inside its next sync until `world.let_go()`; `"read"`, `"write"` and `"truncate"` the workers inside calls of the
data file.  `world.durable()` is what a crash at this moment leaves: a new system recovers from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

from pfs.actors import Actor
from pfs.actors.checkpointer import CheckpointMade, MakeCheckpoint
from pfs.actors.requests import ServerOptions
from pfs.cache.page_table import PAGE_OVERHEAD
from pfs.errors import PfsError
from pfs.protocol import (
    Cancel,
    DataAppend,
    DataPages,
    DataRead,
    DataReadEnd,
    DataWrite,
    DataWriteEnd,
    Done,
    Empty,
    RequestFailed,
    Start,
    Stat,
    StatReply,
    Stop,
    StreamEnd,
    StreamReady,
    Sync,
    Truncate,
)
from pfs.system import System, SystemOptions
from pfs.testing.disk import CrashPolicy
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.scheduler import SimulatedScheduler
from pfs.wal.shared_log import WalOptions

PAGE_SIZE = 512
NAME = "triples"
PATH = "base/5/16384"
NEVER = 1e12
ENDS = (DataReadEnd, DataWriteEnd, RequestFailed, Done, StatReply, CheckpointMade)

SMALL_LOG = WalOptions(segment_bytes=64 << 10, most_bytes=2 << 20, checkpoint_bytes=512 << 10, checkpoint_seconds=NEVER)
SMALL = ServerOptions(chunk=4, block=2, credits=3, idle_seconds=NEVER, read_idle_seconds=NEVER)


def page(tag: object) -> bytes:
    """A page that says what it is."""
    return str(tag).encode().ljust(PAGE_SIZE, b".")


def tag(data: bytes) -> str:
    """What a page says."""
    assert len(data) == PAGE_SIZE
    return data.rstrip(b".").decode()


def tags(pages: Sequence[bytes]) -> list[str]:
    return [tag(each) for each in pages]


def start(
    disk: SimulatedFileSystem, scheduler: SimulatedScheduler, options: SystemOptions, kind: type[System] = System
) -> System:
    """A system on a disk that was of another scheduler before."""
    disk.on_operation = scheduler.file_call
    disk.make_condition = scheduler.condition
    return kind(disk, options, runtime=scheduler)


def recovered(image: SimulatedFileSystem, options: SystemOptions | None = None) -> list[str]:
    """The tags of the pages that a system finds that is started on a disk."""
    with start(image, SimulatedScheduler(1), options or SystemOptions(wal=SMALL_LOG)) as system:
        file = system.open(NAME, page_size=PAGE_SIZE)
        return tags(file.read(0, file.page_count)) if file.page_count else []


class _ObservedSystem(System):
    """A system that notes its panics."""

    panics: list[BaseException]

    def panic(self, cause: BaseException) -> None:
        self.panics.append(cause)
        super().panic(cause)


class World:
    """A system with one page file and its server (see the module).  The file begins with pages "0", "1", ..."""

    def __init__(
        self,
        pages: int = 0,
        options: ServerOptions = SMALL,
        *,
        seed: int = 1,
        pool_pages: int = 1000,
        page_cache: Any = "cold",
        version_bytes: int | None = None,
        wal: WalOptions = SMALL_LOG,
        dirty_bytes: int = 32 << 20,
        segment_bytes: int = 1 << 30,
    ) -> None:
        self.held: set[str] = set()
        self.calls: list[str] = []
        self.served: list[tuple[Any, int, int]] = []
        """(client's ref, request's ref, pages) of each chunk."""
        self.options = options
        if version_bytes is not None:
            self.options = msgspec.structs.replace(options, version_bytes=version_bytes)
        self.system_options = SystemOptions(
            buffer_bytes=pool_pages * (PAGE_SIZE + PAGE_OVERHEAD),
            dirty_bytes=dirty_bytes,
            segment_bytes=segment_bytes,
            server=self.options,
            wal=wal,
            call_timeout=NEVER,
        )
        self.disk = SimulatedFileSystem(page_cache=page_cache)
        if pages:
            log = msgspec.structs.replace(wal, most_bytes=SMALL_LOG.most_bytes)
            roomy = msgspec.structs.replace(self.system_options, server=ServerOptions(), wal=log)
            with start(self.disk, SimulatedScheduler(seed), roomy) as system:
                file = system.open(NAME, page_size=PAGE_SIZE)
                for first in range(0, pages, 500):
                    file.append([page(number) for number in range(first, min(first + 500, pages))])
        self.scheduler = SimulatedScheduler(seed)
        self.system: Any = start(self.disk, self.scheduler, self.system_options, _ObservedSystem)
        self.panics: list[BaseException] = []
        self.system.panics = self.panics
        self.system._observer = self._observe
        self.page_file = self.system.open(NAME, page_size=PAGE_SIZE)
        self.server: Any = self.page_file.server
        self.storage = self.system._storage
        self.state = self.page_file._state
        self.log = self.storage.log
        self.pool = self.storage.pool
        self.readers = self.storage._blocking[:2]
        self.device = self.storage._blocking[-1]
        self.file: Any = self.storage.open_files[self.state.file_id]
        for call in ("read", "write", "truncate", "sidecar_blocks"):
            self._hold_up(self.file, call, call)
        self._hold_up(self.storage.started.files, "sync", "sync")
        self._hold_up(self.storage.started.files, "prepare", "prepare")
        self._refs = itertools.count(1)

    def _hold_up(self, owner: Any, method: str, call: str) -> None:
        really = getattr(owner, method)

        def held_up(*arguments: Any) -> Any:
            self.calls.append(call)
            if call in self.held:
                held = self.held
                self.scheduler.wait_until(
                    lambda: call not in held, lambda: "what is held by the test" if call in held else "its turn"
                )
            return really(*arguments)

        setattr(owner, method, held_up)

    def _observe(self, turn: int, client: Any, ref: int, pages: int) -> None:
        self.served.append((client, ref, pages))

    def next_ref(self) -> int:
        return next(self._refs)

    # -- steps

    def settle(self) -> None:
        """Take steps until nothing can happen any more except timers and what is held.

        A batch of the log that waits a moment for others is waited for.
        """
        while self._busy():
            self.scheduler.step()

    def _busy(self) -> bool:
        scheduler = self.scheduler
        if scheduler.inline_queue or scheduler.own_queue:
            return True
        wal = self.storage.wal._actor
        if wal is not None and wal.gathers and not self.panics:
            return True
        waits = [line for line in scheduler.who_waits() if not line.endswith(" messages")]
        return any("held by the test" not in line for line in waits)

    def until(self, happened: Callable[[], bool]) -> None:
        """Take steps until something is true."""
        self.scheduler.run(until=happened)

    def pass_time(self, seconds: float) -> None:
        """Take steps until so many seconds have passed."""
        until = self.scheduler.now() + seconds
        self.scheduler.send_after(seconds, Client(self).ref, None)
        self.scheduler.run(until=lambda: self.scheduler.now() >= until)
        self.settle()

    def hold(self, *calls: str) -> None:
        """From now on the workers stop at the begin of such file calls."""
        self.held.update(calls)

    def let_go(self) -> None:
        self.held.clear()
        self.settle()

    def stop(self) -> None:
        self.held.clear()
        self.disk.faults.clear()
        self.disk.capacity = None
        self.system.stop()

    def checkpoint(self) -> None:
        """Have everything written to the data files; no effect after a panic."""
        client = Client(self)
        ref = self.next_ref()
        self.storage.checkpointer.tell(MakeCheckpoint(client.ref, ref))
        self.settle()
        assert type(client.end(ref)) is CheckpointMade

    # -- looking

    def on_disk(self) -> list[str]:
        """The tags of the pages in the data file on the simulated disk, after a checkpoint."""
        if not self.panics:
            self.checkpoint()
        return self.data_file()

    def data_file(self) -> list[str]:
        """The tags of the pages in the data file as it is."""
        data = self.disk.crash_image("all", Random(0)).durable_files.get(PATH, b"")
        return [tag(data[at : at + PAGE_SIZE]) for at in range(0, len(data), PAGE_SIZE)]

    def durable(self, policy: CrashPolicy = "none") -> list[str]:
        """The tags of the pages that are there after a crash at this moment and a recovery."""
        image = self.disk.crash_image(policy, Random(1))
        image.capacity = None
        return recovered(image, self.system_options)

    def stat(self) -> StatReply:
        client = Client(self)
        ref = client.ask_for(Stat)
        self.settle()
        reply = client.end(ref)
        assert isinstance(reply, StatReply)
        return reply

    def serves_a_good_client(self) -> None:
        """Whether the server still does all that it is there for, for somebody new."""
        good = Client(self)
        appended = good.append([page("good")] * 3)
        self.settle()
        first = good.written(appended).pgid
        written = good.write(first, [page("better")])
        self.settle()
        good.written(written)
        read = good.read(first, 3)
        self.settle()
        assert tags(good.whole(read)) == ["better", "good", "good"]
        assert not self.panics


class _ClientActor(Actor):
    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def on_receive(self, message: Any) -> None:
        self._client.receive(message)


class Client:
    """An actor client: keeps its messages, gives credit back at once if it is to, and sends what it is to write."""

    def __init__(self, world: World, *, credit: bool = True) -> None:
        self.world = world
        self.credit = credit
        self.messages: list[Any] = []
        self.owed: dict[int, list[Any]] = {}
        """Streams of the data messages for which no credit was given back, by request."""
        self.most_owed = 0
        self._sending: dict[int, tuple[int | None, list[bytes]]] = {}
        self._sent: dict[int, int] = {}
        self._streams: dict[int, Any] = {}
        self._blocks: dict[int, int] = {}
        self.ref: Any = world.scheduler.start(_ClientActor, self)

    # -- asking

    def ask_for(self, message_class: Any, *arguments: Any, ref: int | None = None, **fields: Any) -> int:
        """Send a request to the server; returns its ref."""
        number = self.world.next_ref() if ref is None else ref
        if message_class in (Start, Stop, Sync, Stat, Cancel, Truncate):
            fields = {**fields, **dict(zip(("n",), arguments, strict=False))}
            message = message_class(ref=number, client=self.ref, **fields)
        else:
            message = message_class(number, self.ref, *arguments, **fields)
        self.world.server.tell(message)
        return number

    def read(self, pgid: Any, n: Any = 1, **fields: Any) -> int:
        return self.ask_for(DataRead, pgid, n, **fields)

    def write(self, pgid: Any, pages: Sequence[Any], **fields: Any) -> int:
        """Overwrite; the pages are sent when the server is ready."""
        ref = self.ask_for(DataWrite, pgid, len(pages), **fields)
        self._sending[ref] = (pgid, list(pages))
        return ref

    def append(self, pages: Sequence[Any], **fields: Any) -> int:
        ref = self.ask_for(DataAppend, len(pages), **fields)
        self._sending[ref] = (None, list(pages))
        return ref

    def cancel(self, ref: int) -> None:
        self.ask_for(Cancel, ref=ref)

    def die(self) -> None:
        self.ref.kill()

    # -- sending by hand

    def stream(self, ref: int) -> Any:
        """The stream that `StreamReady` named."""
        return next(each.stream for each in self.messages if type(each) is StreamReady and each.ref == ref)

    def send(self, ref: int, pages: Any, pgid: Any = None, stream: Any = None) -> None:
        stream = stream or self.stream(ref)
        stream.tell(DataPages(ref, stream, pgid, pages))

    def send_end(self, ref: int, n: Any) -> None:
        self.stream(ref).tell(StreamEnd(ref, n))

    def give_credit(self, ref: int, n: int = 1) -> None:
        """Give back credit for data messages that were kept."""
        for _ in range(n):
            self.owed[ref].pop().tell(Empty(ref))

    # -- being told

    def receive(self, message: Any) -> None:
        if message is None:
            return
        self.messages.append(message)
        match message:
            case DataPages(ref=ref, stream=stream):
                self.owed.setdefault(ref, []).append(stream)
                self.most_owed = max(self.most_owed, len(self.owed[ref]))
                if self.credit:
                    self.give_credit(ref)
            case StreamReady(ref=ref, stream=stream, credits=credits, block=block) if ref in self._sending:
                self._streams[ref], self._blocks[ref] = stream, block
                self._send_on(ref, credits)
            case Empty(ref=ref, n=n) if ref in self._sending:
                self._send_on(ref, n)
            case _:
                pass

    def _send_on(self, ref: int, credits: int) -> None:
        pgid, pages = self._sending[ref]
        stream, block = self._streams[ref], self._blocks[ref]
        for _ in range(credits):
            at = self._sent.get(ref, 0)
            if at == len(pages):
                return
            part = tuple(pages[at : at + block])
            self._sent[ref] = at + len(part)
            stream.tell(DataPages(ref, stream, None if pgid is None else pgid + at, part))
            if at + len(part) == len(pages):
                stream.tell(StreamEnd(ref, len(pages)))

    # -- looking

    def got(self, ref: int, kind: Any = object) -> list[Any]:
        """The messages of a request."""
        return [each for each in self.messages if each.ref == ref and isinstance(each, kind)]

    def pages(self, ref: int) -> list[bytes]:
        return [each for message in self.got(ref, DataPages) for each in message.pages]

    def end(self, ref: int) -> Any:
        """The one message that ended a request, None if it goes on."""
        ends = self.got(ref, ENDS)
        assert len(ends) <= 1, ends
        return ends[0] if ends else None

    def whole(self, ref: int) -> list[bytes]:
        """The pages of a read that has succeeded."""
        end = self.end(ref)
        assert type(end) is DataReadEnd, end
        pages = self.pages(ref)
        assert len(pages) == end.n
        assert [each.n for each in self.got(ref, StreamEnd)] == [end.n]
        return pages

    def written(self, ref: int) -> DataWriteEnd:
        end = self.end(ref)
        assert type(end) is DataWriteEnd, end
        return end

    def error(self, ref: int) -> PfsError:
        """Why a request failed."""
        end = self.end(ref)
        assert type(end) is RequestFailed, end
        return end.error
