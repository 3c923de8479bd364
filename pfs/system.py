"""`System`: all the actors of one data directory, wired, recovered and stopped.

```
System
|-- VirtualFileWorker "read-0", ...   wait for disks, for reads
|-- VirtualFileWorker "write-0", ...  wait for disks, for writes and syncs
|-- BufferPool                        fills the page table
|-- CatalogServer                     creates, renames and drops page files
`-- PageFileServer                    one for each open page file, with its Streams
```

A system owns its scheduler; two systems in one process share nothing.  The data directory is locked while a system
uses it.

**When something fails** (`panic`): a failure after which a file cannot be trusted, or of the servers' own code, marks
the system failed.  The workers are killed, so nothing more is written; every open request, and every later one, gets
`SystemFailed` with the cause; only a new `System` on the directory serves again.  The process lives on.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import msgspec
import pykka

from pfs.actors import Address, Runtime, Scheduler
from pfs.actors.catalog_server import CreateEntry, DropEntry, RenameEntry, ServedFile, server_name
from pfs.actors.checkpointer import MakeCheckpoint
from pfs.actors.monitors import tell_if_alive
from pfs.actors.page_file_server import Fail, PageFileServer, ServedObserver
from pfs.actors.reference import Ref
from pfs.actors.requests import ServerOptions, check_number
from pfs.backup import BackupReport, backup, destination_in
from pfs.cache.page_file_state import PageFileState
from pfs.calls import Call, SimpleCall, ThreadClient
from pfs.errors import (
    CorruptionFound,
    FatalError,
    InvalidRequest,
    PageFileNotFound,
    PageSizeMismatch,
    PfsError,
    RequestError,
    SystemFailed,
    SystemStopped,
)
from pfs.files.catalog import CatalogEntry
from pfs.files.catalog_table import check_name
from pfs.files.segments import DEFAULT_BLOCK_SIZE
from pfs.page_file import PageFile
from pfs.protocol import Cancel, Stop, Sync, new_ref
from pfs.storage import Storage
from pfs.wal.lsn import check_page_fits, format_lsn
from pfs.wal.recovery import Progress
from pfs.wal.shared_log import WalOptions
from pfs.wal.slots import Slot

if TYPE_CHECKING:
    from pfs.files.filesystem import FileSystem

logger = logging.getLogger("pfs")

A = TypeVar("A", bound=pykka.Actor)


class SystemOptions(msgspec.Struct, frozen=True):
    """Sizes and limits of a system.

    `buffer_bytes`: memory for pages; `descriptors`: the most file descriptors for page files (None: from the
    process's limit); `segment_bytes`: the largest file on disk, page files are made of such; `read_workers`,
    `write_workers`: threads that wait for disks; `call_timeout`: seconds that a call of a plain thread waits;
    `dirty_bytes`: the most memory for pages that are not in their files yet (from half of it on they are written in
    the background; a write larger than that is let pass alone); `wal`: sizes of the log; `server`: limits of each page
    file server.
    """

    buffer_bytes: int = 64 << 20
    descriptors: int | None = None
    segment_bytes: int = 1 << 30
    read_workers: int = 2
    write_workers: int = 2
    call_timeout: float = 60.0
    dirty_bytes: int = 32 << 20
    wal: WalOptions = WalOptions()
    server: ServerOptions = ServerOptions()

    def __post_init__(self) -> None:
        check_number("buffer_bytes", self.buffer_bytes, 0, 1 << 62)
        check_number("dirty_bytes", self.dirty_bytes, 0, 1 << 62)
        check_number("read_workers", self.read_workers, 1, 1024)
        check_number("write_workers", self.write_workers, 1, 1024)
        if type(self.call_timeout) not in (int, float) or not self.call_timeout > 0:
            raise InvalidRequest(f"call_timeout must be a number of seconds above 0, not {self.call_timeout!r}")


class System:
    """A running page file system on one data directory (see the module).

    `directory`: a path, made if it does not exist; or a `FileSystem` (for simulations).  `runtime`: what runs the
    actors; by default a new `Scheduler` that ends with the system.  `observer` is told of every chunk served.

    Raises `DirectoryLocked`, `BackupUnfinished`, `CatalogDamaged`, what recovery does (`pfs.wal.recovery`), and
    `SystemFailed` if its actors fail at once.
    """

    def __init__(
        self,
        directory: str | PathLike[str] | FileSystem,
        options: SystemOptions | None = None,
        *,
        runtime: Runtime | None = None,
        observer: ServedObserver | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.options = options or SystemOptions()
        self._observer = observer
        self._failed: SystemFailed | None = None
        self._stopped = False
        self._started = False
        self._failures_in_start: list[BaseException] = []
        """What the first actors have met with while the others were being started."""
        self._local = threading.local()
        self._ended_clients: deque[ThreadClient] = deque()
        self._served: dict[int, ServedFile] = {}
        self._unsettled = False
        self.runtime = runtime if runtime is not None else Scheduler("pfs")
        try:
            self._storage = Storage(directory, self.options, self.runtime, self._served, self.panic, progress)
        except BaseException:
            self.runtime.stop()
            raise
        self._store = self._storage.store
        self._lock = self._store.condition()
        self._started = True
        if self._failures_in_start:
            self.panic(self._failures_in_start[0])
            self.stop()
            self._check()

    def __repr__(self) -> str:
        state = "failed" if self._failed else "stopped" if self._stopped else "running"
        return f"<System {self._store.name}: {state}, {len(self._served)} files open>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- page files

    def open(
        self,
        name: str,
        *,
        create: bool = True,
        page_size: int | None = None,
        read_only: bool = False,
        repair: bool = False,
    ) -> PageFile:
        """The page file of this name, made if it does not exist and `create` is true.

        `page_size`: of a new file (default 8192); of an existing one it must be the right one.  `read_only`: the
        handle refuses to write.  `repair`: a torn tail (the size is not a multiple of the page size) is cut off.

        Raises `InvalidName`, `PageFileNotFound`, `PageSizeMismatch`, `InvalidRequest`, `FileDamaged`, `NoSpace`, and
        `CorruptionFound` if pages that were committed are not there.
        """
        with self._changing("System.open()"):
            catalog = self._store.catalog
            entry = catalog.table.entries.get(check_name(name))
            if page_size is not None:
                check_page_fits(page_size, self._storage.log.segment_bytes)
            if entry is None:
                if read_only or not create:
                    raise PageFileNotFound(f"there is no page file {name!r}, and it was not to be created")
                entry = self._create(name, DEFAULT_BLOCK_SIZE if page_size is None else page_size)
            elif page_size is not None and page_size != entry.page_size:
                raise PageSizeMismatch(f"{name!r} has pages of {entry.page_size} bytes, not {page_size!r}")
            served = self._served.get(entry.number) or self._serve(entry, repair)
            return PageFile(self, served.server, served.state, read_only)

    def _create(self, name: str, page_size: int) -> CatalogEntry:
        catalog = self._store.catalog
        entry = catalog.make_file(name, page_size)
        try:
            self._change(CreateEntry, entry)
        except RequestError:
            catalog.remove_file(entry)  # after any other error it may have got its name, or get it yet
            raise
        return entry

    def _serve(self, entry: CatalogEntry, repair: bool) -> ServedFile:
        storage = self._storage
        page_count = storage.log.page_counts[entry.number]
        file = self._store.open(entry, page_count, repair=repair)
        state = PageFileState(
            entry.name,
            entry.number,
            entry.page_size,
            page_count,
            storage.table,
            storage.dirty,
            self.options.server.version_bytes,
        )
        ref = self.runtime.start(
            PageFileServer,
            state,
            file,
            storage.pool,
            storage.log,
            storage.wal,
            storage.checkpointer,
            storage.write_room,
            storage.writer_of(entry.number),
            storage.images,
            self.panic,
            self.options.server,
            self._observer,
            lambda: self._failed,
        )
        server = cast("Ref[PageFileServer]", ref)
        served = self._served[entry.number] = ServedFile(server, state, file)
        self.runtime.register(server_name(entry.name), server)
        return served

    def names(self) -> list[str]:
        """The names of all page files, sorted."""
        with self._changing("System.names()"):
            return self._store.catalog.names()

    def drop(self, name: str) -> None:
        """Delete a page file, durably; its open requests fail.

        Its space is free after the next checkpoint.  Raises `InvalidName`, `PageFileNotFound`, `NoSpace`; after
        `Timeout` the page file is there and usable, or gone.
        """
        with self._changing("System.drop()"):
            self._change(DropEntry, name)

    def rename(self, name: str, new_name: str) -> None:
        """Give a page file another name, durably; handles that are open go on under the new name.

        Raises `InvalidName`, `PageFileNotFound`, `PageFileExists`, `NoSpace`.
        """
        with self._changing("System.rename()"):
            self._change(RenameEntry, name, new_name)

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        """One caller at a time changes which files there are; never in a handler, as the caller may have to wait."""
        self.runtime.refuse_in_handler(what)
        with self._lock:
            self._check()
            self._settle()
            try:
                yield
            except CorruptionFound:  # of one page file
                raise
            except FatalError as error:  # only recovery can tell now which files there are
                self.panic(error)
                raise

    def _change(self, change: Callable[..., Any], *arguments: Any) -> None:
        """Have the catalog changed; raises what it was refused with, or `Timeout`."""
        self._unsettled = True
        self._ask_catalog(change, *arguments)
        self._unsettled = False

    def _settle(self) -> None:
        """Wait until it is known what became of a change that nobody waited for to its end."""
        if self._unsettled:
            self._ask_catalog(Sync)
            self._unsettled = False

    def _ask_catalog(self, message_class: Callable[..., Any], *arguments: Any) -> None:
        call = SimpleCall(new_ref())
        client = self.thread_client()
        server = cast("Ref[Any]", self._storage.catalog)
        self.perform(server, client, call, message_class(call.ref, client, *arguments), None)

    # -- the log

    def slots(self) -> list[Slot]:
        """The retention slots, by name: who holds the log back, from where on, and who was given up."""
        with self._changing("System.slots()"):
            return self._storage.slots.all()

    def create_slot(self, name: str, lsn: int | None = None) -> Slot:
        """Hold the log back from an LSN on (None: the redo point), for up to `WalOptions.slot_bytes`.

        Raises `InvalidName`, `InvalidRequest`, `SlotExists`, `NoSpace`, and `SlotLost` if the log from there on is not
        kept any more.
        """
        with self._changing("System.create_slot()"):
            if lsn is not None:
                self._check_durable(lsn)
            return self._storage.slots.create(name, lsn)

    def advance_slot(self, name: str, lsn: int) -> Slot:
        """The owner of a slot needs nothing before this LSN.  `SlotNotFound`, `SlotLost`, `InvalidRequest`."""
        with self._changing("System.advance_slot()"):
            self._check_durable(lsn)
            return self._storage.slots.advance(name, lsn)

    def drop_slot(self, name: str) -> None:
        """Remove a slot, held or lost; the next checkpoint uses its log again.  `SlotNotFound`."""
        with self._changing("System.drop_slot()"):
            self._storage.slots.drop(name)

    def backup(
        self,
        destination: str | PathLike[str] | FileSystem,
        progress: Callable[[Progress], None] | None = None,
    ) -> BackupReport:
        """Copy the directory to another, which must not exist or be empty, while it is used (`pfs.backup`).

        Opening the copy restores it, with everything that was acknowledged before the call.  Others may read and write
        meanwhile.  Raises what `pfs.backup.backup` does; `FileExists`, `FileMissing`, `InvalidRequest` for a
        destination that cannot be.
        """
        with self._changing("System.backup()"):
            for served in list(self._served.values()):
                PageFile(
                    self, served.server, served.state
                ).sync()  # what was acknowledged with durability "memory", too
        source = self._store.file_system
        if isinstance(destination, (str, PathLike)):
            return backup(source, destination_in(destination, source), progress)
        return backup(source, destination, progress)

    def _check_durable(self, lsn: int) -> None:
        flushed = self._storage.log.buffer.flushed
        if type(lsn) is int and lsn > flushed:
            raise InvalidRequest(f"LSN {format_lsn(lsn)}: the log is durable only to {format_lsn(flushed)}")

    # -- actors

    def start(self, actor_class: type[A], *args: Any, **kwargs: Any) -> pykka.ActorRef[A]:
        """Start an actor of yours on this system's scheduler; raises what its `on_start` raised."""
        self._check()
        return self.runtime.start(actor_class, *args, **kwargs)

    def whereis(self, name: str) -> Address | None:
        """The living actor of this name; the server of page file x is "pfs.server.x"."""
        return cast("Address | None", self.runtime.whereis(name))

    def stats(self) -> dict[str, Any]:
        """Nested counters of everything: files, buffer pool, virtual files, actors."""
        files = {}
        for served in list(self._served.values()):
            stat = PageFile(self, served.server, served.state).stat()
            files[stat.name] = {"page_size": stat.page_size, "page_count": stat.page_count, **stat.counters}
        return {
            "files": files,
            "buffer_pool": self._storage.pool_stats(),
            "wal": self._storage.stats(),
            "virtual_files": self._store.stats(),
            "actors": self.runtime.stats(),
        }

    # -- calls of plain threads

    def thread_client(self) -> ThreadClient:
        """This thread's client address, which ends with the thread."""
        try:
            return self._local.slot.client  # type: ignore[no-any-return]
        except AttributeError:
            self._local.slot = slot = _ThreadSlot(threading.current_thread().name, self._ended_clients)
            return slot.client

    def perform(self, server: Ref[Any], client: ThreadClient, call: Call, message: Any, timeout: float | None) -> None:
        """Send a request and wait for its end; raises what ended it.  It is cancelled if the wait is given up."""
        with self.open_call(server, client, call, message):
            self.wait(call, timeout)
        if call.error is not None:
            raise call.error

    @contextmanager
    def open_call(self, server: Ref[Any], client: ThreadClient, call: Call, message: Any) -> Iterator[None]:
        """Send a request, and cancel it if it has not ended when the block is left."""
        self._check()
        self.runtime.refuse_in_handler(f"a {type(message).__name__} call")
        self._end_clients()
        client.calls[call.ref] = call
        try:
            server.post(message)
            if not server.is_alive() and not call.done:  # it may not have seen the message
                raise SystemStopped("the page file's server has ended: open the page file again")
            yield
        except BaseException:
            self._give_up(server, client, call)
            raise
        finally:
            del client.calls[call.ref]

    def _end_clients(self) -> None:
        try:
            while True:
                self._ended_clients.popleft().end()
        except IndexError:
            pass

    def _give_up(self, server: Ref[Any], client: ThreadClient, call: Call) -> None:
        tell_if_alive(server, Cancel(call.ref, client))

    def wait(self, call: Call, timeout: float | None) -> None:
        """Wait until the call is finished; the thread drives the scheduler meanwhile."""
        self.runtime.wait(call, self.options.call_timeout if timeout is None else timeout, call.what_times_out)

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
        if self._stopped:
            raise SystemStopped(f"the system on {self._store.name} is stopped")

    # -- the end

    @property
    def failed(self) -> SystemFailed | None:
        """Why the system has failed, None if it has not."""
        return self._failed

    def panic(self, cause: BaseException) -> None:
        """Mark the system failed (see the module).  Called from actors' handlers: never blocks."""
        if not self._started:
            self._failures_in_start.append(cause)
            return
        if self._failed is not None:
            return
        message = (
            f"the system on {self._store.name} has failed: {cause}; nothing more is written or acknowledged: "
            "open the directory with a new System"
        )
        self._failed = SystemFailed(message, cause)
        logger.critical(message)
        self._storage.kill(self._failed)
        for served in list(self._served.values()):
            tell_if_alive(served.server, Fail(self._failed))

    def stop(self, timeout: float = 30.0) -> None:
        """Finish what is being written, sync, stop all actors and unlock the directory.  Safe to call twice."""
        self.runtime.refuse_in_handler("System.stop()")
        with self._lock:
            if self._stopped:
                return
            if self._failed is None:
                for served in list(self._served.values()):
                    self._quiesce(PageFile(self, served.server, served.state))
                try:
                    self._settle()
                    self.checkpoint(timeout=timeout, shutdown=True)
                except PfsError as error:
                    logger.error("no last checkpoint was made, so the next start recovers from the log: %s", error)
            self._stopped = True
            self.runtime.stop(timeout)
            try:
                self._storage.close()
            except PfsError as error:
                if self._failed is None:
                    raise
                logger.error("closing the files of a failed system: %s", error)

    def _quiesce(self, file: PageFile) -> None:
        """End a server's requests; what it has acknowledged is in the log."""
        call = SimpleCall(new_ref())
        client = self.thread_client()
        try:
            self.perform(file.server, client, call, Stop(ref=call.ref, client=client), None)
        except PfsError as error:
            logger.error("Stop of %r failed: %s", file.name, error)

    def checkpoint(self, *, timeout: float | None = None, shutdown: bool = False) -> None:
        """Write all dirty pages to the page files and let the log before be used again.

        Happens by itself as `WalOptions` says.  `shutdown`: nothing is logged after it; for `stop`.
        """
        call = SimpleCall(new_ref())
        client = self.thread_client()
        checkpointer = cast("Ref[Any]", self._storage.checkpointer)
        self.perform(checkpointer, client, call, MakeCheckpoint(client, call.ref, shutdown), timeout)


class _ThreadSlot:
    """Lives as long as its thread; its end tells that the thread has ended."""

    def __init__(self, name: str, ended: deque[ThreadClient]) -> None:
        self.client = ThreadClient(name)
        self._ended = ended

    def __del__(self) -> None:
        self._ended.append(self.client)  # a finalizer may run anywhere, so it does no more than this
