"""`Storage`: what the page file servers of a system stand on, started, recovered and ended together.

The files of the directory, recovered from the log; the page table and the dirty pages; the actors that fill and empty
them: file workers, `BufferPool`, `WalServer` with its `LogDevice`, `Checkpointer`; and the `CatalogServer`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

from pfs.actors import Address, Runtime
from pfs.actors.buffer_pool import BufferPool, Waiting
from pfs.actors.catalog_server import CatalogServer, ServedFile
from pfs.actors.checkpointer import Checkpointer, Dirtied
from pfs.actors.file_worker import VirtualFileWorker
from pfs.actors.monitors import tell_if_alive
from pfs.actors.reference import Ref
from pfs.actors.wal_server import LogDevice, WalServer
from pfs.actors.write_room import WriteRoom
from pfs.cache.dirty_pages import DirtyPages
from pfs.cache.page_table import PageTable
from pfs.errors import CorruptionFound, PfsError
from pfs.files.checked_file import CheckedFile
from pfs.files.redo_target import StoreRedoTarget
from pfs.files.store import PageFileStore
from pfs.wal.heal import FoundPage, find_page
from pfs.wal.recovery import Progress, StartedLog, start_log
from pfs.wal.retention import Retention
from pfs.wal.shared_log import SharedLog, WalOptions
from pfs.wal.sidecar_images import SidecarImages
from pfs.wal.slots import SlotFiles

if TYPE_CHECKING:
    from pfs.files.filesystem import FileSystem
    from pfs.system import SystemOptions


def recover(
    store: PageFileStore,
    options: WalOptions,
    new_system_id: Callable[[], int],
    progress: Callable[[Progress], None] | None = None,
) -> StartedLog:
    """Recover the page files of a directory from its log, which is made if there is none.  Errors as `start_log`.

    The whole of what a start does before there are actors; what it returns is the caller's to close.
    """
    started = start_log(
        store.file_system,
        StoreRedoTarget(store),
        new_system_id=new_system_id,
        segment_size=options.segment_bytes,
        sync_method=options.sync_method,
        batch_bytes=options.batch_bytes,
        batch_requests=options.batch_requests,
        compress=options.compress,
        boot_id=store.file_system.boot_id(),
        progress=progress,
    )
    try:
        _count_all_pages(store, started)
        store.catalog.sync_names()  # also what a process that was killed made or removed after its last checkpoint
        store.catalog.remove_strays()
    except BaseException:
        started.files.close()
        started.control.close()
        raise
    return started


def _count_all_pages(store: PageFileStore, started: StartedLog) -> None:
    """Let `page_counts` have every page file, and no number be used again.

    A catalog that lacks one of them would make strays of its files, so it is refused before they are removed.
    """
    catalog, counts = store.catalog, started.page_counts
    catalog.table = catalog.table.above(started.next_file_id - 1)
    entries = catalog.table.by_number()
    missing = sorted(counts.keys() - entries.keys())
    if missing:
        raise CorruptionFound(
            f"the WAL counts the pages of page file {missing[0]}, which the catalog does not have: it is not the "
            "catalog that belongs to this WAL; restore the directory from a backup"
        )
    for number in entries.keys() - counts.keys():  # it was there before the log was
        try:
            counts[number] = store.open_any(entries[number], repair=False).block_count()
        finally:
            store.close_file(number)


class Storage:
    """Everything below the servers (see the module).

    `served`: the open page files by id, which the system fills; `panic` is called with what ends the system.

    Raises what `start_log` and `PageFileStore` raise.
    """

    def __init__(
        self,
        directory: str | PathLike[str] | FileSystem,
        options: SystemOptions,
        runtime: Runtime,
        served: dict[int, ServedFile],
        panic: Callable[[BaseException], None],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.store = PageFileStore(
            directory, clock=runtime.clock, descriptors=options.descriptors, segment_bytes=options.segment_bytes
        )
        with ExitStack() as undo:
            undo.callback(self.store.close)
            self.started = recover(self.store, options.wal, runtime.new_id, progress)
            undo.callback(self.started.control.close)
            undo.callback(self.started.files.close)
            self.slots = SlotFiles(self.store.file_system)
            undo.pop_all()
        self.table: PageTable[Waiting] = PageTable(options.buffer_bytes)
        self.dirty = DirtyPages()
        self.open_files: dict[int, CheckedFile] = self.store.open_files
        files = self.started.files
        self.log = SharedLog(
            self.started.buffer,
            options.wal,
            files.segment_size,
            self.started.redo_lsn,
            self.started.next_transaction,
            self.started.page_counts,
        )
        self.retention = Retention(files, self.slots, options.wal.slot_bytes)
        self.log.buffer.dirty = self.dirty
        self.log.keep_room_for(len(self.started.page_counts))
        self.write_room = WriteRoom(self.dirty, self.log, options.dirty_bytes)
        start: Any = runtime.start
        readers = [start(VirtualFileWorker) for _ in range(options.read_workers)]
        writers = self._writers = [start(VirtualFileWorker) for _ in range(options.write_workers)]
        self.images = SidecarImages()
        keeper = start(VirtualFileWorker)
        device = start(LogDevice, files)
        self._blocking: list[Any] = [*readers, *writers, keeper, device]
        self.pool: Address = start(
            BufferPool, self.table, readers, panic, self.dirty, self._heal, self._dirtied, self.log
        )
        self.wal: Address = start(WalServer, self.log, self.retention, device, keeper, panic)
        self.checkpointer: Address = start(
            Checkpointer,
            self.dirty,
            self.log,
            self.open_files,
            self.retention,
            self.started.control,
            self.wal,
            keeper,
            self.writer_of,
            self.store.catalog,
            self.store.make_durable,
            self.store.remove,
            panic,
            options.dirty_bytes // 2,
            self.write_room,
            self.images,
        )
        self.catalog: Address = start(
            CatalogServer,
            self.store.catalog,
            self.log,
            self.wal,
            self.checkpointer,
            self.table,
            self.dirty,
            served,
            panic,
        )

    def writer_of(self, file_id: int) -> Address:
        """The worker that makes all changes of a page file, one after the other."""
        return cast(Address, self._writers[file_id % len(self._writers)])

    def _heal(self, file_id: int, pgid: int) -> FoundPage | None:
        """A page that is damaged on disk, as the log has it; None if it does not.  May block."""
        file = self.open_files.get(file_id)
        try:
            record = file.page_record(pgid) if file is not None else None
        except PfsError:
            return None
        log = self.log
        durable = log.buffer.flushed
        unsettled = log.buffer.unsettled  # asked last: what is durable and not among these may be seen
        return find_page(
            self.started.files, file_id, pgid, record, redo_lsn=log.redo_lsn, durable=durable, unsettled=unsettled
        )

    def _dirtied(self) -> None:
        tell_if_alive(self.checkpointer, Dirtied())

    def kill(self, error: PfsError) -> None:
        """The system has failed: nothing more may be written, and who waits for something gets the error."""
        for ref in (cast("Ref[Checkpointer]", self.checkpointer), cast("Ref[CatalogServer]", self.catalog)):
            if ref._actor is not None:
                ref._actor.refuse_all(error)
        for worker in self._blocking:
            worker.kill()
        for actor in (self.wal, self.checkpointer, self.catalog):
            cast(Any, actor).kill()

    def pool_stats(self) -> dict[str, int]:
        """Counters of the page table and the buffer pool."""
        pool = cast(Any, self.pool)._actor
        return {
            **self.table.stats(),
            "damaged": pool.damaged if pool else 0,
            "healed": pool.healed if pool else 0,
        }

    def stats(self) -> dict[str, int]:
        """Counters of the log and the checkpoints."""
        buffer = self.log.buffer
        wal, checkpointer = cast(Any, self.wal)._actor, cast(Any, self.checkpointer)._actor
        return {
            "inserted": buffer.inserted,
            "flushed": buffer.flushed,
            "redo": self.log.redo_lsn,
            "records": buffer.records,
            "commits": buffer.commits,
            "replayed_transactions": self.started.transactions,
            "replayed_pages": self.started.pages,
            "batches": wal.batches if wal else 0,
            "waits_ended": wal.flushes if wal else 0,
            "checkpoints": checkpointer.checkpoints if checkpointer else 0,
            "pages_written_back": checkpointer.writer.pages_written if checkpointer else 0,
            "slot_bytes": self.retention.held_bytes,
            "slots_lost": self.retention.lost,
            "dirty_pages": len(self.dirty),
            "dirty_bytes": self.dirty.bytes,
            "promised_bytes": self.write_room.promised,
            "writes_waiting_for_room": self.write_room.waiting,
        }

    def close(self) -> None:
        """Close all files and unlock the directory; the actors have ended."""
        self.started.files.close()
        self.started.control.close()
        self.store.close()
