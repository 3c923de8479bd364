"""Carrying out data_write and data_append: reserve, collect, apply, sync, publish, acknowledge.

A write's pages are collected in memory, in room reserved before its first credit.  When they are all there it is
*applied*: written to the data file a chunk a turn, between the chunks of everybody else, while readers go on seeing
the old pages (the images of pages to be overwritten are loaded first and shielded).  Then the file is synced, one sync
for all who wait at that moment, and the write is *published* in one step and acknowledged.

* Writes that overlap are applied one after the other, in the order in which they were complete.
* An append gets its place when it begins to be applied, after all appends before it, and is published after them.
* No space (or no descriptor) while overwriting: the old images are written back, and nothing has changed.  While
  appending: that append and those behind it fail, and the file is cut back to its page count.
* A write or sync that fails otherwise is fatal: what the disk holds is not known any more.
* A truncation waits until nothing is being applied, and nothing is applied beside it.

Until there is a WAL, a crash in the middle of applying leaves part of the new pages in the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from pfs.actors import Address
from pfs.actors.file_worker import SyncBlocks, TruncateBlocks, WriteBlocks
from pfs.actors.read_service import ReadService
from pfs.actors.requests import LARGEST_PGID, Session, WriteRequest, check_number, check_write
from pfs.actors.reservations import Reservations
from pfs.actors.server_core import ServerCore
from pfs.errors import (
    FatalError,
    IdleTooLong,
    NoSpace,
    OutOfRange,
    PfsError,
    ProtocolError,
    RequestError,
    RequestTooLarge,
)
from pfs.protocol import DataAppend, DataPages, DataWrite, DataWriteEnd, Done, Empty, StreamEnd, StreamReady, Sync
from pfs.protocol import Truncate as TruncateMessage
from pfs.streams.stream import CloseTransfer, OpenTransfer


class Applied(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: a chunk of a write is on its way to the file."""

    request: WriteRequest
    n: int


class Restored(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: the old images of a failed write are on their way back."""

    request: WriteRequest


class Synced(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: a sync that covers these writes and `Sync` messages."""

    waiting: tuple[WriteRequest | Sync, ...]


class Cut(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: the file is being cut, for a `Truncate`, or (None) because appends failed."""

    message: TruncateMessage | None


WriteToken = Applied | Restored | Synced | Cut


class WriteService:
    """The writes and appends of one page file."""

    def __init__(self, core: ServerCore, reads: ReadService, workers: Sequence[Address]) -> None:
        self._core = core
        self._reads = reads
        self._worker = workers[core.state.file_id % len(workers)]
        self._room: Reservations[Session, WriteRequest] = Reservations(
            core.options.staging_bytes, core.options.session_staging_bytes
        )
        self._collected: deque[WriteRequest] = deque()
        """Complete writes that wait for others, in the order of their completion."""
        self._applying: dict[WriteRequest, None] = {}
        self._appends: deque[WriteRequest] = deque()
        """The appends among `_applying`, in the order of their places."""
        self._tail = core.state.page_count
        """Where the next append begins."""
        self._sync_waiting: list[WriteRequest | Sync] = []
        self._syncing: tuple[WriteRequest | Sync, ...] = ()
        """Those that the sync under way is for."""
        self._truncations: deque[TruncateMessage] = deque()
        self._cuts: deque[TruncateMessage | None] = deque()
        """The cuts of the file under way."""
        self._doomed = 0
        """The failed appends that have not ended yet; when they have, the file is cut."""
        self._starting = False

    # -- admission

    def admit(self, session: Session, message: DataWrite | DataAppend) -> None:
        """Take up a write or append; raises what is wrong with it."""
        state = self._core.state
        check_write(message)
        if isinstance(message, DataWrite):
            state.check_range(message.pgid, message.n)
        elif state.page_count + message.n > LARGEST_PGID + 1:
            raise RequestTooLarge(
                f"{state.name!r} has {state.page_count} pages; {message.n} more would pass the limit of "
                f"{LARGEST_PGID + 1} pages for a file"
            )
        request = WriteRequest(session, message)
        request.stream = session.write_stream
        granted = self._room.ask(session, request, message.n * state.page_size)
        session.requests[message.ref] = request
        if granted:
            self._invite(request)

    def _invite(self, request: WriteRequest) -> None:
        core, session = self._core, request.session
        request.state = "collecting"
        request.last_heard = core.now()
        options = core.options
        core.tell(request.stream, OpenTransfer(request.ref, session.client, core.ref, options.credits))
        core.tell(session.client, StreamReady(request.ref, request.stream, options.credits, options.block))

    # -- collecting

    def data(self, request: WriteRequest, message: DataPages) -> None:
        """A writer's data message."""
        if request.state != "collecting":
            return
        core = self._core
        try:
            request.collect(message.pgid, message.pages, core.state.page_size, core.options.block)
        except RequestError as error:
            self.fail(request, error)
            return
        request.last_heard = core.now()
        if len(request.pages) < request.n:
            core.tell(request.stream, Empty(request.ref, 1))

    def end(self, request: WriteRequest, message: StreamEnd) -> None:
        """A writer says that it has sent all its pages."""
        if request.state != "collecting":
            return
        if type(message.n) is not int or message.n != request.n or len(request.pages) != request.n:
            error = ProtocolError(
                f"request {request.ref}: {request.n} pages were announced, {len(request.pages)} came, "
                f"and StreamEnd says {message.n!r}"
            )
            self.fail(request, error)
            return
        request.state = "collected"
        self._collected.append(request)
        self._start_collected()

    def check_idle(self, requests: Sequence[WriteRequest]) -> None:
        """Fail the writers among these that have sent nothing for too long."""
        limit, now = self._core.options.idle_seconds, self._core.now()
        for request in requests:
            if request.state == "collecting" and now - request.last_heard >= limit:
                error = IdleTooLong(
                    f"request {request.ref}: {len(request.pages)} of {request.n} pages came, and then nothing for "
                    f"{limit:g} seconds"
                )
                self.fail(request, error)

    # -- applying

    def _start_collected(self) -> None:
        """Begin to apply what nothing stands in the way of."""
        if self._truncations:
            self._truncate_when_quiet()
            return
        if self._starting:
            return  # one that could not be started has ended, and the loop below goes on
        self._starting = True
        held: list[WriteRequest] = []
        while self._collected and not self._cutting:
            request = self._collected.popleft()
            if request.state != "collected":
                continue
            if not request.append and any(map(request.overlaps, chain(self._applying, held))):
                held.append(request)
                continue
            self._start(request)
        self._collected.extendleft(reversed(held))
        self._starting = False

    def _start(self, request: WriteRequest) -> None:
        state = self._core.state
        if request.append:
            request.pgid = self._tail
            self._tail += request.n
            self._appends.append(request)
        else:
            try:
                state.check_range(request.pgid, request.n)  # the file may have been truncated meanwhile
            except OutOfRange as error:
                self.fail(request, error)
                return
        request.state = "applying"
        self._applying[request] = None
        self._core.ready(request)

    def serve(self, request: WriteRequest) -> int:
        """Apply one chunk; returns how many pages that were (0: it has to wait, or has failed)."""
        core, state = self._core, self._core.state
        if request.error is not None:
            self._applied_or_doomed(request)
            return 0
        first = request.pgid + request.applied
        n = min(core.options.chunk, request.n - request.applied)
        if not request.append:
            images: list[bytes] | list[bytes | None]
            if request.loaded is not None:
                images, request.loaded = request.loaded, None
            else:
                images = state.resolve(state.version, first, n)
                if None in images:
                    core.load(request, first, images)
                    return 0
            core.settle(state.shield(first, images))  # type: ignore[arg-type]
        data = tuple(request.pages[request.applied : request.applied + n])
        core.counters["chunks"] += 1
        core.tell_worker(self._worker, WriteBlocks(core.file, first, data, core.ref, Applied(request, n)))
        return n

    def loaded(self, request: WriteRequest, pages: list[bytes], error: PfsError | None) -> None:
        """The old images of the next chunk have come from disk, or not."""
        if isinstance(error, FatalError):
            self._core.panic(error)
        elif error is not None:
            self._give_up(request, error)
        else:
            request.loaded = pages
            self._core.ready(request)

    def file_call_ended(self, token: WriteToken, error: PfsError | None) -> None:
        """A worker has answered."""
        if error is not None and not (isinstance(error, RequestError) and isinstance(token, Applied)):
            self._core.panic(error)
            return
        match token:
            case Applied(request, n):
                if request.error is not None:  # an append before this one has failed meanwhile
                    self._applied_or_doomed(request)
                    return
                if error is not None:
                    self._give_up(request, error)
                    return
                request.applied += n
                if request.applied < request.n:
                    self._core.ready(request)
                else:
                    self._applied_or_doomed(request)
            case Restored(request):
                self._core.state.unshield(request.pgid, request.n)
                assert request.error is not None
                self._finish(request, request.error)
            case Synced(waiting):
                self._syncing = ()
                self._core.counters["syncs"] += 1
                for each in waiting:
                    if isinstance(each, Sync):
                        self._core.tell(each.client, Done(each.ref))
                    else:
                        self._publish_in_order(each)
                self._sync()
            case Cut(message):
                self._was_cut(message)

    def _applied_or_doomed(self, request: WriteRequest) -> None:
        """All chunks are written, or an append before this one has failed and so must this one."""
        if request.error is not None:
            self._end_doomed(request)
        elif request.durability == "disk":
            request.state = "written"
            self._sync_waiting.append(request)
            self._sync()
        else:
            self._publish_in_order(request)

    def sync(self, message: Sync) -> None:
        """Make all that was acknowledged durable, then `Done`."""
        self._sync_waiting.append(message)
        self._sync()

    def _sync(self) -> None:
        if self._sync_waiting and not self._syncing:
            self._syncing, self._sync_waiting = tuple(self._sync_waiting), []
            self._core.tell_worker(self._worker, SyncBlocks(self._core.file, self._core.ref, Synced(self._syncing)))

    # -- publishing

    def _publish_in_order(self, request: WriteRequest) -> None:
        if request.state == "ended":
            return  # an append that was doomed while it waited for its sync
        request.state = "durable"
        if not request.append:
            self._publish(request)
        while self._appends and self._appends[0].state == "durable":
            self._publish(self._appends.popleft())

    def _publish(self, request: WriteRequest) -> None:
        core, state = self._core, self._core.state
        outcomes, failed_cuts = state.publish(request.pgid, request.pages)
        core.settle(outcomes)
        core.counters["pages_written"] += request.n
        self._reads.fail_cuts(failed_cuts)
        self._leave(request)
        core.tell(request.session.client, DataWriteEnd(request.ref, request.pgid, request.n, state.version))
        self._start_collected()

    # -- failing

    def fail(self, request: WriteRequest, error: PfsError) -> bool:
        """End a write that is not being applied yet; returns False if it is, and then ends as it ends."""
        if request.state in ("applying", "written", "durable", "ended"):
            return False
        if request.state == "collecting":
            self._core.tell(request.stream, CloseTransfer(request.ref, error))
        self._finish(request, error)
        return True

    def abandon(self, request: WriteRequest, error: PfsError) -> None:
        """The system or the server ends: answer a write in whatever state it is, and do nothing more for it."""
        request.state = "ended"
        request.session.requests.pop(request.ref, None)
        self._core.refuse(request.session.client, request.ref, error)

    def abandon_calls(self, error: PfsError) -> None:
        """The same for the `Sync` and `Truncate` messages that have not been answered."""
        for message in (*self._sync_waiting, *self._syncing, *self._truncations, *self._cuts):
            if isinstance(message, (Sync, TruncateMessage)):
                self._core.refuse(message.client, message.ref, error)
        self._sync_waiting.clear()
        self._syncing = ()
        self._truncations.clear()
        self._cuts.clear()

    def _give_up(self, request: WriteRequest, error: PfsError) -> None:
        """A write that is being applied cannot go on."""
        if request.append:
            position = self._appends.index(request)
            doomed = [each for each in list(self._appends)[position:] if each.error is None]
            self._doomed += len(doomed)
            for each in doomed:
                each.error = NoSpace(f"an append before this one failed: {error}") if each is not request else error
            for each in doomed:
                if each is request or each.state in ("written", "durable"):
                    self._end_doomed(each)
            return
        request.error = error
        n = min(request.applied + self._core.options.chunk, request.n)
        try:
            images = tuple(self._core.state.shielded(request.pgid, n))
        except KeyError:  # the failed chunk was never begun: its images could not be loaded
            n = request.applied
            images = tuple(self._core.state.shielded(request.pgid, n))
        if not images:
            self._finish(request, error)
            return
        message = WriteBlocks(self._core.file, request.pgid, images, self._core.ref, Restored(request))
        self._core.tell_worker(self._worker, message)

    def _end_doomed(self, request: WriteRequest) -> None:
        assert request.error is not None
        self._appends.remove(request)
        self._doomed -= 1
        if not self._doomed:
            self._tail = self._appends[-1].end if self._appends else self._core.state.page_count
            self._cut(self._tail, None)
        self._finish(request, request.error)

    def _finish(self, request: WriteRequest, error: PfsError) -> None:
        self._leave(request)
        self._core.refuse(request.session.client, request.ref, error)
        self._start_collected()

    def _leave(self, request: WriteRequest) -> None:
        request.state = "ended"
        request.pages = []
        request.session.requests.pop(request.ref, None)
        self._applying.pop(request, None)
        self._core.ended(request)
        for granted in self._room.release(request):
            self._invite(granted)

    # -- truncation

    def truncate(self, message: TruncateMessage) -> None:
        """Cut the file when nothing is being applied; raises what is wrong with the message."""
        state = self._core.state
        check_number("n", message.n, 0, LARGEST_PGID + 1)
        if message.n > state.page_count:
            raise OutOfRange(f"{state.name!r} has {state.page_count} pages and cannot be cut to {message.n}")
        self._truncations.append(message)
        self._truncate_when_quiet()

    def _truncate_when_quiet(self) -> None:
        if self._applying or self._cutting or not self._truncations:
            return
        message = self._truncations.popleft()
        n = min(message.n, self._core.state.page_count)
        self._cut(n, message)
        outcomes, failed = self._core.state.truncate(n)
        self._core.settle(outcomes)
        self._reads.fail_cuts(failed)
        self._tail = n

    @property
    def _cutting(self) -> bool:
        return bool(self._cuts or self._doomed)

    def _cut(self, n: int, message: TruncateMessage | None) -> None:
        self._cuts.append(message)
        self._core.tell_worker(self._worker, TruncateBlocks(self._core.file, n, self._core.ref, Cut(message)))

    def _was_cut(self, message: TruncateMessage | None) -> None:
        self._cuts.popleft()
        if message is not None:
            self._core.tell(message.client, Done(message.ref))
        self._start_collected()

    # -- inspection

    @property
    def applying(self) -> int:
        """How many writes are past the point where they can be given up."""
        return len(self._applying) + len(self._truncations) + len(self._cuts)

    def counters(self) -> dict[str, Any]:
        return {
            "writes_waiting": self._room.waiting,
            "staged_bytes": self._room.reserved,
            "writes_applying": len(self._applying),
        }
