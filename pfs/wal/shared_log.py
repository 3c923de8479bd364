"""The log buffer of a system with its limits: when to make a segment, when to checkpoint, how full it is.  Plain code."""

from __future__ import annotations

from itertools import count

import msgspec

from pfs.errors import NoSpace
from pfs.wal.log_buffer import LogBuffer


class WalOptions(msgspec.Struct, frozen=True):
    """Sizes of the log.

    `segment_bytes`: of a segment file; `most_bytes`: what the log may take up since the last checkpoint, with its
    reserve; `checkpoint_bytes`: so much log begins a checkpoint; `checkpoint_seconds`: so much time does, if anything
    was logged; `batch_bytes`, `batch_requests`: the most that one write and sync takes along; `sync_method`: see
    `pfs.wal.log_files`; `compress`: store page images compressed where that saves space.
    """

    segment_bytes: int = 16 << 20
    most_bytes: int = 1 << 30
    checkpoint_bytes: int = 256 << 20
    checkpoint_seconds: float = 300.0
    batch_bytes: int = 1 << 20
    batch_requests: int = 256
    sync_method: str = "fdatasync"
    compress: bool = False


class SharedLog:
    """The insertion point that pfs's own actors share."""

    def __init__(
        self, buffer: LogBuffer, options: WalOptions, segment_bytes: int, redo_lsn: int, next_transaction: int
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

    @property
    def fill_ratio(self) -> float:
        """How much of what the log may take up is taken up, 0.0 to 1.0 and a little more."""
        return (self.buffer.inserted - self.redo_lsn) / self.options.most_bytes

    @property
    def has_room(self) -> bool:
        """Whether an insertion of a batch would find segments that exist."""
        limit = self.buffer.limit
        assert limit is not None
        return limit - self.buffer.inserted > min(self.segment_bytes, 2 * self.options.batch_bytes)

    @property
    def wants_segment(self) -> bool:
        """Whether the next segment should be made now: one is always kept ahead, up to the limit of all."""
        limit = self.buffer.limit
        assert limit is not None
        ahead = limit - self.buffer.inserted
        return ahead < 2 * self.segment_bytes and limit - self.redo_lsn < self.options.most_bytes

    @property
    def wants_checkpoint(self) -> bool:
        return self.buffer.inserted - self.redo_lsn > self.options.checkpoint_bytes

    @property
    def next_segment(self) -> int:
        """The number of the segment after the last that exists."""
        limit = self.buffer.limit
        assert limit is not None
        return limit // self.segment_bytes

    def segment_made(self, segment: int) -> None:
        """A segment exists, and all before it."""
        limit = self.buffer.limit
        assert limit is not None
        self.buffer.limit = max(limit, (segment + 1) * self.segment_bytes)
