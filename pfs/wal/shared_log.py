"""The log buffer of a system with its limits: when to make a segment, to checkpoint, how full it is.  Plain code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count

import msgspec

from pfs.errors import InvalidRequest, NoSpace
from pfs.wal.checkpoint_room import HEALED_AT_ONCE, reserve_size
from pfs.wal.log_buffer import LogBuffer
from pfs.wal.log_files import SYNC_METHODS, SyncMethod
from pfs.wal.lsn import SEGMENT_HEADER_SIZE, check_segment_size
from pfs.wal.records import PAGE_IMAGE_SIZE

LEAST_SEGMENTS = 4
"""So many segments the log may take up whatever `most_bytes` says: with fewer it is full before it is checkpointed."""

LARGEST_STEP = 256 << 10
"""More bytes than two page images take, so that with so much room one always fits, wherever a segment ends."""

HOLD_BACK_AT = 0.8
"""The fill ratio above which pages and log are written out, and writers are held back until that has helped."""

_BESIDE_IMAGES = 256
"""More bytes than a segment's header and the headers of two page images take."""


class WalOptions(msgspec.Struct, frozen=True):
    """Sizes of the log.

    `segment_bytes`: of a segment file; `most_bytes`: what the log may take up since the last checkpoint, with its
    reserve; `slot_bytes`: what slots may hold back beside that (`pfs.wal.retention`); `checkpoint_bytes`: so much log
    begins a checkpoint; `checkpoint_seconds`: so much time does, if anything was logged; `batch_bytes`,
    `batch_requests`: the most that one write and sync takes along; `sync_method`: see `pfs.wal.log_files`; `compress`:
    store page images compressed where that saves space; `commit_delay`: the most seconds that a batch waits for more
    commits, see `pfs.wal.gathering` (0.0: it never waits).
    """

    segment_bytes: int = 16 << 20
    most_bytes: int = 1 << 30
    slot_bytes: int = 1 << 30
    checkpoint_bytes: int = 256 << 20
    checkpoint_seconds: float = 300.0
    batch_bytes: int = 1 << 20
    batch_requests: int = 256
    sync_method: SyncMethod = "fdatasync"
    compress: bool = False
    commit_delay: float = 0.0

    def __post_init__(self) -> None:
        check_segment_size(self.segment_bytes)
        for name in ("most_bytes", "slot_bytes", "checkpoint_bytes", "batch_bytes", "batch_requests"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InvalidRequest(f"{name} must be an int of at least 1, not {value!r}")
        if type(self.checkpoint_seconds) not in (int, float) or not self.checkpoint_seconds > 0:
            raise InvalidRequest(f"checkpoint_seconds must be a number above 0, not {self.checkpoint_seconds!r}")
        if type(self.commit_delay) not in (int, float) or not 0 <= self.commit_delay < math.inf:
            raise InvalidRequest(f"commit_delay must be a number of seconds of at least 0, not {self.commit_delay!r}")
        if self.sync_method not in SYNC_METHODS:
            raise InvalidRequest(f"sync_method must be one of {', '.join(SYNC_METHODS)}, not {self.sync_method!r}")


class SharedLog:
    """The insertion point that pfs's own actors share."""

    def __init__(
        self,
        buffer: LogBuffer,
        options: WalOptions,
        segment_bytes: int,
        redo_lsn: int,
        next_transaction: int,
        page_counts: Mapping[int, int],
    ) -> None:
        self.buffer = buffer
        self.options = options
        self.segment_bytes = segment_bytes
        """Of this log; the option counts only when a log is made."""
        self.closed = False
        """Whether the last record has been logged: the CHECKPOINT of an orderly stop."""
        self.redo_lsn = redo_lsn
        """Where recovery would begin: the redo point of the last checkpoint."""
        self.no_space: NoSpace | None = None
        """Why the last attempt to make a segment failed; None if it did not."""
        self.next_transaction = count(next_transaction).__next__
        largest_image = segment_bytes + _BESIDE_IMAGES + buffer.slot  # with what it may leave unused
        self._room_of_a_batch = min(largest_image, max(2 * options.batch_bytes, LARGEST_STEP))
        self.page_counts = dict(page_counts)
        """Of each page file, open or not: its pages when all that is in the log is published.  Whoever inserts a record
        that changes it sets it in the same step, since each checkpoint records all of them."""

    @property
    def most_bytes(self) -> int:
        """What the log may take up since the last checkpoint."""
        return max(self.options.most_bytes, LEAST_SEGMENTS * self.segment_bytes + self.buffer.reserve)

    @property
    def fill_ratio(self) -> float:
        """How much of what the log may take up is taken up or kept for checkpoints, 0.0 to 1.0 and a little more."""
        buffer = self.buffer
        return (buffer.inserted + buffer.debt - self.redo_lsn) / (self.most_bytes - buffer.reserve)

    @property
    def is_filling(self) -> bool:
        """Whether the log is so full that writers should be held back until it is not."""
        return self.fill_ratio >= HOLD_BACK_AT

    @property
    def free(self) -> int:
        """How many more bytes the log may take up, with the slots of pages, until a checkpoint is made."""
        buffer = self.buffer
        return self.redo_lsn + self.most_bytes - buffer.reserve - buffer.debt - buffer.inserted

    def image_cost(self, page_size: int) -> int:
        """Bytes that the image of a page takes: with its slot, and its share of what segments leave unused."""
        images = (self.segment_bytes - SEGMENT_HEADER_SIZE) // (PAGE_IMAGE_SIZE + page_size)
        return -(-self.segment_bytes // images) + self.buffer.slot

    @property
    def has_room(self) -> bool:
        """Whether an insertion of a batch, at least of one page, would find segments that exist."""
        return self.buffer.room > self._room_of_a_batch

    @property
    def has_room_to_heal(self) -> bool:
        """Whether one more page may become dirty that is not being logged (`pfs.wal.checkpoint_room`)."""
        return self.buffer.room >= (1 - HEALED_AT_ONCE) * self.buffer.slot

    def keep_room_for(self, files: int) -> None:
        """There are so many page files, which checkpoints count the pages of."""
        self.buffer.reserve = reserve_size(self.segment_bytes, files)

    @property
    def is_full(self) -> bool:
        """Whether the log takes up all that it may: only a checkpoint makes room."""
        return self.buffer.limit - self.redo_lsn >= self.most_bytes

    @property
    def wants_segment(self) -> bool:
        """Whether the next segment should be made now: one is always kept ahead, up to the limit of all."""
        buffer = self.buffer
        ahead = buffer.limit - buffer.inserted - buffer.debt
        return (ahead < 3 * self.segment_bytes or not self.has_room) and not self.is_full  # a reserve may be larger

    @property
    def wants_checkpoint(self) -> bool:
        """Whether there is so much log that a checkpoint is due, and one now would let some of it be forgotten."""
        gain = self.buffer.redo_point() - self.redo_lsn
        if gain < self.segment_bytes:
            return False
        return gain > self.options.checkpoint_bytes or self.is_filling or (self.is_short and not self.has_room)

    @property
    def is_short(self) -> bool:
        """Whether no segment can be made: the log takes up all that it may, or the disk has no space."""
        return self.is_full or self.no_space is not None

    @property
    def wants_clean_pages(self) -> bool:
        """Whether the log is short of room, and has more when dirty pages have been written."""
        return len(self.buffer.dirty) > 0 and self.is_short and not self.has_room

    def is_held_up_by(self, transaction: int) -> bool:
        """Whether the log is full, and cannot be made shorter before this transaction has ended."""
        if not self.is_full or self.has_room or len(self.buffer.dirty) > 0:
            return False
        oldest = next(iter(self.buffer.unsettled.items()), None)
        return oldest is not None and oldest[0] == transaction and oldest[1] - self.redo_lsn < self.segment_bytes

    @property
    def next_segment(self) -> int:
        """The number of the segment after the last that exists."""
        return self.buffer.limit // self.segment_bytes

    def segment_made(self, segment: int) -> None:
        """A segment exists, and all before it."""
        self.buffer.limit = max(self.buffer.limit, (segment + 1) * self.segment_bytes)
