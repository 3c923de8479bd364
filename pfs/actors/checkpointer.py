"""`Checkpointer`: the actor that writes dirty pages to the data files, and so lets the log be forgotten.

It does two things with the same machinery.  In the background it writes the oldest dirty pages whenever there are more
than `dirty_soft_bytes`.  And it makes checkpoints: everything that became dirty from log before the *redo point* is
written, the files are synced, a CHECKPOINT record and then the control file say so, and the log before the redo point
is used again.  Both are spread out: a few groups of pages are on their way to the disk at a time, and nobody waits for
them but the checkpoint.

Order, each step after the one before has succeeded: log flushed; dirty pages with a first LSN below the redo point
written; data files synced, and the catalog saved as it was at the redo point; CHECKPOINT record flushed; control file
written and synced; files of page files that were dropped before the redo point removed; log segments recycled that no
slot needs (`pfs.wal.retention`).
How pages are written, `pfs.actors.page_writer` says; before a sidecar block is changed for the first time after a
checkpoint has written its last block, its image is logged.  The reserve of the log is for all these records.

If a data file has no space (or there is no descriptor) its pages stay dirty and the checkpoint goes on when there is;
the log grows meanwhile, up to its limit.  Any other failure is fatal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Literal

import msgspec

from pfs.actors import Actor, Address
from pfs.actors.file_worker import Carried, Carry
from pfs.actors.monitors import tell_if_alive
from pfs.actors.page_writer import BlocksRead, ImagesFlushed, LogFlushed, PageWriter, Written
from pfs.actors.wal_server import RoomMade, RoomNotMade, TellWhenShort, WalFlush, WalFlushed, WalRefused, WalRoomMade
from pfs.actors.write_room import WriteRoom
from pfs.cache.dirty_pages import DirtyPages
from pfs.errors import NoSpace, PfsError, RequestError, SystemFailed
from pfs.files.catalog import Catalog, CatalogEntry
from pfs.files.catalog_table import CatalogTable
from pfs.files.checked_file import CheckedFile
from pfs.protocol import RequestFailed
from pfs.wal.checkpoint import insert_checkpoint, record_checkpoint
from pfs.wal.control_file import ControlFile
from pfs.wal.log_buffer import Place
from pfs.wal.retention import Retention
from pfs.wal.shared_log import SharedLog
from pfs.wal.sidecar_images import SidecarImages

RETRY_SECONDS = 1.0
"""After no space was left for a data file, how long until it is tried again."""


class Dirtied(msgspec.Struct, frozen=True, gc=False):
    """A server: there are more dirty pages."""


class MakeCheckpoint(msgspec.Struct, frozen=True, gc=False):
    """Make a checkpoint now; replied with `CheckpointMade`.  `shutdown`: nothing will be logged after it."""

    reply_to: Address | None
    token: Any = None
    shutdown: bool = False


class CheckpointMade(msgspec.Struct, frozen=True, gc=False):
    """A checkpoint that began after the request has been made."""

    ref: Any


class CutFile(msgspec.Struct, frozen=True, gc=False):
    """Cut a data file, whose pages beyond are dirty no more, to n pages; replied with `FileCut`."""

    file_id: int
    n: int
    reply_to: Address
    token: Any


class FileCut(msgspec.Struct, frozen=True, gc=False):
    """The file is cut."""

    token: Any


class GiveCredit(msgspec.Struct, frozen=True, gc=False):
    """To a server that had to hold writers back: the log has room again."""


class RemoveFile(msgspec.Struct, frozen=True, gc=False):
    """Remove the files of a page file that was dropped, of which no page is dirty, when a recovery needs them no more:
    after a checkpoint whose redo point is past the DROP, which is at `lsn`."""

    entry: CatalogEntry
    lsn: int


class _Tick(msgspec.Struct, frozen=True, gc=False):
    """To itself: it is time for a checkpoint, unless one was made lately."""


class _Retry(msgspec.Struct, frozen=True, gc=False):
    """To itself: there may be space, or a descriptor, by now."""


class _Cut(msgspec.Struct, frozen=True, gc=False, eq=False):
    message: CutFile


Phase = Literal["idle", "flushing", "writing", "syncing", "recording", "controlling", "recycling"]


class Checkpointer(Actor):
    """Writes dirty pages and makes checkpoints (see the module).

    `files`: the open page files by id, shared with the system.  `writer_of`: the worker that makes all changes of a
    file.  `make_durable`: makes the data files and a catalog durable, and returns when that is so.  `remove`: removes
    the files of a dropped page file.
    """

    inline = True

    def __init__(
        self,
        dirty: DirtyPages,
        log: SharedLog,
        files: dict[int, CheckedFile],
        retention: Retention,
        control: ControlFile,
        wal: Address,
        keeper: Address,
        writer_of: Callable[[int], Address],
        catalog: Catalog,
        make_durable: Callable[[CatalogTable], None],
        remove: Callable[[CatalogEntry], None],
        panic: Callable[[BaseException], None],
        dirty_soft_bytes: int,
        room: WriteRoom,
        images: SidecarImages,
    ) -> None:
        super().__init__()
        self._dirty = dirty
        self._log = log
        self._files = files
        self._retention = retention
        self._control = control
        self._wal = wal
        self._keeper = keeper
        self._worker_of = writer_of
        self._catalog = catalog
        self._make_durable = make_durable
        self._remove = remove
        self._panic = panic
        self._soft = dirty_soft_bytes
        self._room = room
        self._images = images
        self._blocked = False
        self._again: Callable[[], None] | None = None
        """The step of this checkpoint that found no descriptor, and is to be tried again."""
        self._changed = False
        self._ticking = False
        self._phase: Phase = "idle"
        self._redo = 0
        self._table = catalog.table
        self._dropped: list[RemoveFile] = []
        self._place: Place | None = None
        self._shutdown = False
        self._wanted: list[MakeCheckpoint] = []
        self._making: list[MakeCheckpoint] = []
        self._cuts: list[CutFile] = []
        self._last = 0.0
        self.writer = PageWriter(self._actor_ref, dirty, log, files, wal, writer_of, images)
        self.checkpoints = 0

    def on_start(self) -> None:
        self._last = self.scheduler.now()
        self._wal.tell(TellWhenShort(self._actor_ref, Dirtied()))

    def on_receive(self, message: Any) -> None:
        match message:
            case Dirtied():
                self._changed = True
            case Carried(token, result, error):
                self._carried(token, result, error)
            case WalFlushed(token):
                self._flushed(token)
            case MakeCheckpoint():
                self._wanted.append(message)
            case CutFile():
                self._changed = True
                self._cuts.append(message)
            case RemoveFile():
                self._dropped.append(message)
            case _Tick():
                self._tick()
            case _Retry():
                self._retry()
        self._begin()
        self._write()
        self._cut()
        self._give_room()
        self._keep_time()

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Without checkpoints the log would only grow."""
        assert exception_value is not None
        self._panic(exception_value)
        self.refuse_all(SystemFailed(f"the checkpointer failed: {exception_value!r}", exception_value))

    def refuse_all(self, error: PfsError) -> None:
        """The system has failed: answer whoever waits for a checkpoint."""
        unhandled = [each for each in self.actor_ref.items if isinstance(each, MakeCheckpoint)]
        for message in self._making + self._wanted + unhandled:
            if message.reply_to is not None:
                tell_if_alive(message.reply_to, RequestFailed(message.token, error))

    def _keep_time(self) -> None:
        if self._changed and not self._ticking and self._phase == "idle":
            self._ticking = True
            due = self._last + self._log.options.checkpoint_seconds
            self.send_after(max(due - self.scheduler.now(), 0.0), _Tick())

    def _tick(self) -> None:
        self._ticking = False
        due = self.scheduler.now() - self._last >= self._log.options.checkpoint_seconds
        if self._changed and due and self._phase == "idle":
            self._wanted.append(MakeCheckpoint(None))

    def _give_room(self) -> None:
        for waiter in self._room.grant():
            tell_if_alive(waiter.address, WalRoomMade(waiter.token))
        for server in self._room.let_go():
            tell_if_alive(server, GiveCredit())

    def _room_not_made(self, error: PfsError) -> None:
        self._room.no_space = True
        self._wal.tell(RoomNotMade(error))
        for waiter in self._room.refuse():
            tell_if_alive(waiter.address, WalRefused(waiter.token, error))

    def _retry(self) -> None:
        self._blocked = self._room.no_space = False
        again, self._again = self._again, None
        if again is not None:
            again()

    def _retry_later(self) -> None:
        if not self._blocked:
            self._blocked = True
            self.send_after(RETRY_SECONDS, _Retry())

    # -- writing dirty pages

    def _write(self) -> None:
        if self._phase == "writing" and not self.writer.in_flight:
            oldest = self._dirty.oldest_first_lsn()
            if oldest is None or oldest >= self._redo:
                self._phase = "syncing"
                self._images.clear()  # what changes from here on may not be synced
                self._sync_files()
        if self._blocked:
            return
        if self._phase == "writing":
            self.writer.write(below=self._redo)
        elif self._dirty.bytes > self._soft or self._room.wants_clean_pages:
            self.writer.write(below=None)

    def _sync_files(self) -> None:
        self._worker_of(0).tell(Carry(partial(self._make_durable, self._table), self._actor_ref, "syncing"))

    def _carried(self, token: Any, result: Any, error: PfsError | None) -> None:
        if isinstance(token, Written | BlocksRead):
            try:
                self.writer.carried(token, result, error)
            except RequestError as no_room:  # no space, or no descriptor
                self._room_not_made(no_room)
                self._retry_later()
            except PfsError as failure:
                self._panic(failure)
            return
        if isinstance(error, RequestError) and (isinstance(token, _Cut) or token in ("syncing", "recycling")):
            if isinstance(token, _Cut):
                self._cuts.append(token.message)
            else:
                self._again = self._sync_files if token == "syncing" else self._recycle
            self._retry_later()
        elif error is not None:
            self._panic(error)
        elif isinstance(token, _Cut):
            tell_if_alive(token.message.reply_to, FileCut(token.message.token))
        elif token == "syncing":
            self._record()
        elif token == "controlling":
            self._phase = "recycling"
            self._remove_dropped()
            self._recycle()
        elif token == "recycling":
            self._made(result)

    def _recycle(self) -> None:
        log = self._log
        ahead = min(log.options.checkpoint_bytes, log.most_bytes) // log.segment_bytes
        upto = self._redo // log.segment_bytes + max(ahead, 2)
        recycle = partial(self._retention.recycle, self._redo, upto, log.buffer.epoch)
        self._keeper.tell(Carry(recycle, self._actor_ref, "recycling"))

    def _cut(self) -> None:
        if self._blocked:
            return
        for message in [each for each in self._cuts if not self._dirty.writes_under_way(each.file_id)]:
            self._cuts.remove(message)
            call = partial(_cut_file, self._files[message.file_id], message.n)
            self._worker_of(message.file_id).tell(Carry(call, self._actor_ref, _Cut(message)))

    def _remove_dropped(self) -> None:
        """The checkpoint is recorded: a recovery begins behind these DROPs."""
        gone = [
            each
            for each in self._dropped
            if each.lsn < self._redo and not self._dirty.writes_under_way(each.entry.number)
        ]
        for each in gone:
            self._dropped.remove(each)
            self._keeper.tell(Carry(partial(self._remove, each.entry), self._actor_ref, "removing"))

    # -- checkpoints

    def _begin(self) -> None:
        if self._phase != "idle":
            return
        if not self._wanted and not self._log.wants_checkpoint:
            return
        self._phase = "flushing"
        self._making, self._wanted = self._wanted, []
        self._shutdown = any(each.shutdown for each in self._making)
        self._redo = self._log.buffer.redo_point()
        self._table = self._catalog.table
        self._last = self.scheduler.now()
        self._changed = False
        self._wal.tell(WalFlush(None, self._actor_ref, "flushing"))

    def _flushed(self, token: Any) -> None:
        if token == "flushing":
            self._phase = "writing"
        elif isinstance(token, ImagesFlushed | LogFlushed):
            self.writer.flushed(token)
        elif token == "recording":
            self._phase = "controlling"
            control, place, redo, shutdown = self._control, self._place, self._redo, self._shutdown
            durable = self._log.buffer.flushed
            assert place is not None

            def record() -> None:
                record_checkpoint(control, place, redo, durable, shutdown=shutdown)

            self._keeper.tell(Carry(record, self._actor_ref, "controlling"))

    def _record(self) -> None:
        log, buffer = self._log, self._log.buffer
        frees = self._redo // log.segment_bytes > log.redo_lsn // log.segment_bytes
        if buffer.room < 0 and not frees and not self._shutdown:
            self._ended()  # all is written and synced; to record it would take room of a checkpoint that frees some
            return
        self._phase = "recording"
        if self._shutdown:
            self._redo = buffer.next_lsn
            self._log.closed = True
        try:
            self._place = insert_checkpoint(
                buffer,
                redo_lsn=self._redo,
                page_counts=self._log.page_counts,
                next_file_id=self._catalog.next_number,
                next_transaction=self._log.next_transaction(),
                shutdown=self._shutdown,
            )
        except NoSpace as error:
            self._panic(error)  # the reserve is for these records
            return
        self._wal.tell(WalFlush(self._place.end, self._actor_ref, "recording"))

    def _made(self, end_of_segments: int) -> None:
        log = self._log
        log.redo_lsn = self._redo
        log.segment_made(end_of_segments // log.segment_bytes - 1)
        self.checkpoints += 1
        self._ended()

    def _ended(self) -> None:
        self._phase = "idle"
        making, self._making = self._making, []
        for each in making:
            if each.reply_to is not None:
                tell_if_alive(each.reply_to, CheckpointMade(each.token))
        self._wal.tell(RoomMade())


def _cut_file(file: CheckedFile, n: int) -> None:
    if n < file.block_count():  # the pages beyond may never have been written
        file.truncate(n)
