"""The insertion point of the log: records get their place here and wait to be written.

Plain bookkeeping: no file, no thread.  One user inserts, and asks for the next batch whenever the log device is free;
while the device writes and syncs one batch, records gather for the next, and that is group commit.

    flushed <= written <= inserted <= limit

    inserted   where the last record inserted ends
    written    everything before it was handed to the system in a write
    flushed    everything before it is durable
    limit      the end of the last segment that exists; nothing is inserted beyond it (`NoSpace`), so a batch can always
               be written without waiting for a new segment or failing for want of one

Each record vouches for what was flushed when it was inserted (`durable_upto`).  A record that does not fit into the
rest of a segment goes to the next one; what is left is closed by a SEGMENT_SWITCH, or left as it is where not even that
fits.

Where recovery must begin: a transaction counts as *unsettled* from its first record until the user says that its pages
are in the buffer pool, or that it was given up.  `redo_point()` is the first LSN of the oldest unsettled one, so a
checkpoint that begins there loses neither the images of a long write still under way, nor those of one that is durable
and not applied yet.

Room that is kept for checkpoints (`pfs.wal.checkpoint_room`): only `insert_reserved` may come nearer to the limit than
the reserve, and a slot for each page image of an unsettled transaction and each dirty page.  What counts is how many
there are now, so nothing is to be given back, and nothing is forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from typing import NamedTuple

from pfs.errors import InvalidRequest, NoSpace, ProtocolError
from pfs.wal.bodies import NO_REQUEST, Body, Commit, PageImage, Seal, SegmentSwitch
from pfs.wal.checkpoint_room import LARGEST_RESERVED, slot_size
from pfs.wal.lsn import SEGMENT_HEADER_SIZE, check_segment_size, format_lsn
from pfs.wal.records import (
    HEADER_SIZE,
    PAGE_IMAGE_SIZE,
    Stamp,
    encode,
    encode_commit,
    encode_page_image,
    encoded_size,
    page_data,
)

COMMIT_SIZE = 112
"""Bytes that a COMMIT takes in the log."""

NO_LIMIT = 1 << 64
"""Beyond every LSN."""

_JOIN_BELOW = 2048
"""Buffers up to this length are joined with their neighbours: copying them is cheaper than one more buffer a write."""


class BatchPart(NamedTuple):
    """What a batch writes into one segment."""

    segment: int
    offset: int
    buffers: list[bytes]


class Batch(NamedTuple):
    """Records that are written and made durable together: positions `start` to `end` (exclusive) of the log."""

    start: int
    end: int
    parts: list[BatchPart]
    requests: int
    """How many records in it somebody waits for."""


class Place(NamedTuple):
    """Where a record is: it is durable when `flushed >= end`."""

    lsn: int
    end: int


class _Run:
    """Records one behind the other in one segment, not handed out yet; a batch takes runs whole."""

    __slots__ = ("buffers", "end", "full", "requests", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self.buffers: list[bytes] = []
        self.requests = 0
        self.full = False


class _Transaction:
    """An unsettled transaction: its first LSN, and how many page images it has."""

    __slots__ = ("first_lsn", "images")

    def __init__(self, first_lsn: int) -> None:
        self.first_lsn = first_lsn
        self.images = 0


class LogBuffer:
    """Inserts records and hands them out in batches (see the module).

    position: where the first record goes; flushed, written and inserted begin there.  prev_lsn: the record before it,
    0 if there is none.  seed: of the record checksums (`records.seed_of`).  batch_bytes, batch_requests: a batch that
    has reached one of them takes nothing more (it may exceed the bytes by one record).  vouch: False if what the log
    device calls durable is not (sync method `"none"`); then records vouch for nothing.  reserve: bytes before the limit
    that only `insert_reserved` may use (`checkpoint_room.reserve_size`), beside the slots of pages.
    """

    def __init__(
        self,
        *,
        segment_size: int,
        position: int,
        prev_lsn: int,
        epoch: int,
        seed: int,
        limit: int = NO_LIMIT,
        reserve: int = 0,
        batch_bytes: int = 1 << 20,
        batch_requests: int = 256,
        vouch: bool = True,
        compress: bool = False,
    ) -> None:
        self._segment_size = check_segment_size(segment_size)
        for name, value, least in (("batch_bytes", batch_bytes, 1), ("batch_requests", batch_requests, 1)):
            if type(value) is not int or value < least:
                raise InvalidRequest(f"{name} {value!r}: must be an int of at least {least}")
        self._batch_bytes = batch_bytes
        self._batch_requests = batch_requests
        self._vouch = vouch
        self._compress = compress
        self.reserve = reserve
        """Bytes before the limit that only `insert_reserved` may use, beside the slots of pages."""
        self.dirty: Sized = ()
        """The dirty pages: how many they are is what matters here."""
        self._slot = slot_size(segment_size)
        self._epoch = epoch
        self._seed = seed
        self._prev = prev_lsn
        self._inserted = self._written = self._flushed = position
        self._switched = False
        self._runs: deque[_Run] = deque()
        self._batch: Batch | None = None
        self._unsettled: dict[int, _Transaction] = {}
        self._images = 0
        self._sealed = True
        self.records = 0
        """How many records were inserted."""
        self.commits = 0
        """How many of them were COMMITs."""
        self.requests = 0
        """How many of them somebody waits for."""
        self.limit = limit
        """Where the existing segments end.  Raised when another segment was made."""

    # ------------------------------------------------------------------------------------------ where it stands

    @property
    def inserted(self) -> int:
        """Where the last record inserted ends."""
        return self._inserted

    @property
    def next_lsn(self) -> int:
        """Where the next record goes, if it fits there."""
        offset = self._inserted % self._segment_size
        if self._switched:
            return self._inserted - offset + self._segment_size + SEGMENT_HEADER_SIZE
        return self._inserted if offset else self._inserted + SEGMENT_HEADER_SIZE

    @property
    def written(self) -> int:
        """Everything before it was written, durable or not."""
        return self._written

    @property
    def flushed(self) -> int:
        """Everything before it is durable."""
        return self._flushed

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def pending_bytes(self) -> int:
        """How much was inserted and is not durable yet."""
        return self._inserted - self._flushed

    @property
    def debt(self) -> int:
        """Bytes that are kept for the images that pages may need when they are written: see `checkpoint_room`."""
        return self._slot * (self._images + len(self.dirty))

    @property
    def room(self) -> int:
        """How many bytes may be inserted before the limit without the reserve and the debt; below 0 if those are used.

        A page image also takes a `slot` of it, and may leave up to its own length unused at the end of a segment.
        """
        return self._soft_limit() - self._inserted

    @property
    def slot(self) -> int:
        """What a page adds to the debt."""
        return self._slot

    def _soft_limit(self) -> int:
        return self.limit - self.reserve - self._slot * (self._images + len(self.dirty))

    def redo_point(self) -> int:
        """Where recovery must begin if everything settled is in the data files: see the module."""
        for transaction in self._unsettled.values():  # in the order of their first records
            return transaction.first_lsn
        return self.next_lsn

    @property
    def unsettled(self) -> dict[int, int]:
        """The unsettled transactions and their first LSNs, oldest first.  Any thread may ask."""
        return {number: transaction.first_lsn for number, transaction in self._unsettled.copy().items()}

    @property
    def wants_seal(self) -> bool:
        """True if all is durable, no record vouches for the last batch, and there is room for a SEAL, which would."""
        return not self._sealed and self._flushed == self._inserted and self.room >= 3 * HEADER_SIZE

    # ------------------------------------------------------------------------------------------ inserting

    def insert_page(
        self, transaction: int, file_id: int, index: int, page: bytes, page_crc: int | None = None
    ) -> Place:
        """Log page `index` of a transaction.  page_crc: its CRC-32C, if known.

        The page is not copied: it must not change until its batch is durable.  Raises `NoSpace`.
        """
        image = page_data(page, page_crc, compress=self._compress)
        size = (PAGE_IMAGE_SIZE + len(image.data) + 7) & ~7
        stamp = self._make_room(size, self._soft_limit() - self._slot)
        unsettled = self._unsettled.get(transaction)
        if unsettled is None:
            unsettled = self._unsettled[transaction] = _Transaction(stamp.lsn)
        unsettled.images += 1
        self._images += 1
        return self._append(stamp, encode_page_image(stamp, transaction, file_id, index, len(page), image), size, False)

    def insert_commit(
        self,
        transaction: int,
        file_id: int,
        pgid: int,
        n: int,
        page_count: int,
        *,
        request_id: bytes = NO_REQUEST,
        bulk: bool = False,
    ) -> Place:
        """Log that a transaction holds: its n pages are pages pgid .. pgid+n-1 of a file of then `page_count` pages.

        It is unsettled until `settle`, also a bulk one.  Raises `NoSpace`, and then nothing has happened.
        """
        stamp = self._make_room(COMMIT_SIZE, self._soft_limit())
        unsettled = self._unsettled.get(transaction)
        if unsettled is None:
            unsettled = self._unsettled[transaction] = _Transaction(stamp.lsn)
        first = unsettled.first_lsn
        self.commits += 1
        record = encode_commit(stamp, transaction, file_id, first, pgid, n, page_count, request_id, bulk)
        return self._append(stamp, [record], COMMIT_SIZE, True)

    def insert(self, body: Body) -> Place:
        """Log a record that is a transaction by itself (CREATE, RENAME, DROP, TRUNCATE), or any other.

        Raises `NoSpace`, and `InvalidRequest` for a PageImage or Commit, or a record larger than a segment.
        """
        return self._insert(body, self._soft_limit())

    def insert_reserved(self, body: Body) -> Place:
        """The same, and it may use what is kept for checkpoints.  Raises `NoSpace`.

        Raises `InvalidRequest` for a record of more than `checkpoint_room.LARGEST_RESERVED` bytes.
        """
        if encoded_size(body) > LARGEST_RESERVED:
            raise InvalidRequest(
                f"{type(body).__name__} of {encoded_size(body)} bytes: records for checkpoints have at most "
                f"{LARGEST_RESERVED} bytes"
            )
        return self._insert(body, self.limit)

    def first_lsn(self, transaction: int) -> int:
        """The first LSN of an unsettled transaction."""
        return self._unsettled[transaction].first_lsn

    def settle(self, transaction: int) -> None:
        """A transaction's pages are in the buffer pool (or on disk), or it was given up; no effect if it is settled.

        Those that are dirty now must be among `dirty`.
        """
        unsettled = self._unsettled.pop(transaction, None)
        if unsettled is not None:
            self._images -= unsettled.images

    def switch_segment(self) -> None:
        """Let the next record begin a new segment.  No effect at the start of one.  Raises `NoSpace`."""
        if self.next_lsn % self._segment_size != SEGMENT_HEADER_SIZE:
            self._make_room(self._segment_size - SEGMENT_HEADER_SIZE, self.limit)

    def seal(self) -> Place:
        """Log a SEAL, which vouches for all that is durable now.  Raises `NoSpace`."""
        return self.insert(Seal())

    def _insert(self, body: Body, limit: int) -> Place:
        if isinstance(body, PageImage | Commit):
            raise InvalidRequest(f"{type(body).__name__}: use insert_page and insert_commit")
        size = encoded_size(body)
        if size > self._segment_size - SEGMENT_HEADER_SIZE:
            raise InvalidRequest(
                f"{type(body).__name__} of {size} bytes: a WAL segment holds records of at most "
                f"{self._segment_size - SEGMENT_HEADER_SIZE} bytes"
            )
        stamp = self._make_room(size, limit)
        place = self._append(stamp, encode(stamp, body), size, True)
        self._sealed = isinstance(body, Seal)
        return place

    def _make_room(self, size: int, limit: int) -> Stamp:
        """The place and company of the next record, which has `size` bytes; in the next segment if it must be."""
        position = self._inserted
        offset = position % self._segment_size
        if self._switched or not offset or offset + size > self._segment_size:
            return self._make_room_beyond(position, offset, size, limit)
        if position + size > limit:
            raise self._full(size)
        return Stamp(position, self._prev, self._flushed if self._vouch else 0, self._epoch, self._seed)

    def _make_room_beyond(self, position: int, offset: int, size: int, limit: int) -> Stamp:
        start = (position - offset + self._segment_size if offset else position) + SEGMENT_HEADER_SIZE
        if start + size > limit:
            raise self._full(size)
        durable_upto = self._flushed if self._vouch else 0
        if not self._switched and offset and offset + HEADER_SIZE <= self._segment_size:
            stamp = Stamp(position, self._prev, durable_upto, self._epoch, self._seed)
            self._append(stamp, encode(stamp, SegmentSwitch()), HEADER_SIZE, False)
            self._switched = True
        return Stamp(start, self._prev, durable_upto, self._epoch, self._seed)

    def _full(self, size: int) -> NoSpace:
        return NoSpace(
            f"the WAL has no room for {size} bytes at LSN {format_lsn(self._inserted)}: its segments end at "
            f"{format_lsn(self.limit)} and no other could be made; free space, reading goes on"
        )

    def _append(self, stamp: Stamp, buffers: list[bytes], size: int, request: bool) -> Place:
        lsn = stamp.lsn
        runs = self._runs
        run = runs[-1] if runs else None
        if run is None or run.full or run.end != lsn:
            run = _Run(lsn)
            runs.append(run)
        into = run.buffers
        for buffer in buffers:
            if into and len(buffer) <= _JOIN_BELOW and len(into[-1]) <= _JOIN_BELOW:
                into[-1] += buffer
            else:
                into.append(buffer)
        end = lsn + size
        run.end = end
        if request:
            run.requests += 1
            self.requests += 1
        if end - run.start >= self._batch_bytes or run.requests >= self._batch_requests:
            run.full = True
        self._prev = lsn
        self._inserted = end
        self._switched = False
        self._sealed = False
        self.records += 1
        return Place(lsn, end)

    # ------------------------------------------------------------------------------------------ batches

    @property
    def has_batch(self) -> bool:
        """Whether `next_batch` would give one."""
        return self._batch is None and bool(self._runs)

    def next_batch(self) -> Batch | None:
        """The next records to write, at most one batch at a time; None if there are none, or one is under way."""
        runs = self._runs
        if self._batch is not None or not runs:
            return None
        first = last = runs.popleft()
        taken = last.end - last.start
        requests = last.requests
        parts = [self._part(first)]
        while runs:
            run = runs[0]
            taken += run.end - run.start
            if taken > self._batch_bytes or requests + run.requests > self._batch_requests:
                break
            last = runs.popleft()
            requests += last.requests
            parts.append(self._part(last))
        self._batch = Batch(first.start, last.end, parts, requests)
        return self._batch

    def batch_written(self, batch: Batch) -> None:
        """The system has taken the batch; it is not durable yet."""
        self._check(batch)
        self._written = batch.end

    def batch_flushed(self, batch: Batch) -> None:
        """The batch is durable (and written, if nobody said so); the next one may be taken."""
        self._check(batch)
        self._written = self._flushed = batch.end
        self._batch = None

    def _part(self, run: _Run) -> BatchPart:
        segment, offset = divmod(run.start, self._segment_size)
        return BatchPart(segment, offset, run.buffers)

    def _check(self, batch: Batch) -> None:
        if batch is not self._batch:
            raise ProtocolError(
                f"the batch of LSN {format_lsn(batch.start)} to {format_lsn(batch.end)} is not the one under way"
            )
