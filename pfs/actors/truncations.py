"""Truncations: a page file is cut when nothing else is under way (`pfs.actors.write_order`), and then nothing begins.

A TRUNCATE record is logged and made durable; in one step the file is shorter for everybody, and reads in progress that
need what is cut off fail; then the data file is cut, and only then is the truncation done, as the next append uses the
same place.  No space in the log: the truncation fails with NoSpace, and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pfs.actors import Address
from pfs.actors.checkpointer import CutFile
from pfs.actors.read_service import ReadService
from pfs.actors.requests import LARGEST_PGID, check_number
from pfs.actors.server_core import ServerCore
from pfs.actors.wal_server import WalFlush, WalRoom
from pfs.errors import NoSpace, OutOfRange, PfsError
from pfs.protocol import Done, Truncate
from pfs.wal.bodies import Truncate as TruncateRecord
from pfs.wal.shared_log import SharedLog


class TruncationRoom(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: a truncation waits for room in the log."""

    message: Truncate


class Truncated(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Token: a TRUNCATE record is being made durable, or the file is being cut."""

    message: Truncate


class Truncations:
    """The truncations of one page file.  `ended` is called when one that had begun is no more."""

    def __init__(
        self,
        core: ServerCore,
        reads: ReadService,
        log: SharedLog,
        wal: Address,
        checkpointer: Address,
        ended: Callable[[Truncate], None],
    ) -> None:
        self._core = core
        self._reads = reads
        self._log = log
        self._wal = wal
        self._checkpointer = checkpointer
        self._ended = ended
        self._open: list[Truncate] = []
        """Those that are not answered yet."""

    def admit(self, message: Truncate) -> None:
        """Take one up; raises what is wrong with it."""
        check_number("n", message.n, 0, LARGEST_PGID + 1)
        self._check(message)
        self._open.append(message)

    def begin(self, message: Truncate) -> bool:
        """Nothing else is under way now.  Returns False if it is refused, and so is no more."""
        try:
            self._check(message)  # one before may have cut more
        except OutOfRange as error:
            self._refuse(message, error)
            return False
        self.log(message)
        return True

    def log(self, message: Truncate) -> None:
        """Log its record, if there is room."""
        core, n = self._core, message.n
        try:
            place = self._log.buffer.insert(TruncateRecord(core.state.file_id, n))
        except NoSpace:
            core.tell_worker(self._wal, WalRoom(core.ref, TruncationRoom(message)))
            core.dirtied()  # a checkpoint may make room
            return
        self._log.page_counts[core.state.file_id] = n
        core.tell_worker(self._wal, WalFlush(place.end, core.ref, Truncated(message)))

    def no_room(self, message: Truncate, error: PfsError) -> None:
        """There is no room in the log, and none can be made."""
        self._refuse(message, error)
        self._ended(message)

    def logged(self, message: Truncate) -> None:
        """The record is durable: the file is shorter from now on."""
        core = self._core
        outcomes, failed = core.state.truncate(message.n)
        core.settle(outcomes)
        self._reads.fail_cuts(failed)
        cut = CutFile(core.state.file_id, message.n, core.ref, Truncated(message))
        core.tell_worker(self._checkpointer, cut)

    def was_cut(self, message: Truncate) -> None:
        """The data file is cut as well."""
        self._open.remove(message)
        self._core.tell(message.client, Done(message.ref))
        self._ended(message)

    def abandon(self, error: PfsError) -> None:
        """The system or the server ends: answer all, and do nothing more for them."""
        for message in self._open:
            self._core.refuse(message.client, message.ref, error)
        self._open.clear()

    def __len__(self) -> int:
        """How many are not answered yet."""
        return len(self._open)

    def _check(self, message: Truncate) -> None:
        state = self._core.state
        if message.n > state.page_count:
            raise OutOfRange(f"{state.name!r} has {state.page_count} pages and cannot be cut to {message.n}")

    def _refuse(self, message: Truncate, error: PfsError) -> None:
        self._open.remove(message)
        self._core.refuse(message.client, message.ref, error)
