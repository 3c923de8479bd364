"""Bulk appends: large appends whose pages are written once, straight to the data file.

A large append would be written twice if it were logged, and would have to fit into staging and log.  Instead its pages
go to the data file as they come, behind the last committed page, where nobody reads; then data and sidecar are synced;
and then one COMMIT, marked BULK, makes all of them part of the file.  Until that is durable, recovery cuts them off.

* One at a time for a file: it holds the file's tail.  Appends and truncations that come later wait until it has ended;
  overwrites go on.
* Its first pages, as far as they share a sidecar block with committed pages, are logged as images beside the COMMIT,
  and published like any write.  So a block that it writes holds no record of anybody else's, and is torn at no one's
  cost; and whoever changes one later logs it first, as its older images in the log, if there are any, are forgotten.
* What is staged and on its way to the disk is at most `credits` data messages, and those first pages.
* The disk begins to write each piece out while the next ones come; the sync has little left to wait for.
* If it is given up, or there is no space, what it wrote is cut off, and no page number was given to anybody.

A piece of it is written in each turn.  Durability "memory" is the same as "wal".

This module holds the steps up to the COMMIT; `pfs.actors.write_service` makes that, and publishes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from pfs.actors import Address
from pfs.actors.checkpointer import CutFile
from pfs.actors.file_worker import Carry
from pfs.actors.requests import Session, WriteRequest
from pfs.actors.server_core import ServerCore
from pfs.errors import FatalError, PfsError
from pfs.files.block_file import BlockFile
from pfs.protocol import DataAppend, DataPages, Empty
from pfs.wal.sidecar import RECORDS_PER_BLOCK, locate
from pfs.wal.sidecar_images import SidecarImages


class BulkAppend(WriteRequest):
    """A bulk append in progress.

    `start`: its first pgid.  `logged_pages`: those that are logged (`pages` are those still to be written).  `written`:
    how many pages are in the data file, `carried`: how many are on their way there.  `credit`: data messages that the
    writer may still send.  `error`: why it was given up.
    """

    __slots__ = (
        "carried",
        "credit",
        "error",
        "logged_count",
        "logged_pages",
        "page_lsn",
        "ready",
        "start",
        "touched",
        "written",
    )

    def __init__(self, session: Session, message: DataAppend) -> None:
        super().__init__(session, message)
        self.start = 0
        self.logged_count = 0
        self.logged_pages: list[bytes] = []
        self.page_lsn = 0
        self.written = self.carried = 0
        self.credit = 0
        self.ready = False
        """Whether it waits for its turn to write a piece."""
        self.touched = False
        """Whether anything was sent to the data file."""
        self.error: PfsError | None = None

    @property
    def published_pages(self) -> list[bytes]:
        return self.logged_pages


class PieceWritten(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: a piece is being written to the data file."""

    request: BulkAppend
    n: int


class BulkSynced(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: data file and sidecar are being synced."""

    request: BulkAppend


class BulkCut(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: what a bulk append wrote is being cut off."""

    message: BulkAppend


class BulkAppends:
    """The bulk append that is under way, if there is one.

    `synced` is called when its pages are durable: it is to be committed; `ended` when it was given up, and is no more.
    """

    def __init__(
        self,
        core: ServerCore,
        writer: Address,
        checkpointer: Address,
        images: SidecarImages,
        synced: Callable[[BulkAppend], None],
        ended: Callable[[BulkAppend, PfsError], None],
    ) -> None:
        self._core = core
        self._writer = writer
        self._checkpointer = checkpointer
        self._images = images
        self._synced = synced
        self._ended = ended
        self.active: BulkAppend | None = None

    def room(self, n: int) -> int:
        """The bytes of staging that one of n pages needs."""
        options = self._core.options
        return min(n, options.credits * options.block + RECORDS_PER_BLOCK - 1) * self._core.state.page_size

    def begin(self, request: BulkAppend, tail: int, page_lsn: int) -> None:
        """It has the tail now, and its writer is about to be told; `page_lsn`: what its pages' records will say."""
        self.active = request
        request.start, request.page_lsn = tail, page_lsn
        request.logged_count = min(-tail % RECORDS_PER_BLOCK, request.n)
        request.credit = self._core.options.credits
        if request.logged_count < request.n:
            self._images.forget(self._core.state.file_id, locate(tail + request.logged_count)[0])

    def data(self, request: BulkAppend, message: DataPages) -> None:
        """A data message has come; raises what is wrong with it."""
        options = self._core.options
        request.collect(message.pgid, message.pages, self._core.state.page_size, options.block)
        request.credit -= 1
        missing = request.logged_count - len(request.logged_pages)
        if missing > 0:
            request.logged_pages += request.pages[:missing]
            del request.pages[:missing]
        self._return_credit(request)
        self._go_on(request)

    def _return_credit(self, request: BulkAppend) -> None:
        options = self._core.options
        block = options.block
        kept = len(request.pages) + request.carried
        while request.credit * block < request.n - request.received and (
            (request.credit + 1) * block + kept <= options.credits * block
        ):
            request.credit += 1
            self._core.tell(request.stream, Empty(request.ref, 1))

    def collected(self, request: BulkAppend) -> None:
        """All its pages have come."""
        self._go_on(request)

    def serve(self, request: BulkAppend) -> int:
        """Write one piece; returns how many pages that are."""
        core = self._core
        request.ready = False
        pages = request.pages[: core.options.chunk]
        del request.pages[: core.options.chunk]
        first = request.start + request.logged_count + request.written
        request.carried = n = len(pages)
        request.touched = True
        call = partial(_write_piece, core.file, first, pages, request.page_lsn)
        core.tell_worker(self._writer, Carry(call, core.ref, PieceWritten(request, n)))
        return n

    def carried(self, token: PieceWritten | BulkSynced, error: PfsError | None) -> None:
        """A piece was written, or all of it synced; or not."""
        request = token.request
        if isinstance(error, FatalError):
            self._core.panic(error)
            return
        request.carried = 0
        if error is not None or request.error is not None:
            self.give_up(request, request.error or error)
        elif isinstance(token, BulkSynced):
            self._synced(request)
        else:
            request.written += token.n
            self._return_credit(request)
            self._go_on(request)

    def _go_on(self, request: BulkAppend) -> None:
        if request.carried or request.ready:
            return
        if request.pages:
            request.ready = True
            self._core.ready(request)
        elif request.state == "collected":
            if request.touched:
                core = self._core
                request.carried = 1
                core.tell_worker(self._writer, Carry(core.file.sync, core.ref, BulkSynced(request)))
            else:
                self._synced(request)

    def give_up(self, request: BulkAppend, error: PfsError | None) -> None:
        """End it without effect: what it wrote is cut off first, after what is on its way there has arrived."""
        request.error = error
        request.state = "given up"
        request.pages.clear()
        self._core.order.discard(request.session, request)
        if request.carried:
            return
        if request.touched:
            cut = CutFile(self._core.state.file_id, request.start, self._core.ref, BulkCut(request))
            self._core.tell_worker(self._checkpointer, cut)
        else:
            self.was_cut(request)

    def was_cut(self, request: BulkAppend) -> None:
        """Nothing is left of it."""
        assert request.error is not None
        self.active = None
        self._ended(request, request.error)

    def published(self) -> None:
        """It is part of the file."""
        self.active = None


def _write_piece(file: BlockFile, first: int, pages: list[bytes], lsn: int) -> None:
    file.write(first, pages, [lsn] * len(pages))
    file.writeback(first, len(pages))
