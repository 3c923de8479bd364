"""`PageFileServer`: the actor that serves one page file to any number of clients.

It queues their requests and serves them round-robin, a chunk of pages at a time, over streams (the PFS architecture
notes).  The actor is a shell: it knows sessions, turns messages into calls of `ReadService`, `WriteIntake` and
`WriteService`, and keeps itself going: as long as a request is ready it has one `Turn` message to itself in its
mailbox, whatever other messages come.

What ends what: a client that ends takes its session with it, its requests, streams and reservations, and nothing
else; a request that is wrong ends alone, with `RequestFailed` to its client; a failure of the disk that leaves the
file unknown, or of the server's own code, ends the system (`panic`).
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, cast

import msgspec
import pykka

from pfs.actors import Actor, Address, Down
from pfs.actors.buffer_pool import PagesLoaded
from pfs.actors.checkpointer import Dirtied, FileCut, GiveCredit
from pfs.actors.file_worker import Carried
from pfs.actors.read_service import ReadService
from pfs.actors.requests import ReadRequest, ServerOptions, Session, WriteRequest, is_address
from pfs.actors.server_core import Request, ServerCore
from pfs.actors.wal_server import WalFlushed, WalRefused, WalRoomMade
from pfs.actors.write_room import WriteRoom
from pfs.actors.write_service import Committed, WriteService
from pfs.cache.page_file_state import PageFileState
from pfs.errors import (
    Busy,
    Cancelled,
    InvalidRequest,
    PfsError,
    ProtocolError,
    ServerInactive,
    SessionEnded,
    SystemFailed,
)
from pfs.files.block_file import BlockFile
from pfs.protocol import (
    Cancel,
    DataAppend,
    DataPages,
    DataRead,
    DataWrite,
    Done,
    Empty,
    RequestFailed,
    Start,
    Stat,
    StatReply,
    Stop,
    StreamEnd,
    Sync,
    Truncate,
)
from pfs.streams.stream import Received, Stream, TransferFailed
from pfs.wal.shared_log import SharedLog
from pfs.wal.sidecar_images import SidecarImages


class Turn(msgspec.Struct, frozen=True, gc=False):
    """The server to itself: serve."""


class LookForIdle(msgspec.Struct, frozen=True, gc=False):
    """The server to itself: look for writers that send nothing, and readers that give no credit."""


class Fail(msgspec.Struct, frozen=True, gc=False):
    """The system has failed: end every request with this error, and take no more."""

    error: PfsError


_TURN = Turn()
_DIRTIED = Dirtied()
_REQUESTS = (DataRead, DataWrite, DataAppend)
_CALLS = (Start, Stop, Sync, Truncate, Stat)

ServedObserver = Callable[[int, Address, int, int], None]
"""Called for each chunk served: the server's turn number, the client, the request's ref, the pages."""


class PageFileServer(Actor):
    """Serves one page file (see the module).

    `panic` is called with the cause when the file can no longer be trusted; it must not block.  `observer` is told of
    every chunk, for demonstrations and tests of fairness.  `failure()` says what the system has failed with, if it has:
    from that moment, which comes before the message that says so, nothing is acknowledged.
    """

    inline = True

    def __init__(
        self,
        state: PageFileState,
        file: BlockFile,
        pool: Address,
        log: SharedLog,
        wal: Address,
        checkpointer: Address,
        room: WriteRoom,
        writer: Address,
        images: SidecarImages,
        panic: Callable[[BaseException], None],
        options: ServerOptions | None = None,
        observer: ServedObserver | None = None,
        failure: Callable[[], PfsError | None] | None = None,
    ) -> None:
        super().__init__()
        self._failure = failure
        self._options = options or ServerOptions()
        core_ref = cast(Address, self._actor_ref)

        def dirtied() -> None:
            self._core.tell_worker(checkpointer, _DIRTIED)

        self._core = ServerCore(
            core_ref, state, file, pool, self._options, panic, self._arm, self.scheduler.now, dirtied, self._watch_idle
        )
        self._reads = ReadService(self._core)
        self._writes = WriteService(self._core, self._reads, log, wal, checkpointer, room, writer, images)
        self._intake = self._writes.intake
        self._sessions: dict[Address, Session] = {}
        self._streams: dict[Address, Session] = {}
        self._observer = observer
        self._armed = False
        self._looking_for_idle = False
        self._active = True
        self._retired: PfsError | None = None
        self._failed: PfsError | None = None
        self._failed_at: Any = None
        self._stopping: list[Stop] = []
        self._handlers: dict[type, Callable[[Any], Any]] = {
            DataRead: self._data_read,
            DataWrite: self._data_write,
            DataAppend: self._data_write,
            Cancel: self._cancel,
            Start: self._start,
            Stop: self._stop_serving,
            Sync: self._sync,
            Truncate: self._truncate,
            Stat: self._stat,
            Turn: self._turn,
            Received: self._received,
            TransferFailed: self._transfer_failed,
            PagesLoaded: self._pages_loaded,
            WalFlushed: self._wal_answered,
            WalRoomMade: self._wal_answered,
            WalRefused: self._wal_answered,
            FileCut: self._wal_answered,
            GiveCredit: self._give_credit,
            Carried: self._carried,
            Down: self._down,
            LookForIdle: self._look_for_idle,
            Fail: self._fail_all,
        }

    def on_receive(self, message: Any) -> Any:
        handler = self._handlers.get(type(message))
        if handler is None:
            return self._unknown(message)
        try:
            reply = handler(message)
            if self._stopping:
                self._stop_when_quiet()
            return reply
        except BaseException:
            self._failed_at = message
            raise

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The server's own code failed: nobody may be left waiting, and the state of the file is in doubt."""
        assert exception_value is not None
        self._core.panic(exception_value)
        message = self._failed_at
        if isinstance(message, (*_REQUESTS, *_CALLS)) and not any(
            request.ref == message.ref and request.session.client is message.client for request in self._requests()
        ):
            self._actor_ref.items.append(message)  # to be answered with those that were not handled yet
        self._leave(
            SystemFailed(f"the server of {self._core.state.name!r} failed: {exception_value!r}", exception_value)
        )

    def on_stop(self) -> None:
        self._leave(SessionEnded(f"the server of {self._core.state.name!r} was stopped"))

    # -- turns

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self._actor_ref.tell(_TURN)

    @property
    def _has_failed(self) -> bool:
        """From the moment of a panic nothing is acknowledged and nothing more is written."""
        return self._failed is not None or (self._failure is not None and self._failure() is not None)

    def _turn(self, _: Turn) -> None:
        if self._has_failed:
            return
        core = self._core
        counters, following = core.counters, core.order.next
        left = self._options.chunk  # several small chunks, or one large: others' mailboxes wait no longer for it
        request: Request | None = None
        while left > 0:
            request = following()
            if request is None:
                break
            counters["turns"] += 1
            served: ReadService | WriteService = self._reads if type(request) is ReadRequest else self._writes
            pages = served.serve(request)  # type: ignore[arg-type]
            left -= pages or 1
            if pages and self._observer is not None:
                self._observer(counters["turns"], request.session.client, request.ref, pages)
        self._writes.flush()
        self._armed = False
        if request is not None and core.order:
            self._arm()

    # -- requests

    def _data_read(self, message: DataRead) -> None:
        session = self._open(message)
        if session is None:
            return
        if session.read_stream is None:
            session.read_stream = self._stream(session)
        self._admit(session, message, self._reads.admit)

    def _data_write(self, message: DataWrite | DataAppend) -> None:
        session = self._open(message)
        if session is None:
            return
        if session.write_stream is None:
            session.write_stream = self._stream(session)
        self._admit(session, message, self._intake.admit)
        self._watch_idle()

    def _admit(self, session: Session, message: Any, admit: Callable[[Session, Any], None]) -> None:
        try:
            if self._failed is not None:
                raise self._failed
            if not self._active:
                raise ServerInactive(f"the server of {self._core.state.name!r} is inactive; send it Start")
            if type(message.ref) is not int:
                raise InvalidRequest(f"ref must be an int, not {message.ref!r}")
            if message.ref in session.requests:
                raise ProtocolError(f"ref {message.ref} is in use for an open request of this client")
            if len(session.requests) >= self._options.session_requests:
                raise Busy(
                    f"the client has {len(session.requests)} requests open; the limit is "
                    f"{self._options.session_requests}: wait for some to end, or raise `session_requests`"
                )
            self._core.counters["requests"] += 1
            admit(session, message)
        except PfsError as error:
            self._core.refuse(message.client, message.ref, error)

    def _open(self, message: Any) -> Session | None:
        """The session of the message's client, opened if need be; None if nobody could be answered."""
        client = message.client
        try:
            session = self._sessions.get(client)
        except Exception:  # it cannot be hashed
            session = None
        if session is None:
            if not is_address(client):
                self._core.counters["dropped"] += 1
                return None
            session = self._sessions[client] = Session(client)
            self.monitor(client)
        return session

    def _stream(self, session: Session) -> Any:
        stream = self.scheduler.start(Stream, self._core.ref, session.client)
        self._streams[cast(Address, stream)] = session
        self.monitor(stream)
        return stream

    def _received(self, message: Received) -> None:
        session = self._sessions.get(message.client)
        inner = message.message
        request = session.requests.get(inner.ref) if session is not None else None
        kind = type(inner)
        if kind is Empty:
            if type(request) is ReadRequest:
                self._reads.credit(request, cast(Empty, inner).n)
        elif isinstance(request, WriteRequest):
            if isinstance(inner, DataPages):
                self._intake.data(request, inner)
            elif isinstance(inner, StreamEnd):
                self._writes.end(request, inner)

    def _cancel(self, message: Cancel) -> None:
        session = self._sessions.get(message.client) if is_address(message.client) else None
        request = session.requests.get(message.ref) if session is not None and type(message.ref) is int else None
        if request is not None:
            self._end(request, Cancelled(f"request {request.ref} was cancelled"))

    def _end(self, request: Request, error: PfsError) -> None:
        if isinstance(request, ReadRequest):
            self._reads.fail(request, error)
        else:
            self._writes.fail(request, error)

    def _transfer_failed(self, message: TransferFailed) -> None:
        session = self._sessions.get(message.client)
        request = session.requests.get(message.ref) if session is not None else None
        if request is not None:
            self._end(request, message.error)
        elif not message.opened:
            self._core.refuse(message.client, message.ref, message.error)

    # -- answers of the pool and the workers

    def _pages_loaded(self, message: PagesLoaded) -> None:
        if self._has_failed:
            return
        if isinstance(message.token, ReadRequest):
            self._reads.loaded(message.token, message.pages, message.error)
        else:
            self._writes.loaded(message.token, message.pages, message.error)

    def _wal_answered(self, message: WalFlushed | WalRoomMade | WalRefused | FileCut) -> None:
        if self._has_failed:
            return
        match message:
            case WalRefused(token, error):
                self._writes.refused(token, error)
            case FileCut(token):
                self._writes.was_cut(token.message)
            case WalFlushed(Committed(), lsn):
                self._writes.durable(lsn)
            case WalFlushed(token) | WalRoomMade(token):
                self._writes.flushed(token)

    def _give_credit(self, _: GiveCredit) -> None:
        if not self._has_failed:
            self._intake.give_credit()

    def _carried(self, message: Carried) -> None:
        if self._has_failed:
            return
        self._writes.carried(message.token, message.error)

    # -- other messages

    def _start(self, message: Start) -> None:
        error = self._failed or self._retired
        if error is not None:
            self._refuse_call(message, error)
            return
        self._active = True
        self._answer(message.client, Done(message.ref))

    def _stop_serving(self, message: Stop) -> None:
        if self._failed is not None:
            self._refuse_call(message, self._failed)
            return
        self._active = False
        name = self._core.state.name
        for request in self._requests():
            self._end(request, ServerInactive(f"the server of {name!r} was stopped before the request was finished"))
        self._stopping.append(message)

    def _stop_when_quiet(self) -> None:
        if self._stopping and not self._writes.applying:
            stopping, self._stopping = self._stopping, []
            for message in stopping:
                self._answer(message.client, Done(message.ref))

    def _sync(self, message: Sync) -> None:
        self._serve_call(message, lambda: self._writes.sync(message))

    def _truncate(self, message: Truncate) -> None:
        def truncate() -> None:
            if not self._active:
                raise ServerInactive(f"the server of {self._core.state.name!r} is inactive; send it Start")
            self._writes.truncate(message)

        self._serve_call(message, truncate)

    def _serve_call(self, message: Sync | Truncate, call: Callable[[], None]) -> None:
        if not is_address(message.client):
            self._core.counters["dropped"] += 1
            return
        try:
            if self._failed is not None:
                raise self._failed
            call()
        except PfsError as error:
            self._refuse_call(message, error)

    def _refuse_call(self, message: Any, error: PfsError) -> None:
        if is_address(message.client):
            self._core.refuse(message.client, message.ref, error)

    def _stat(self, message: Stat) -> StatReply:
        reply = self.stat(message.ref)
        self._answer(message.client, reply)
        return reply

    @property
    def is_active(self) -> bool:
        """Whether it takes requests."""
        return self._active

    @property
    def is_quiet(self) -> bool:
        """Whether it takes no requests, and nothing that changes the file is on its way."""
        return not self._active and not self._writes.applying

    def retire(self, error: PfsError) -> None:
        """Never take requests again (`Start` fails with this error); for the catalog's actor, when it is quiet.

        Called directly, under the drive lock: no COMMIT of the file may be logged after its DROP.
        """
        assert self.is_quiet
        self._retired = error

    def stat(self, ref: int = 0) -> StatReply:
        """What `Stat` answers; also as the return value of a Pykka `ask(Stat(...))`."""
        core, state = self._core, self._core.state
        counters = {
            **core.counters,
            **self._writes.counters(),
            "sessions": len(self._sessions),
            "ready": len(core.order),
            "reads_without_credit": self._reads.parked,
            "version": state.version,
            "old_version_bytes": state.versions.kept_bytes,
            "old_versions_saved": state.versions.saved,
        }
        return StatReply(ref, state.name, state.page_size, state.page_count, self._active, counters)

    def _answer(self, client: Any, reply: Any) -> None:
        if is_address(client):
            self._core.tell(client, reply)

    def _unknown(self, message: Any) -> RequestFailed:
        """A message that nobody knows: an error to its sender if it says who that is; also the answer to an ask."""
        self._core.counters["dropped"] += 1
        try:
            ref, client = getattr(message, "ref", 0), getattr(message, "client", None)
        except Exception:  # whatever it is, it does not say whose it is
            ref, client = 0, None
        error = ProtocolError(f"a page file server does not know messages of class {type(message).__name__}")
        failed = RequestFailed(ref if type(ref) is int else 0, error)
        self._answer(client, failed)
        return failed

    def _look_for_idle(self, _: LookForIdle) -> None:
        writes = [request for request in self._requests() if isinstance(request, WriteRequest)]
        self._intake.check_idle(writes)
        self._reads.check_idle()
        self._looking_for_idle = False
        if writes or self._reads.parked:
            self._watch_idle()

    def _watch_idle(self) -> None:
        if not self._looking_for_idle:
            self._looking_for_idle = True
            self.send_after(min(self._options.idle_seconds, self._options.read_idle_seconds) / 2, LookForIdle())

    # -- the end of things

    def _requests(self) -> list[Request]:
        return [request for session in self._sessions.values() for request in session.requests.values()]

    def _down(self, message: Down) -> None:
        client = cast(Address, message.ref)
        session = self._sessions.pop(client, None)
        if session is not None:
            for request in list(session.requests.values()):
                self._end(request, SessionEnded(f"the client {client} has ended"))
            for stream in (session.read_stream, session.write_stream):
                if stream is not None:
                    self._streams.pop(stream, None)
                    self.demonitor(stream)
                    stream.stop(block=False)
            return
        session = self._streams.pop(client, None)
        if session is not None:
            self._stream_down(session, client, message.reason)

    def _stream_down(self, session: Session, stream: Address, reason: BaseException | None) -> None:
        """A stream has ended before its session: the requests on it end, the next one gets a new stream."""
        if stream is session.read_stream:
            session.read_stream = None
        else:
            session.write_stream = None
        for request in list(session.requests.values()):
            if request.stream is stream:
                self._end(request, SessionEnded(f"the stream of request {request.ref} has ended: {reason!r}"))

    def _fail_all(self, message: Fail) -> None:
        self._end_all(message.error)

    def _end_all(self, error: PfsError) -> None:
        self._failed = self._failed or error
        for request in self._requests():
            if isinstance(request, ReadRequest):
                self._reads.fail(request, error)
            else:
                self._writes.abandon(request, error)
        self._writes.abandon_calls(error)
        for message in self._stopping:
            self._refuse_call(message, error)
        self._stopping.clear()

    def _leave(self, error: PfsError) -> None:
        """The server ends: so do its requests, those in its mailbox too, its streams, and its watching of others."""
        self._end_all(error)
        for message in list(self._actor_ref.items):
            if isinstance(message, (*_REQUESTS, *_CALLS)):
                self._refuse_call(message, error)
        for stream in self._streams:
            self.demonitor(cast("pykka.ActorRef[Any]", stream))
            cast("pykka.ActorRef[Any]", stream).stop(block=False)
        for client in self._sessions:
            self.demonitor(cast("pykka.ActorRef[Any]", client))
