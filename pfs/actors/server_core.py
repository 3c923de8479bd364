"""What the parts of a page file server share: its file, its table, its sessions' order of service, its counters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pykka

from pfs.actors import Address
from pfs.actors.buffer_pool import LoadRuns, Waiting, tell_outcomes
from pfs.actors.requests import ReadRequest, ServerOptions, Session, WriteRequest
from pfs.actors.round_robin import FirstComeFirstServed, RoundRobin, ServiceOrder
from pfs.cache.page_file_state import PageFileState
from pfs.cache.page_table import Outcome
from pfs.errors import PfsError
from pfs.files.block_file import BlockFile
from pfs.protocol import RequestFailed

logger = logging.getLogger("pfs")

Request = ReadRequest | WriteRequest

COUNTERS = {
    "requests": "requests that were taken up",
    "failed": "requests that ended in RequestFailed",
    "turns": "visits of the round robin to a request",
    "chunks": "chunks served (a turn that found pages missing serves none)",
    "pages_read": "pages handed to streams",
    "pages_written": "pages published by writes and appends",
    "parked": "times that a read was set aside for want of credit",
    "held_back": "times that a writer got no credit or invitation because the log was filling up",
    "waited_for_room": "writes that had to wait for dirty pages to be written, or for a checkpoint",
    "syncs": "times that the log was made durable for `Sync`",
    "dropped": "messages that had no meaning and nobody to answer",
}


class ServerCore:
    """The common ground of `ReadService`, `WriteService` and the server actor."""

    def __init__(
        self,
        ref: Address,
        state: PageFileState,
        file: BlockFile,
        pool: Address,
        options: ServerOptions,
        panic: Callable[[BaseException], None],
        arm: Callable[[], None],
        now: Callable[[], float],
        dirtied: Callable[[], None],
        watch_idle: Callable[[], None],
    ) -> None:
        self.ref = ref
        self.state = state
        self.file = file
        self.pool = pool
        self.options = options
        self.panic = panic
        self.arm = arm
        self.now = now
        self.dirtied = dirtied
        self.watch_idle = watch_idle
        """To be called when a request begins to wait for its client; whoever is idle too long is looked for then."""
        self.order: ServiceOrder[Session, Request] = (
            RoundRobin() if options.order == "round_robin" else FirstComeFirstServed()
        )
        self.counters = dict.fromkeys(COUNTERS, 0)

    def ready(self, request: Request) -> None:
        """Put a request at the back of the order of service."""
        self.order.add(request.session, request)
        self.arm()

    def ended(self, request: Request) -> None:
        """A request has ended: it needs no more turns, and whoever had to wait behind it may have one."""
        self.order.discard(request.session, request)
        if self.order:
            self.arm()

    def tell(self, address: Address, message: Any) -> None:
        """Tell, without minding that the other is gone: its `Down` comes by itself."""
        try:
            address.tell(message)
        except pykka.ActorDeadError:
            pass
        except Exception:  # an address of others' making must not cost anybody else their server
            logger.exception("%s could not be told a %s:", address, type(message).__name__)

    def tell_worker(self, worker: Address, message: Any) -> None:
        """Tell the pool or a file worker.  Without it nothing can be read or written: the system panics."""
        try:
            worker.tell(message)
        except pykka.ActorDeadError as error:
            self.panic(error)

    def refuse(self, client: Address, ref: int, error: PfsError) -> None:
        """End a request that was not taken up, or has been taken out of its session already."""
        self.counters["failed"] += 1
        self.tell(client, RequestFailed(ref, error))

    def load(self, token: object, pgid: int, pages: list[bytes | None]) -> None:
        """Have the holes in `pages` filled; `PagesLoaded(token, ...)` comes."""
        fetches = self.state.table.begin_fetch(Waiting(self.ref, token), self.state.file_id, pgid, pages)
        if fetches:
            self.tell_worker(self.pool, LoadRuns(self.file, tuple(fetches)))

    def settle(self, outcomes: Sequence[Outcome[Waiting]]) -> None:
        """Tell those whose waits for pages have ended."""
        tell_outcomes(outcomes)
