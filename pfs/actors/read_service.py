"""Serving data_read: one chunk a turn, over the session's stream, of one consistent cut.

A read is *ready* (in the order of service), *loading* (pages of its next chunk come from disk) or *parked* (its stream
has no credit).  Its cut opens with its first turn, if that turn does not finish it; from then on it sees the file as
of that moment, whatever is written (`pfs.cache.page_file_state`).

A parked read costs no turns, but it holds its cut, and the old pages that this needs.  So one whose consumer gives no
credit for `read_idle_seconds` is given up.
"""

from __future__ import annotations

from pfs.actors.requests import ReadRequest, Session, check_read
from pfs.actors.server_core import ServerCore
from pfs.cache.page_file_state import Cut
from pfs.errors import FatalError, IdleTooLong, PfsError
from pfs.protocol import DataPages, DataRead, DataReadEnd, StreamEnd
from pfs.streams.stream import CloseTransfer, OpenTransfer


class ReadService:
    """The reads of one page file."""

    def __init__(self, core: ServerCore) -> None:
        self._core = core
        self._parked: dict[ReadRequest, float] = {}
        """Reads without credit, and since when; the longest first."""

    def admit(self, session: Session, message: DataRead) -> None:
        """Take up a read; the whole range is checked before the first page.  Raises what is wrong with it."""
        core = self._core
        check_read(message)
        core.state.check_range(message.pgid, message.n)
        options = core.options
        request = ReadRequest(session, message, message.chunk or options.chunk, options.credits)
        request.stream = session.read_stream
        session.requests[message.ref] = request
        consumer = session.client if message.to is None else message.to
        core.tell(request.stream, OpenTransfer(message.ref, core.ref, consumer, options.credits))
        core.ready(request)

    def serve(self, request: ReadRequest) -> int:
        """Serve one chunk of a ready read; returns how many pages that were (0: it has to wait, or has failed)."""
        core = self._core
        state = core.state
        block = core.options.block
        pages: list[bytes] | list[bytes | None]
        if request.loaded is not None:
            pages, request.loaded = request.loaded, None
        else:
            snapshot = request.snapshot
            if snapshot is None:
                try:
                    state.check_range(request.pgid, request.end - request.pgid)  # it may have been truncated
                except PfsError as error:
                    self.fail(request, error)
                    return 0
                snapshot = state.version
            n = min(request.chunk, request.end - request.next, request.credit * block)
            pages = state.resolve(snapshot, request.next, n)
            if None in pages:
                if request.snapshot is None:
                    state.open_cut(request)
                core.load(request, request.next, pages)
                return 0
        n = len(pages)
        stream, ref = request.stream, request.ref
        for first in range(0, n, block):
            data: tuple[bytes, ...] = tuple(pages[first : first + block])  # type: ignore[arg-type]
            core.tell(stream, DataPages(ref, stream, request.next + first, data))
            request.credit -= 1
        request.next += n
        counters = core.counters
        counters["chunks"] += 1
        counters["pages_read"] += n
        if request.next == request.end:
            core.tell(stream, StreamEnd(ref, request.end - request.pgid))
            self._close(request)
            core.tell(request.session.client, DataReadEnd(ref, request.pgid, request.end - request.pgid))
            return n
        if request.snapshot is None:
            state.open_cut(request)
        if request.credit:
            core.ready(request)
        else:
            counters["parked"] += 1
            self._parked[request] = core.now()
            core.watch_idle()
        return n

    def loaded(self, request: ReadRequest, pages: list[bytes], error: PfsError | None) -> None:
        """The pages of the next chunk have come from disk, or not."""
        if request.ended:
            return
        if isinstance(error, FatalError):
            self._core.panic(error)
        elif error is not None:
            self.fail(request, error)
        else:
            request.loaded = pages
            self._core.ready(request)

    def credit(self, request: ReadRequest, n: int) -> None:
        """Empty wagons have come back; a parked read is ready again."""
        parked = not request.credit  # while pages are being loaded there is credit for them
        request.credit += n
        if parked:
            del self._parked[request]
            self._core.ready(request)

    @property
    def parked(self) -> int:
        """How many reads wait for credit."""
        return len(self._parked)

    def check_idle(self) -> None:
        """Fail the reads whose consumers have given no credit for too long."""
        limit, now = self._core.options.read_idle_seconds, self._core.now()
        for request, since in list(self._parked.items()):
            if now - since < limit:
                break
            sent, n = request.next - request.pgid, request.end - request.pgid
            self.fail(
                request,
                IdleTooLong(
                    f"request {request.ref}: {sent} of {n} pages were sent, and then no credit came for {limit:g} "
                    "seconds: take the pages faster, or raise `read_idle_seconds`"
                ),
            )

    def fail(self, request: ReadRequest, error: PfsError) -> None:
        """End a read with an error."""
        if request.ended:
            return
        self._core.tell(request.stream, CloseTransfer(request.ref, error))
        self._close(request)
        self._core.refuse(request.session.client, request.ref, error)

    def fail_readers_of(self, pgid: int, error: PfsError) -> None:
        """End the reads in progress that need a page which cannot be read."""
        for cut in self._core.state.cuts_of(pgid):
            assert isinstance(cut, ReadRequest)
            self.fail(cut, error)

    def fail_cuts(self, cuts: list[Cut]) -> None:
        """End the reads whose old pages cannot be kept."""
        for cut in cuts:
            assert isinstance(cut, ReadRequest)
            self.fail(cut, self._core.state.snapshot_too_old(cut))

    def _close(self, request: ReadRequest) -> None:
        request.ended = True
        if not request.credit:
            self._parked.pop(request, None)
        request.session.requests.pop(request.ref, None)
        self._core.state.close_cut(request)
        self._core.ended(request)
