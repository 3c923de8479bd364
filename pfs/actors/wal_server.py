"""`WalServer`: group commit; and `LogDevice`, the thread that writes and syncs the log.

Records are inserted directly into the log buffer (`SharedLog`): like the page table it is shared by pfs's own actors,
whose handlers run one at a time, so an insertion costs no message and fails, if there is no room, in the same step.
What takes messages is waiting: `WalFlush(upto)` is answered with `WalFlushed` when everything before `upto` is durable.

While the device writes and syncs one batch, records gather for the next; each batch is one gathered write and one sync.
With the option `commit_delay` the next batch waits a moment for those whose commits the last one made durable
(`pfs.wal.gathering`); without it there is no artificial delay.
Everybody who waits is told in the order of their LSNs.  The device does nothing but the system calls; what is computed
is computed here.

Segments are made ahead of the log by another worker.  Where one is needed that is not there yet, whoever inserts asks
`WalRoom` and waits; if none can be made, the answer is `WalRefused(NoSpace)`: an insertion never fails because somebody
was not quick enough, and a batch never, because there was no space.

After a failed write or sync nothing more is answered: the system panics.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any

import msgspec

from pfs.actors import Actor, Address, BlockingActor
from pfs.actors.file_worker import RETRY_SECONDS, Carried, Carry
from pfs.actors.monitors import tell_if_alive
from pfs.errors import Busy, FatalError, NoSpace, PfsError
from pfs.wal.bodies import Body
from pfs.wal.gathering import Gathering
from pfs.wal.log_buffer import Batch
from pfs.wal.log_files import LogFiles
from pfs.wal.retention import Retention
from pfs.wal.shared_log import SharedLog

SEAL_AFTER = 0.01
"""Seconds of idleness after which the last batch is vouched for by a SEAL."""

WRITE_AFTER = 0.2
"""Seconds after which records that nobody waits for are written all the same."""


class WalAppend(msgspec.Struct, frozen=True, gc=False):
    """Insert records and make them durable; replied with `WalFlushed` (lsn of the last) or `WalRefused`."""

    bodies: tuple[Body, ...]
    reply_to: Address
    token: Any


class WalFlush(msgspec.Struct, frozen=True, gc=False):
    """Make everything before `upto` durable (None: everything inserted); replied with `WalFlushed`."""

    upto: int | None
    reply_to: Address
    token: Any


class WalFlushed(msgspec.Struct, frozen=True, gc=False):
    """Everything before `lsn` is durable."""

    token: Any
    lsn: int


class WalRoom(msgspec.Struct, frozen=True, gc=False):
    """Say when there is room for more records; replied with `WalRoomMade` or `WalRefused`."""

    reply_to: Address
    token: Any


class WalRoomMade(msgspec.Struct, frozen=True, gc=False):
    """There is room again: insert."""

    token: Any


class WalRefused(msgspec.Struct, frozen=True, gc=False):
    """There is no room in the log, and none can be made now."""

    token: Any
    error: PfsError


class WriteLog(msgspec.Struct, frozen=True, gc=False):
    """The server to the device: write and sync a batch; replied with `LogWritten`."""

    batch: Batch
    reply_to: Address


class LogWritten(msgspec.Struct, frozen=True, gc=False):
    """The device has made a batch durable, or (error) nobody knows."""

    batch: Batch
    error: PfsError | None


class RoomMade(msgspec.Struct, frozen=True, gc=False):
    """The checkpointer: segments were given back."""


class TellWhenShort(msgspec.Struct, frozen=True, gc=False):
    """The checkpointer: send this when somebody waits for room in the log, since a checkpoint may make some."""

    address: Address
    message: Any


class RoomNotMade(msgspec.Struct, frozen=True, gc=False):
    """The checkpointer: no segments can be given back, since the data files have no space."""

    error: PfsError


class _Gathered(msgspec.Struct, frozen=True, gc=False):
    """The server to itself: who was waited for has had time enough."""


class _Prepared(msgspec.Struct, frozen=True, gc=False):
    segment: int


class _LookIdle(msgspec.Struct, frozen=True, gc=False):
    """The server to itself: has anything happened since?"""

    inserted: int


class LogDevice(BlockingActor):
    """Writes and syncs the log."""

    def __init__(self, files: LogFiles) -> None:
        super().__init__()
        self._files = files

    def on_receive(self, message: Any) -> None:
        error: PfsError | None = None
        try:
            self._files.write(message.batch)
            self._files.sync()
        except Busy:  # the next segment waits for a descriptor, and with it everybody; what was written is so again
            self.send_after(RETRY_SECONDS, message)
            return
        except PfsError as failure:
            error = failure
        except Exception as failure:
            error = FatalError(f"writing the log failed in a way that was not foreseen: {failure!r}")
        message.reply_to.tell(LogWritten(message.batch, error))


class WalServer(Actor):
    """Batches, answers, segments ahead (see the module).

    `keeper` carries out the making of segments; `panic` is called with what made the log unusable.
    """

    inline = True

    def __init__(
        self,
        log: SharedLog,
        retention: Retention,
        device: Address,
        keeper: Address,
        panic: Callable[[BaseException], None],
    ) -> None:
        super().__init__()
        self._log = log
        self._retention = retention
        self._device = device
        self._keeper = keeper
        self._panic = panic
        self._order = count()
        self._waiting: list[tuple[int, int, WalFlush | WalAppend]] = []
        self._gathering = Gathering(log.options.commit_delay)
        self._alarm_set = False
        self._sent_at = 0.0
        self._room_waiting: list[WalRoom | WalAppend] = []
        self._asked = False
        """Whether anybody has asked for room since the last attempt to make a segment."""
        self._helper: TellWhenShort | None = None
        self._preparing = False
        self._looking = False
        self._failed = False
        self.batches = 0
        self.flushes = 0

    def on_start(self) -> None:
        self._keep_ahead()

    def on_receive(self, message: Any) -> None:
        if self._failed:
            return
        kind = type(message)
        if kind is WalFlush:
            self._wait(message, self._log.buffer.inserted if message.upto is None else message.upto)
        elif kind is LogWritten:
            self._written(message)
        elif kind is WalAppend:
            self._append(message)
        elif kind is _Gathered:
            self._alarm_set = False
            self._pump()
        elif kind is WalRoom:
            self._room(message)
        elif kind is Carried:
            self._prepared(message.token, message.error)
        elif kind is RoomMade:
            self._log.no_space = None
            self._room_made()
        elif kind is RoomNotMade:
            self._room_not_made(message.error)
        elif kind is TellWhenShort:
            self._helper = message
        elif kind is _LookIdle:
            self._look_idle(message)
        self._keep_ahead()

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nobody may be left waiting for a log that is not written any more."""
        assert exception_value is not None
        self._panic(exception_value)

    @property
    def gathers(self) -> bool:
        """Whether there is a batch that waits a moment for others."""
        return self._alarm_set and self._log.buffer.has_batch

    # -- waiting for durability

    def _wait(self, message: WalFlush | WalAppend, upto: int) -> None:
        buffer = self._log.buffer
        if buffer.flushed >= upto:
            tell_if_alive(message.reply_to, WalFlushed(message.token, buffer.flushed))
            return
        heapq.heappush(self._waiting, (upto, next(self._order), message))
        self._pump()

    def _append(self, message: WalAppend) -> None:
        if not self._log.has_room:
            self._wait_for_room(message)
            return
        try:
            end = 0
            for body in message.bodies:
                end = self._log.buffer.insert(body).end
        except PfsError as error:
            tell_if_alive(message.reply_to, WalRefused(message.token, error))
            return
        self._wait(message, end)

    def _pump(self) -> None:
        buffer = self._log.buffer
        if not buffer.has_batch:
            return
        now = self.scheduler.now()
        left = self._gathering.wait(buffer.requests, now)
        if left:
            if not self._alarm_set:
                self._alarm_set = True
                self.send_after(left, _Gathered())
            return
        batch = buffer.next_batch()
        assert batch is not None
        self.batches += 1
        self._sent_at = now
        self._device.tell(WriteLog(batch, self._actor_ref))

    def _written(self, message: LogWritten) -> None:
        if message.error is not None:
            self._failed = True
            self._panic(message.error)
            return
        buffer = self._log.buffer
        buffer.batch_flushed(message.batch)
        now = self.scheduler.now()
        self._gathering.completed(message.batch.requests, buffer.requests, now, now - self._sent_at)
        flushed = buffer.flushed
        waiting = self._waiting
        while waiting and waiting[0][0] <= flushed:
            _, _, waiter = heapq.heappop(waiting)
            self.flushes += 1
            tell_if_alive(waiter.reply_to, WalFlushed(waiter.token, flushed))
        if waiting or buffer.pending_bytes >= self._log.options.batch_bytes:
            self._pump()

    def _look_idle(self, message: _LookIdle) -> None:
        self._looking = False
        buffer = self._log.buffer
        if buffer.inserted != message.inserted:
            return  # _keep_ahead looks again
        if buffer.wants_seal and not self._log.closed:
            buffer.seal()
        self._pump()

    # -- segments

    def _keep_ahead(self) -> None:
        log = self._log
        buffer = log.buffer
        if not self._looking and not log.closed and (buffer.wants_seal or buffer.pending_bytes):
            self._looking = True
            self.send_after(SEAL_AFTER if buffer.wants_seal else WRITE_AFTER, _LookIdle(buffer.inserted))
        if log.wants_segment and not self._preparing and (log.no_space is None or self._asked):
            self._asked = False
            segment = log.next_segment
            self._preparing = True
            prepare = partial(self._retention.prepare, segment, buffer.epoch, log.redo_lsn)
            self._keeper.tell(Carry(prepare, self._actor_ref, _Prepared(segment)))

    def _room(self, message: WalRoom) -> None:
        if self._log.has_room:
            tell_if_alive(message.reply_to, WalRoomMade(message.token))
        else:
            self._wait_for_room(message)

    def _wait_for_room(self, message: WalRoom | WalAppend) -> None:
        self._room_waiting.append(message)
        self._asked = True
        self._call_for_help()
        self._pump()

    def _call_for_help(self) -> None:
        if self._helper is not None:
            tell_if_alive(self._helper.address, self._helper.message)

    def _prepared(self, token: _Prepared, error: PfsError | None) -> None:
        self._preparing = False
        if isinstance(error, FatalError):
            self._failed = True
            self._panic(error)
            return
        if error is not None:
            no_space = error if isinstance(error, NoSpace) else NoSpace(f"no WAL segment was made: {error}")
            self._log.no_space = no_space
            if self._log.wants_checkpoint or self._log.wants_clean_pages:
                self._call_for_help()  # there will be room in the segments that there are
            else:
                self._refuse_room(no_space)
            return
        self._log.no_space = None
        self._log.segment_made(token.segment)
        self._room_made()

    def _room_not_made(self, error: PfsError) -> None:
        if self._log.is_short and not self._log.has_room:
            self._refuse_room(error)

    def _room_made(self) -> None:
        waiting, self._room_waiting = self._room_waiting, []
        for each in waiting:
            if isinstance(each, WalAppend):
                self._append(each)
            else:
                tell_if_alive(each.reply_to, WalRoomMade(each.token))

    def _refuse_room(self, error: PfsError) -> None:
        waiting, self._room_waiting = self._room_waiting, []
        for each in waiting:
            tell_if_alive(each.reply_to, WalRefused(each.token, error))
