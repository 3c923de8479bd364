"""Taking up writes and appends, and collecting their pages in memory: room, invitation, credit.

A write reserves room for all its pages, waiting for it if need be (`pfs.actors.reservations`); then its writer is
invited (`StreamReady`), and gets a credit back for each data message, until all its pages are here.  Before the log is
full, invitations and credits are held back until there is room (`pfs.actors.write_room`), so that it is the clients
that wait, and not their pages in memory.  A writer that could send, and does not, is failed after `idle_seconds`.

A bulk append needs only room for what is on its way to the data file, gives credit by itself, and its writer is
invited when it may begin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pfs.actors.bulk_append import BulkAppend, BulkAppends
from pfs.actors.requests import Session, WriteRequest, check_growth, check_write
from pfs.actors.reservations import Reservations
from pfs.actors.server_core import ServerCore
from pfs.actors.write_room import WriteRoom
from pfs.errors import IdleTooLong, PfsError, RequestError
from pfs.protocol import DataAppend, DataPages, DataWrite, Empty, StreamReady
from pfs.streams.stream import OpenTransfer


class WriteIntake:
    """The writes and appends of one page file whose pages are not all here.

    `granted`: called with a bulk append that has its room, and may be begun; `fail`: ends a write with an error.
    """

    def __init__(
        self,
        core: ServerCore,
        limits: WriteRoom,
        bulk: BulkAppends,
        granted: Callable[[BulkAppend], None],
        fail: Callable[[WriteRequest, PfsError], object],
    ) -> None:
        self._core = core
        self._limits = limits
        self._bulk = bulk
        self._bulk_granted = granted
        self._fail = fail
        self._room: Reservations[Session, WriteRequest] = Reservations(
            core.options.staging_bytes, core.options.session_staging_bytes
        )
        self._held_back: dict[WriteRequest, int] = {}
        """Collecting writes, and the credits that they are to get when the log has room; 0: the invitation."""

    # -- room and invitation

    def admit(self, session: Session, message: DataWrite | DataAppend) -> None:
        """Take up a write or append; raises what is wrong with it."""
        state = self._core.state
        check_write(message)
        if isinstance(message, DataWrite):
            state.check_range(message.pgid, message.n)
        else:
            check_growth(state.name, state.page_count, message.n)
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
        if isinstance(request, BulkAppend):
            self._bulk_granted(request)
        elif self._holds_back():
            self._held_back[request] = 0
        else:
            self.invite(request)

    def invite(self, request: WriteRequest) -> None:
        """Let a writer send its pages."""
        core, session = self._core, request.session
        request.state = "collecting"
        request.last_heard = core.now()
        options = core.options
        core.tell(request.stream, OpenTransfer(request.ref, session.client, core.ref, options.credits))
        core.tell(session.client, StreamReady(request.ref, request.stream, options.credits, options.block))

    def left(self, request: WriteRequest) -> None:
        """A write has ended, however: its room goes to others."""
        self._held_back.pop(request, None)
        for granted in self._room.release(request):
            self._granted(granted)

    # -- pages

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
            self._fail(request, error)
            return
        request.last_heard = core.now()

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
                self._fail(request, error)

    # -- credit

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
            if self._holds_back():
                self._held_back[request] = credits
            elif not credits:
                self.invite(request)
            else:
                request.last_heard = self._core.now()
                self._core.tell(request.stream, Empty(request.ref, credits))

    # -- inspection

    @property
    def waiting(self) -> int:
        """How many writes wait for room."""
        return self._room.waiting

    @property
    def reserved(self) -> int:
        """How many bytes of room are taken."""
        return self._room.reserved
