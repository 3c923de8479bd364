"""Carrying out data_write and data_append: collect, log, sync, publish, acknowledge.

When the pages of a write are all in memory (`pfs.actors.write_intake`) and it may begin (`pfs.actors.write_order`), it
is *logged*: a chunk of page images a turn, between the chunks of everybody else, and at last its COMMIT, which for an
append also says where it begins.  When the log is durable that far the write is *published* in one step and
acknowledged; the data file is written later (`pfs.actors.checkpointer`).  With durability "memory" it is published as
soon as its COMMIT is in the log, and acknowledged without waiting for the log's sync.

* Writes take effect in the order of their COMMITs.  Whole images are logged, so writes that overlap need no order else.
* An append's place is given in the step that inserts its COMMIT, so places are contiguous and in commit order.
* An old image that a read in progress still needs, and that is only on disk, is loaded before the write is published;
  the writes committed behind it wait for it.
* A write begins to be logged when it has its share of the dirty bytes and of the log (`pfs.actors.write_room`).
* No space in the log: the request fails with NoSpace before its COMMIT, and nothing has changed.

What begins alone is carried out elsewhere: truncations (`pfs.actors.truncations`), and bulk appends up to their COMMIT
(`pfs.actors.bulk_append`).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from pfs.actors import Address
from pfs.actors.bulk_append import BulkAppend, BulkAppends, BulkSynced, PieceWritten
from pfs.actors.read_service import ReadService
from pfs.actors.requests import WriteRequest, check_growth
from pfs.actors.server_core import ServerCore
from pfs.actors.truncations import Truncated, TruncationRoom, Truncations
from pfs.actors.wal_server import RoomMade, WalFlush, WalRoom
from pfs.actors.write_intake import WriteIntake
from pfs.actors.write_order import WriteOrder
from pfs.actors.write_room import Share, Waiter, WriteRoom
from pfs.errors import FatalError, NoSpace, OutOfRange, PfsError, ProtocolError, RequestTooLarge
from pfs.protocol import DataWriteEnd, Done, StreamEnd, Sync
from pfs.protocol import Truncate as TruncateMessage
from pfs.streams.stream import CloseTransfer
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


class Synced(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: the log is being made durable for a `Sync`."""

    message: Sync


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
        self._limits = limits
        self._image_cost = log.image_cost(core.state.page_size)
        self._order: WriteOrder[WriteRequest, TruncateMessage | BulkAppend] = WriteOrder()
        self._truncations = Truncations(core, reads, log, wal, checkpointer, self._truncation_ended)
        self._bulk = BulkAppends(core, writer, checkpointer, images, self._start, self._finish)
        self.intake = WriteIntake(core, limits, self._bulk, self._bulk_granted, self.fail)
        self._publishing: deque[WriteRequest] = deque()
        """Committed writes that are not published, in commit order."""
        self._wanted = 0
        """Where the last COMMIT ends that must be made durable."""
        self._asked = 0
        """What part of that the log has been asked for."""
        self._durable = 0
        """How far the log is known to be durable."""
        self._syncing: list[Sync] = []

    # -- order

    def _bulk_granted(self, request: BulkAppend) -> None:
        self._order.ask_alone(request, True)
        self._begin_next()

    def truncate(self, message: TruncateMessage) -> None:
        """Cut the file when nothing is being logged; raises what is wrong with the message."""
        self._truncations.admit(message)
        self._order.ask_alone(message, False)
        self._begin_next()

    def end(self, request: WriteRequest, message: StreamEnd) -> None:
        """A writer says that it has sent all its pages."""
        if request.state != "collecting":
            return
        try:
            request.check_end(message.n)
        except ProtocolError as error:
            self.fail(request, error)
            return
        request.state = "collected"
        if isinstance(request, BulkAppend):
            self._bulk.collected(request)
        elif self._order.ask(request, request.append):
            self._start(request)

    def _begin_next(self) -> None:
        """Begin what may begin now, after something has ended or has asked."""
        while beginning := self._order.next():
            for each in beginning:
                if isinstance(each, BulkAppend):
                    self._bulk.begin(each, self.tail, self._log.buffer.next_lsn)
                    self.intake.invite(each)
                elif isinstance(each, TruncateMessage):
                    if not self._truncations.begin(each):
                        self._order.ended_alone(each)
                else:
                    self._start(each)

    def _truncation_ended(self, message: TruncateMessage) -> None:
        self._order.ended_alone(message)
        self._begin_next()

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
                self._wait_for_room(request)
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
            self._wait_for_room(request)
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

    def _wait_for_room(self, request: WriteRequest) -> None:
        self._core.tell_worker(self._wal, WalRoom(self._core.ref, Room(request)))
        self._core.dirtied()  # a checkpoint may make room

    def _commit(self, request: WriteRequest) -> None:
        buffer, tail = self._log.buffer, self.tail
        if request.append:
            check_growth(self._core.state.name, tail, request.n)
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
                self._truncations.log(message)
            case Truncated(message):
                self._truncations.logged(message)

    def refused(self, token: Room | TruncationRoom, error: PfsError) -> None:
        """There is no room in the log, and none can be made."""
        match token:
            case Room(request):
                self._finish(request, error)
            case TruncationRoom(message):
                self._truncations.no_room(message, error)

    def sync(self, message: Sync) -> None:
        """Make all that was acknowledged durable, then `Done`."""
        self._syncing.append(message)
        self._core.tell_worker(self._wal, WalFlush(None, self._core.ref, Synced(message)))

    def was_cut(self, message: TruncateMessage | BulkAppend) -> None:
        """A data file is cut, for a truncation or a bulk append that was given up."""
        if isinstance(message, BulkAppend):
            self._bulk.was_cut(message)
        else:
            self._truncations.was_cut(message)

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
        if request is self._bulk.active:
            self._bulk.published()
        self._leave(request)
        core.tell(request.session.client, DataWriteEnd(request.ref, request.pgid, request.n, request.lsn))
        self._begin_next()

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
        for message in self._syncing:
            self._core.refuse(message.client, message.ref, error)
        self._syncing.clear()
        self._truncations.abandon(error)

    def _finish(self, request: WriteRequest, error: PfsError) -> None:
        if isinstance(request, BulkAppend) and request is self._bulk.active:
            self._bulk.give_up(request, error)
            return
        self._leave(request)
        self._core.refuse(request.session.client, request.ref, error)
        self._begin_next()

    def _leave(self, request: WriteRequest) -> None:
        if request.transaction:
            self._settle(request)
        request.state = "ended"
        request.pages = []
        request.images = {}
        request.session.requests.pop(request.ref, None)
        if isinstance(request, BulkAppend):
            self._order.ended_alone(request)
        else:
            self._order.ended(request)
        self._core.ended(request)
        self.intake.left(request)

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
        bulk = self._bulk.active is not None
        return self._order.under_way + len(self._truncations) + bulk

    def counters(self) -> dict[str, Any]:
        return {
            "writes_waiting": self.intake.waiting,
            "staged_bytes": self.intake.reserved,
            "writes_applying": self._order.under_way,
        }


def _too_much_for_the_log(request: WriteRequest, log: SharedLog) -> NoSpace:
    return NoSpace(
        f"request {request.ref}: the WAL takes up all of the {log.most_bytes} bytes that it may, and cannot be cut "
        f"because of the {request.logged} of {request.n} pages of this request that it holds: write fewer pages at a "
        "time, or raise `most_bytes`"
    )
