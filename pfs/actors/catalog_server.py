"""`CatalogServer`: the actor that changes the catalog; each change is one logged transaction.

Changes are carried out one after the other.  In one step a change is decided on the table (`Catalog.table`), its
CREATE, RENAME or DROP inserted into the log, and the table replaced; so the order of the records is the order of the
changes, and the table is at every moment what the log up to now makes of it.  That is what a checkpoint saves, as of
its redo point.  When the record is durable the change takes effect for everybody else, and is answered.

* A file is made before its CREATE, by whoever asks for it: without a name it is a stray, and harms nobody.
* Before a DROP the file's server is stopped: what is being logged ends first, and in the step that inserts the DROP the
  server is retired, so no COMMIT follows it.  When the DROP is durable the file's pages are forgotten.  Its files are
  removed by the checkpointer, after a checkpoint whose redo point is past the DROP: before, a recovery may need them.
* After a RENAME the server goes on; who has the file open notices nothing but the name.
* A change that was given up (`Cancel`) before its record was inserted has not happened, and a server that was stopped
  for it is started again.  One that is in the log goes on to its end, whoever waits for it.
* No space in the log: the change fails with `NoSpace`, and has not happened.

`Sync` is answered when every change that was asked for before has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, cast

import msgspec
import pykka

from pfs.actors import Actor, Address, Down
from pfs.actors.buffer_pool import Waiting, tell_outcomes
from pfs.actors.checkpointer import Dirtied, RemoveFile
from pfs.actors.monitors import tell_if_alive
from pfs.actors.page_file_server import PageFileServer
from pfs.actors.reference import Ref
from pfs.actors.wal_server import WalFlush, WalFlushed, WalRefused, WalRoom, WalRoomMade
from pfs.cache.dirty_pages import DirtyPages
from pfs.cache.page_file_state import PageFileState
from pfs.cache.page_table import PageTable
from pfs.errors import Cancelled, NameTaken, NoSpace, PageFileNotFound, PfsError, RequestError, SystemFailed
from pfs.files.catalog import Catalog, CatalogEntry
from pfs.files.catalog_table import CatalogTable
from pfs.files.checked_file import CheckedFile
from pfs.protocol import Cancel, Done, RequestFailed, Start, Stop, Sync, new_ref
from pfs.wal.bodies import Create, Drop, Rename
from pfs.wal.shared_log import SharedLog


class CreateEntry(msgspec.Struct, frozen=True, gc=False):
    """Give a new file its name; it has been made.  Replied with `Done` or `RequestFailed`, as all changes are."""

    ref: int
    client: Address
    entry: CatalogEntry


class RenameEntry(msgspec.Struct, frozen=True, gc=False):
    """Give a page file another name."""

    ref: int
    client: Address
    name: str
    new_name: str


class DropEntry(msgspec.Struct, frozen=True, gc=False):
    """Let a page file be no more."""

    ref: int
    client: Address
    name: str


CatalogRequest = CreateEntry | RenameEntry | DropEntry | Sync
_REQUESTS = (CreateEntry, RenameEntry, DropEntry, Sync)


class ServedFile(NamedTuple):
    """A page file that is open."""

    server: Ref[PageFileServer]
    state: PageFileState
    file: CheckedFile


def server_name(name: str) -> str:
    """The name that the server of a page file is registered by."""
    return f"pfs.server.{name}"


class _Change:
    """The change that is being made."""

    __slots__ = ("entry", "is_durable", "lsn", "message", "served", "stop_ref", "was_active")

    def __init__(self, message: CreateEntry | RenameEntry | DropEntry) -> None:
        self.message = message
        self.entry: CatalogEntry | None = None
        self.lsn: int | None = None
        """Of its record, if that is inserted."""
        self.is_durable = False
        self.served: ServedFile | None = None
        """Whose server was stopped for it."""
        self.was_active = False
        self.stop_ref: int | None = None
        """Of the `Stop` that has not been answered."""


class CatalogServer(Actor):
    """Changes the catalog (see the module).

    `served`: the open page files by id, shared with the system.  `panic`: called when its own code fails.
    """

    inline = True

    def __init__(
        self,
        catalog: Catalog,
        log: SharedLog,
        wal: Address,
        checkpointer: Address,
        table: PageTable[Waiting],
        dirty: DirtyPages,
        served: dict[int, ServedFile],
        panic: Callable[[BaseException], None],
    ) -> None:
        super().__init__()
        self._catalog = catalog
        self._log = log
        self._wal = wal
        self._checkpointer = checkpointer
        self._table = table
        self._dirty = dirty
        self._served = served
        self._panic = panic
        self._queue: deque[CatalogRequest] = deque()
        self._change: _Change | None = None

    def on_receive(self, message: Any) -> None:
        change = self._change
        match message:
            case CreateEntry() | RenameEntry() | DropEntry() | Sync():
                self._queue.append(message)
            case Cancel():
                self._cancel(message)
            case Done(ref) if change is not None and ref == change.stop_ref:
                self._log_change(change)
            case RequestFailed(ref, error) if change is not None and ref == change.stop_ref:
                self._not_stopped(change, error)
            case Down(ref) if change is not None and ref is self._server_ref(change):
                self._server_ended(change)
            case WalRoomMade(token) if token is change and change is not None:
                self._log_change(change)
            case WalRefused(token, error) if token is change and change is not None:
                self._fail(change, error)
            case WalFlushed(token):
                assert change is not None
                assert token is change
                self._take_effect(change)
        while self._change is None and self._queue:
            self._begin(self._queue.popleft())

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """What the catalog is now nobody knows, and nobody may be left waiting."""
        assert exception_value is not None
        self._panic(exception_value)
        self.refuse_all(SystemFailed(f"the catalog's actor failed: {exception_value!r}", exception_value))

    def refuse_all(self, error: PfsError) -> None:
        """The system has failed: answer all that was asked for, handled or not."""
        unhandled = [each for each in self.actor_ref.items if isinstance(each, _REQUESTS)]
        under_way = [] if self._change is None else [self._change.message]
        for message in [*under_way, *self._queue, *unhandled]:
            tell_if_alive(message.client, RequestFailed(message.ref, error))

    # -- a change begins

    def _begin(self, message: CatalogRequest) -> None:
        if isinstance(message, Sync):
            tell_if_alive(message.client, Done(message.ref))
            return
        change = self._change = _Change(message)
        if isinstance(message, DropEntry):
            try:
                change.served = self._served.get(self._catalog.get(message.name).number)
            except RequestError as error:
                self._fail(change, error)
                return
            server = self._server(change)
            change.was_active = server is not None and server.is_active
        self._log_change(change)

    def _server_ref(self, change: _Change) -> Ref[PageFileServer] | None:
        return change.served.server if change.served is not None else None

    def _server(self, change: _Change) -> PageFileServer | None:
        """The server of the file that is to be dropped, if it lives."""
        ref = self._server_ref(change)
        return ref._actor if ref is not None else None

    def _server_ended(self, change: _Change) -> None:
        if change.is_durable:
            self._end(change, Done(change.message.ref))
        elif change.stop_ref is not None:
            self._log_change(change)

    def _not_stopped(self, change: _Change, error: PfsError) -> None:
        if self._server(change) is None:  # it has ended instead
            self._log_change(change)
        else:
            self._fail(change, error)

    def _log_change(self, change: _Change) -> None:
        change.stop_ref = None
        server = self._server(change)
        if server is not None and not server.is_quiet:  # or not any more: anybody may send it `Start`
            change.stop_ref = new_ref()
            self.monitor(server.actor_ref)
            server.actor_ref.tell(Stop(change.stop_ref, self._actor_ref))
            return
        files = len(self._log.page_counts)
        try:
            record, entry, table = self._decide(change.message)
            if isinstance(record, Create):
                self._log.keep_room_for(files + 1)
            change.lsn, end = self._log.buffer.insert(record)
        except NoSpace:
            self._log.keep_room_for(files)
            self._wal.tell(WalRoom(cast(Address, self._actor_ref), change))
            self._checkpointer.tell(Dirtied())  # a checkpoint may make room
            return
        except RequestError as error:
            self._fail(change, error)
            return
        change.entry = entry
        self._catalog.table = table
        if isinstance(record, Create):
            self._log.page_counts[entry.number] = 0
        elif isinstance(record, Drop):
            del self._log.page_counts[entry.number]
            self._log.keep_room_for(files - 1)
        if server is not None:
            server.retire(_dropped(entry))
        self._wal.tell(WalFlush(end, cast(Address, self._actor_ref), change))

    def _decide(
        self, message: CreateEntry | RenameEntry | DropEntry
    ) -> tuple[Create | Rename | Drop, CatalogEntry, CatalogTable]:
        """The record, the page file as it is before (a new one: as it will be), and the table after the change."""
        table = self._catalog.table
        if isinstance(message, CreateEntry):
            entry = message.entry
            return Create(entry.number, entry.page_size, entry.name), entry, table.added(entry)
        entry = table.get(message.name)
        if isinstance(message, RenameEntry):
            return Rename(entry.number, message.new_name), entry, table.renamed(message.name, message.new_name)
        return Drop(entry.number), entry, table.dropped(message.name)

    # -- a change ends

    def _take_effect(self, change: _Change) -> None:
        """The record is durable."""
        message, entry = change.message, change.entry
        assert entry is not None
        assert change.lsn is not None
        if isinstance(message, RenameEntry):
            self._renamed(entry, message.new_name)
        elif isinstance(message, DropEntry):
            self._forget(entry)
            self._checkpointer.tell(RemoveFile(entry, change.lsn))
        self._checkpointer.tell(Dirtied())
        change.is_durable = True
        server = self._server(change)
        if server is None:
            self._end(change, Done(message.ref))
        else:  # so that nobody reaches it any more who knows of the drop
            self.monitor(server.actor_ref)
            server.actor_ref.stop(block=False)

    def _renamed(self, entry: CatalogEntry, new_name: str) -> None:
        served = self._served.get(entry.number)
        if served is not None:
            served.state.name = served.file.title = new_name
            self.scheduler.unregister(server_name(entry.name))
            with suppress(NameTaken, pykka.ActorDeadError):  # an actor of somebody else's may have the name
                self.scheduler.register(server_name(new_name), served.server)

    def _forget(self, entry: CatalogEntry) -> None:
        served = self._served.pop(entry.number, None)
        if served is not None:
            self.scheduler.unregister(server_name(entry.name))
            tell_outcomes(self._table.discard(entry.number, 0, _dropped(entry)))
            self._dirty.discard(entry.number, 0)

    def _fail(self, change: _Change, error: PfsError) -> None:
        """The change has not happened."""
        server = self._server(change)
        if server is not None and change.was_active:
            server.actor_ref.tell(Start())
        self._end(change, RequestFailed(change.message.ref, error))

    def _cancel(self, message: Cancel) -> None:
        change = self._change
        if change is not None and change.lsn is None and _is_meant(message, change.message):
            self._fail(change, Cancelled(f"request {message.ref} was cancelled"))
        for each in [each for each in self._queue if _is_meant(message, each)]:
            self._queue.remove(each)
            tell_if_alive(each.client, RequestFailed(each.ref, Cancelled(f"request {each.ref} was cancelled")))

    def _end(self, change: _Change, answer: Done | RequestFailed) -> None:
        self._change = None
        tell_if_alive(change.message.client, answer)


def _is_meant(cancel: Cancel, message: CatalogRequest) -> bool:
    return cancel.ref == message.ref and cancel.client is message.client


def _dropped(entry: CatalogEntry) -> PageFileNotFound:
    return PageFileNotFound(f"page file {entry.name!r} was dropped")
