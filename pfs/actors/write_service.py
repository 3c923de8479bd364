"""Carrying out data_write and data_append: reserve, collect, log, sync, publish, acknowledge.

A write's pages are collected in memory, in room reserved before its first credit.  When they are all there it is
*logged*: a chunk of page images a turn, between the chunks of everybody else, and at last its COMMIT, which for an
append also says where it begins.  When the log is durable that far the write is *published* in one step and
acknowledged; the data file is written later (`pfs.actors.checkpointer`).  With durability "memory" it is published as
soon as its COMMIT is in the log, and acknowledged without waiting for the log's sync.

* Writes take effect in the order of their COMMITs.  Whole images are logged, so writes that overlap need no order else.
* An append's place is given in the step that inserts its COMMIT, so places are contiguous and in commit order.
* An old image that a read in progress still needs, and that is only on disk, is loaded before the write is published;
  the writes committed behind it wait for it.
* A write begins to be logged when it has its share of the dirty bytes and of the log (`pfs.actors.write_room`); before
  the log is full, credits and invitations are held back.
* No space in the log: the request fails with NoSpace before its COMMIT, and nothing has changed.
* A truncation waits until every write that has begun to be logged is published, and none begins meanwhile.
* A large append is a bulk append (`pfs.actors.bulk_append`), which waits for the same, as it must know where it begins;
  while it is under way no append and no truncation begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from pfs.actors import Address
from pfs.actors.bulk_append import BulkAppend, BulkAppends, BulkSynced, PieceWritten
from pfs.actors.checkpointer import CutFile
from pfs.actors.read_service import ReadService
from pfs.actors.requests import LARGEST_PGID, Session, WriteRequest, check_number, check_write
from pfs.actors.reservations import Reservations
from pfs.actors.server_core import ServerCore
from pfs.actors.wal_server import RoomMade, WalFlush, WalRoom
from pfs.actors.write_room import Share, Waiter, WriteRoom
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
from pfs.wal.bodies import Truncate as TruncateRecord
from pfs.wal.shared_log import SharedLog
from pfs.wal.sidecar_images import SidecarImages

MOST_PENDING = 8 << 20
"""Bytes of log that are not durable yet, above which a write of many chunks waits for the log device."""


class Committed(msgspec.Struct, frozen=True, gc=False):
    """Token: the log is being made durable up to the COMMITs of a turn."""


class OldImage(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: an old image that reads in progress need is on its way from disk."""

    request: WriteRequest
    pgid: int


class Room(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: a write waits for room in the log, or for the device to catch up."""

    request: WriteRequest


class TruncationRoom(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: a truncation waits for room in the log."""

    message: TruncateMessage


class Synced(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: the log is being made durable for a `Sync`."""

    message: Sync


class Truncated(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: a TRUNCATE record is being made durable, or the file is being cut."""

    message: TruncateMessage


_COMMITTED = Committed()


class WriteService:
    """The writes and appends of one page file."""

    def __init__(
        self,
        core: ServerCore,
        reads: ReadService,
        log: SharedLog,
        wal: Address,
        checkpointer: Address,
        limits: WriteRoom,
        writer: Address,
        images: SidecarImages,
    ) -> None:
        self._core = core
        self._reads = reads
        self._log = log
        self._wal = wal
        self._checkpointer = checkpointer
        self._limits = limits
        self._image_cost = log.image_cost(core.state.page_size)
        self._bulk = BulkAppends(core, writer, checkpointer, images, self._start, self._bulk_given_up)
        self._room: Reservations[Session, WriteRequest] = Reservations(
            core.options.staging_bytes, core.options.session_staging_bytes
        )
        self._held_back: dict[WriteRequest, int] = {}
        """Collecting writes, and the credits that they are to get when the log has room; 0: the invitation."""
        self._held: list[WriteRequest] = []
        """Complete writes that wait for a truncation or bulk append."""
        self._logging: dict[WriteRequest, None] = {}
        """Writes that have begun to be logged and are not published."""
        self._publishing: deque[WriteRequest] = deque()
        """Committed writes that are not published, in commit order."""
        self._wanted = 0
        """Where the last COMMIT ends that must be made durable."""
        self._asked = 0
        """What part of that the log has been asked for."""
        self._durable = 0
        """How far the log is known to be durable."""
        self._alone: deque[TruncateMessage | BulkAppend] = deque()
        """Truncations and bulk appends that wait until nothing is being logged."""
        self._truncating: list[TruncateMessage] = []
        """The truncation under way, if there is one."""
        self._syncing: list[Sync] = []

    # -- admission

    def admit(self, session: Session, message: DataWrite | DataAppend) -> None:
        """Take up a write or append; raises what is wrong with it."""
        state = self._core.state
        check_write(message)
        if isinstance(message, DataWrite):
            state.check_range(message.pgid, message.n)
        else:
            self._check_growth(state.page_count, message.n)
        size = message.n * state.page_size
        request = WriteRequest(session, message)
        if isinstance(message, DataAppend) and size >= self._core.options.bulk_bytes:
            request, size = BulkAppend(session, message), self._bulk.room(message.n)
        request.stream = session.write_stream
        granted = self._room.ask(session, request, size)
        session.requests[message.ref] = request
        if granted:
            self._granted(request)

    def _granted(self, request: WriteRequest) -> None:
        """A write has its room."""
        if isinstance(request, BulkAppend):
            self._alone.append(request)
            self._next_alone()
        else:
            self._invite(request)

    def _check_growth(self, page_count: int, n: int) -> None:
        if page_count + n > LARGEST_PGID + 1:
            raise RequestTooLarge(
                f"{self._core.state.name!r} has {page_count} pages; {n} more would pass the limit of "
                f"{LARGEST_PGID + 1} pages for a file"
            )

    def _invite(self, request: WriteRequest) -> None:
        core, session = self._core, request.session
        if not isinstance(request, BulkAppend) and self._holds_back():
            self._held_back[request] = 0
            return
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
            if isinstance(request, BulkAppend):
                self._bulk.data(request, message)
            else:
                request.collect(message.pgid, message.pages, core.state.page_size, core.options.block)
                self._return_credit(request)
        except RequestError as error:
            self.fail(request, error)
            return
        request.last_heard = core.now()

    def _return_credit(self, request: WriteRequest) -> None:
        if request.received == request.n:
            return
        if request in self._held_back or self._holds_back():
            self._held_back[request] = self._held_back.get(request, 0) + 1
        else:
            self._core.tell(request.stream, Empty(request.ref, 1))

    def _holds_back(self) -> bool:
        if not self._limits.holds_back(self._core.ref):
            return False
        self._core.counters["held_back"] += 1
        self._core.dirtied()  # pages written, or a checkpoint, may bring the log down
        return True

    def give_credit(self) -> None:
        """The log has room again: writers that were held back go on."""
        held_back, self._held_back = self._held_back, {}
        for request, credits in held_back.items():
            if not credits:
                self._invite(request)
            elif self._holds_back():
                self._held_back[request] = credits
            else:
                request.last_heard = self._core.now()
                self._core.tell(request.stream, Empty(request.ref, credits))

    def end(self, request: WriteRequest, message: StreamEnd) -> None:
        """A writer says that it has sent all its pages."""
        if request.state != "collecting":
            return
        if type(message.n) is not int or message.n != request.n or request.received != request.n:
            error = ProtocolError(
                f"request {request.ref}: {request.n} pages were announced, {request.received} came, "
                f"and StreamEnd says {message.n!r}"
            )
            self.fail(request, error)
            return
        request.state = "collected"
        if isinstance(request, BulkAppend):
            self._bulk.collected(request)
        elif self._may_start(request):
            self._start(request)
        else:
            self._held.append(request)

    def _may_start(self, request: WriteRequest) -> bool:
        if self._bulk.active is not None:
            return not request.append
        return not (self._alone or self._truncating)

    def check_idle(self, requests: Sequence[WriteRequest]) -> None:
        """Fail the writers among these that have sent nothing for too long."""
        limit, now = self._core.options.idle_seconds, self._core.now()
        for request in requests:
            idle = request.state == "collecting" and request not in self._held_back
            if idle and now - request.last_heard >= limit:
                error = IdleTooLong(
                    f"request {request.ref}: {request.received} of {request.n} pages came, and then nothing for "
                    f"{limit:g} seconds"
                )
                self.fail(request, error)

    # -- logging

    def _start(self, request: WriteRequest) -> None:
        if not request.append:
            try:
                self._core.state.check_range(request.pgid, request.n)  # the file may have been truncated meanwhile
            except OutOfRange as error:
                self.fail(request, error)
                return
        request.state = "logging"
        request.transaction = self._log.next_transaction()
        self._logging[request] = None
        request.share = Share(len(request.published_pages), self._core.state.page_size, self._image_cost)
        if self._limits.ask(request.share, Waiter(self._core.ref, Room(request))):
            self._core.ready(request)
        else:
            self._core.counters["waited_for_room"] += 1
            self._core.dirtied()  # pages written, or a checkpoint, may make room

    def serve(self, request: WriteRequest) -> int:
        """Log one chunk; returns how many pages that were (0: it has to wait)."""
        if isinstance(request, BulkAppend) and request.state != "logging":
            return self._bulk.serve(request)
        core, log, buffer = self._core, self._log, self._log.buffer
        if not log.has_room:
            if log.is_held_up_by(request.transaction):
                self._finish(request, _too_much_for_the_log(request, log))
            else:
                self._wait_for_room(Room(request))
            return 0
        file_id, transaction, share = core.state.file_id, request.transaction, request.share
        assert share is not None
        pages = request.published_pages
        first = request.logged
        end = min(first + core.options.chunk, len(pages))
        try:
            for index in range(first, end):
                buffer.insert_page(transaction, file_id, index, pages[index])
                request.logged = index + 1
                self._limits.logged(share, 1)
            if end == len(pages):
                self._commit(request)
                core.counters["chunks"] += 1
                return end - first
        except NoSpace:  # the chunk is larger than what there was
            self._wait_for_room(Room(request))
            return 0
        except RequestTooLarge as error:
            self._finish(request, error)
            return 0
        core.counters["chunks"] += 1
        if buffer.pending_bytes > MOST_PENDING:
            self._core.tell_worker(self._wal, WalFlush(buffer.inserted - MOST_PENDING // 2, core.ref, Room(request)))
        else:
            core.ready(request)
        return end - first

    def _wait_for_room(self, token: Room | TruncationRoom) -> None:
        self._core.tell_worker(self._wal, WalRoom(self._core.ref, token))
        self._core.dirtied()  # a checkpoint may make room

    def _commit(self, request: WriteRequest) -> None:
        buffer, tail = self._log.buffer, self.tail
        if request.append:
            self._check_growth(tail, request.n)
        pgid = tail if request.append else request.pgid
        page_count = tail + request.n if request.append else tail
        place = buffer.insert_commit(
            request.transaction,
            self._core.state.file_id,
            pgid,
            request.n,
            page_count,
            bulk=isinstance(request, BulkAppend),
        )
        request.pgid, self.tail = pgid, page_count
        request.lsn = place.lsn
        request.first_lsn = buffer.first_lsn(request.transaction)
        request.state = "committed"
        self._publishing.append(request)
        if request.durability == "memory" and not isinstance(request, BulkAppend):
            self._publish_ready()
        else:
            request.commit_end = self._wanted = place.end

    def flush(self) -> None:
        """Have what was committed in this turn made durable: one message for all of it."""
        if self._wanted > self._asked:
            self._asked = self._wanted
            self._core.tell_worker(self._wal, WalFlush(self._wanted, self._core.ref, _COMMITTED))

    def durable(self, lsn: int) -> None:
        """The log is durable up to there."""
        self._durable = lsn
        self._publish_ready()

    def flushed(self, token: Room | TruncationRoom | Synced | Truncated) -> None:
        """The log is durable as far as was asked for, or has the room that was asked for."""
        match token:
            case Room(request):
                if request.state == "logging":
                    self._core.ready(request)
            case Synced(message):
                self._core.counters["syncs"] += 1
                self._syncing.remove(message)
                self._core.tell(message.client, Done(message.ref))
            case TruncationRoom(message):
                self._log_truncation(message)
            case Truncated(message):
                self._truncate_logged(message)

    def refused(self, token: Room | TruncationRoom, error: PfsError) -> None:
        """There is no room in the log, and none can be made."""
        match token:
            case Room(request):
                self._finish(request, error)
            case TruncationRoom(message):
                self._core.refuse(message.client, message.ref, error)
                self._truncation_ended()

    def sync(self, message: Sync) -> None:
        """Make all that was acknowledged durable, then `Done`."""
        self._syncing.append(message)
        self._core.tell_worker(self._wal, WalFlush(None, self._core.ref, Synced(message)))

    def carried(self, token: PieceWritten | BulkSynced, error: PfsError | None) -> None:
        """The worker has written or synced something for a bulk append."""
        self._bulk.carried(token, error)

    # -- publishing

    def _publish_ready(self) -> None:
        state = self._core.state
        published = False
        while self._publishing and self._publishing[0].commit_end <= self._durable:
            request = self._publishing[0]
            if request.loading:
                break
            missing = [pgid for pgid in state.missing_images(request.pgid, request.n) if pgid not in request.images]
            if missing:
                request.loading = len(missing)
                for pgid in missing:
                    self._core.load(OldImage(request, pgid), pgid, [None])
                break
            self._publish(self._publishing.popleft())
            published = True
        if published:
            self._core.dirtied()

    def loaded(self, token: OldImage, pages: list[bytes], error: PfsError | None) -> None:
        """The old image of a page has come from disk, or not."""
        token.request.loading -= 1
        if isinstance(error, FatalError):
            self._core.panic(error)
            return
        if error is not None:
            self._reads.fail_readers_of(token.pgid, error)
        else:
            token.request.images[token.pgid] = pages[0]
        self._publish_ready()

    def _publish(self, request: WriteRequest) -> None:
        core, state = self._core, self._core.state
        outcomes, failed_cuts = state.publish(
            request.pgid,
            request.published_pages,
            request.lsn,
            request.first_lsn,
            request.images,
            request.pgid + request.n,
        )
        core.settle(outcomes)
        core.counters["pages_written"] += request.n
        self._reads.fail_cuts(failed_cuts)
        self._leave(request)
        core.tell(request.session.client, DataWriteEnd(request.ref, request.pgid, request.n, request.lsn))
        if request is self._bulk.active:
            self._bulk.published()
        self._next_alone()

    def _settle(self, request: WriteRequest) -> None:
        self._log.buffer.settle(request.transaction)
        if request.share is not None:
            self._limits.give_back(request.share)
            if self._limits.waiting:
                self._core.dirtied()  # it may be the turn of another
        if self._log.is_short and not self._log.has_room:
            self._core.dirtied()  # a checkpoint may make room now
            self._core.tell_worker(self._wal, RoomMade())  # or another write is the one that holds the log up

    # -- failing

    def fail(self, request: WriteRequest, error: PfsError) -> bool:
        """End a write that has not begun to be logged; returns False if it has, and then ends as it ends."""
        if request.state not in ("waiting", "collecting", "collected"):
            return False
        if request is self._bulk.active and request.state == "collected":
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
        waiting = [each for each in self._alone if isinstance(each, TruncateMessage)]
        messages: list[Sync | TruncateMessage] = [*self._syncing, *waiting, *self._truncating]
        for message in messages:
            self._core.refuse(message.client, message.ref, error)
        self._syncing.clear()
        self._alone.clear()
        self._truncating.clear()

    def _finish(self, request: WriteRequest, error: PfsError) -> None:
        if isinstance(request, BulkAppend) and request is self._bulk.active:
            self._logging.pop(request, None)
            self._bulk.give_up(request, error)
            return
        if isinstance(request, BulkAppend) and request in self._alone:
            self._alone.remove(request)
        self._leave(request)
        self._core.refuse(request.session.client, request.ref, error)
        self._next_alone()

    def _bulk_given_up(self, request: BulkAppend, error: PfsError) -> None:
        self._leave(request)
        self._core.refuse(request.session.client, request.ref, error)
        self._next_alone()

    def _leave(self, request: WriteRequest) -> None:
        if request.transaction:
            self._settle(request)
        request.state = "ended"
        self._held_back.pop(request, None)
        request.pages = []
        request.images = {}
        request.session.requests.pop(request.ref, None)
        self._logging.pop(request, None)
        self._core.ended(request)
        for granted in self._room.release(request):
            self._granted(granted)

    # -- truncation

    def truncate(self, message: TruncateMessage) -> None:
        """Cut the file when nothing is being logged; raises what is wrong with the message."""
        check_number("n", message.n, 0, LARGEST_PGID + 1)
        self._check_cut(message)
        self._alone.append(message)
        self._next_alone()

    def _next_alone(self) -> None:
        """Begin the next truncation or bulk append if it may; then the writes that may begin now."""
        if self._alone and not (self._logging or self._truncating or self._bulk.active):
            self._begin_alone()
        if self._held:
            held, self._held = self._held, []
            for request in held:
                if request.state != "collected":
                    continue
                if self._may_start(request):
                    self._start(request)
                else:
                    self._held.append(request)

    def _begin_alone(self) -> None:
        while self._alone:
            message = self._alone.popleft()
            if isinstance(message, BulkAppend):
                self._bulk.begin(message, self.tail, self._log.buffer.next_lsn)
                self._invite(message)
                return
            try:
                self._check_cut(message)  # one before may have cut more
            except OutOfRange as error:
                self._core.refuse(message.client, message.ref, error)
                continue
            self._truncating.append(message)
            self._log_truncation(message)
            return

    def _check_cut(self, message: TruncateMessage) -> None:
        state = self._core.state
        if message.n > state.page_count:
            raise OutOfRange(f"{state.name!r} has {state.page_count} pages and cannot be cut to {message.n}")

    def _log_truncation(self, message: TruncateMessage) -> None:
        n = message.n
        try:
            place = self._log.buffer.insert(TruncateRecord(self._core.state.file_id, n))
        except NoSpace:
            self._wait_for_room(TruncationRoom(message))
            return
        self.tail = n
        self._core.tell_worker(self._wal, WalFlush(place.end, self._core.ref, Truncated(message)))

    def _truncate_logged(self, message: TruncateMessage) -> None:
        """The TRUNCATE record is durable: the file is shorter from now on."""
        state = self._core.state
        n = self.tail
        outcomes, failed = state.truncate(n)
        self._core.settle(outcomes)
        self._reads.fail_cuts(failed)
        cut = CutFile(state.file_id, n, self._core.ref, Truncated(message))
        self._core.tell_worker(self._checkpointer, cut)

    def was_cut(self, message: TruncateMessage | BulkAppend) -> None:
        """The data file is cut as well."""
        if isinstance(message, BulkAppend):
            self._bulk.was_cut(message)
            return
        self._core.tell(message.client, Done(message.ref))
        self._truncation_ended()

    def _truncation_ended(self) -> None:
        self._truncating.clear()
        self._next_alone()

    # -- inspection

    @property
    def tail(self) -> int:
        """Where the next append begins: the page count when all that is committed is published."""
        return self._log.page_counts[self._core.state.file_id]

    @tail.setter
    def tail(self, page_count: int) -> None:
        self._log.page_counts[self._core.state.file_id] = page_count

    @property
    def applying(self) -> int:
        """How many writes and truncations are past the point where they can be given up."""
        waiting = sum(isinstance(each, TruncateMessage) for each in self._alone)
        bulk = self._bulk.active is not None and self._bulk.active not in self._logging
        return len(self._logging) + waiting + len(self._truncating) + bulk

    def counters(self) -> dict[str, Any]:
        return {
            "writes_waiting": self._room.waiting,
            "staged_bytes": self._room.reserved,
            "writes_applying": len(self._logging),
        }


def _too_much_for_the_log(request: WriteRequest, log: SharedLog) -> NoSpace:
    return NoSpace(
        f"request {request.ref}: the WAL takes up all of the {log.most_bytes} bytes that it may, and cannot be cut "
        f"because of the {request.logged} of {request.n} pages of this request that it holds: write fewer pages at a "
        "time, or raise `most_bytes`"
    )
