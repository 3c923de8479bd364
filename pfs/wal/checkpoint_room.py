"""The room in the log that checkpoints need, and that nobody else may use.

A checkpoint makes room in the log, but takes some first: a SIDECAR_IMAGE for each dirty page that it writes, at most;
PAGE_COUNTS; CHECKPOINT.  If these did not fit, a full log could never be made shorter.  So insertions are held to a
limit below the end of the segments, and what lies between is kept for records that are inserted with `insert_reserved`:

* a *slot* for each page that is dirty, and for each page image of an unsettled transaction, which will be dirty,
* a fixed *reserve* for the records of two checkpoints: one that frees a segment, and one before it that freed none;
  and for `HEALED_AT_ONCE` slots.

No reserved record is larger than `LARGEST_RESERVED`.  So in whatever order they come, a segment that they fill holds at
least n = (segment size - header) div `LARGEST_RESERVED` of them; a slot is the n-th part of a segment.  The rest of a
segment that is begun holds at least as many as it has slots, since a slot is larger than any of them; and the limit is
the end of a segment.  So as many records as there are slots before the limit always fit.

A slot pays for one image, so whoever takes one must have it.  Three things make that true of every dirty page:

* A page becomes dirty with the slot of its image in the log.  One that is healed has none: it becomes dirty only if
  there is room for a slot, or one of those in the reserve is left, and is otherwise served but not written back
  (`pfs.actors.buffer_pool`).
* The image of a sidecar block is inserted for pages that are dirty.  While the block is read some may be cut off or
  overwritten, and their slots be used by others; then the checkpointer takes them anew, unless there is room.  It does
  not do so for ever: while there is none, nobody can overwrite a page.
* A page that is overwritten after its block was logged has come with a slot of its own.

Records that are inserted in one step, one behind the other, and are not longer together, take one slot together.
"""

from __future__ import annotations

from typing import Final

from pfs.wal.bodies import CHECKPOINT, SIDECAR_IMAGE
from pfs.wal.lsn import SEGMENT_HEADER_SIZE, aligned
from pfs.wal.records import FIXED_SIZES, HEADER_SIZE
from pfs.wal.sidecar import BLOCK_SIZE

LARGEST_RESERVED: Final = HEADER_SIZE + FIXED_SIZES[SIDECAR_IMAGE] + BLOCK_SIZE
"""Bytes of the largest record that may use the reserve, a SIDECAR_IMAGE."""

PAIRS_PER_RECORD: Final = (LARGEST_RESERVED - HEADER_SIZE) // 16
"""As many page counts go into one PAGE_COUNTS record."""

HEALED_AT_ONCE: Final = 16
"""So many healed pages can be written back even when the log is full."""

_CHECKPOINT_PAIRS = (HEADER_SIZE + FIXED_SIZES[CHECKPOINT]) // 16
"""A CHECKPOINT takes as much as so many page counts."""


def slot_size(segment_size: int) -> int:
    """Bytes of log to keep for one reserved record."""
    return aligned(-(-segment_size // ((segment_size - SEGMENT_HEADER_SIZE) // LARGEST_RESERVED)))


def reserve_size(segment_size: int, files: int) -> int:
    """Bytes of log to keep for checkpoints of so many page files and for healed pages, beside the slots of others."""
    slots = -(-(files + _CHECKPOINT_PAIRS) // PAIRS_PER_RECORD)
    return (2 * slots + HEALED_AT_ONCE) * slot_size(segment_size)
