"""What the records of the log say: one class a type.

    PAGE_IMAGE       one page of a transaction, whole
    COMMIT           the transaction holds: its pages are these pages of that file
    CREATE, RENAME, DROP, TRUNCATE
                     a change of the catalog or of a file's length; each is a transaction by itself
    CHECKPOINT       everything before a position is in the data files
    PAGE_COUNTS      how many pages files have, before a CHECKPOINT
    EPOCH            the first record after a start
    SEGMENT_SWITCH   the rest of this segment is unused
    NOOP             nothing
    SEAL             nothing, but it vouches for the batch before it
    SIDECAR_IMAGE    one block of a file's checksums, whole

A transaction is all the pages that one data_write or data_append writes to one file.  Its images may lie among those of
others; its COMMIT makes them count, in the order of the COMMITs.  A PAGE_IMAGE does not say where its page goes in the
file, because an append learns that only when it commits.

How they are laid out in bytes is `pfs.wal.records`.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

NO_REQUEST: Final = bytes(16)
"""The request id of a COMMIT that has none."""

PAGE_IMAGE: Final = 1
COMMIT: Final = 2
CREATE: Final = 3
RENAME: Final = 4
DROP: Final = 5
TRUNCATE: Final = 6
CHECKPOINT: Final = 7
PAGE_COUNTS: Final = 8
EPOCH: Final = 9
SEGMENT_SWITCH: Final = 10
NOOP: Final = 11
SEAL: Final = 12
SIDECAR_IMAGE: Final = 13

TYPE_NAMES: Final = {
    PAGE_IMAGE: "PAGE_IMAGE",
    COMMIT: "COMMIT",
    CREATE: "CREATE",
    RENAME: "RENAME",
    DROP: "DROP",
    TRUNCATE: "TRUNCATE",
    CHECKPOINT: "CHECKPOINT",
    PAGE_COUNTS: "PAGE_COUNTS",
    EPOCH: "EPOCH",
    SEGMENT_SWITCH: "SEGMENT_SWITCH",
    NOOP: "NOOP",
    SEAL: "SEAL",
    SIDECAR_IMAGE: "SIDECAR_IMAGE",
}


class _Body(msgspec.Struct, frozen=True, gc=False):
    """The parent of all bodies."""

    type: ClassVar[int]


class PageImage(_Body, frozen=True, gc=False):
    """Page `index` of the pages that a transaction writes.  Where it goes in the file its COMMIT says."""

    type: ClassVar[int] = PAGE_IMAGE
    transaction: int
    file_id: int
    index: int
    page: bytes


class Commit(_Body, frozen=True, gc=False):
    """The transaction's n pages are pages pgid .. pgid+n-1 of the file, which has `page_count` pages from now on.

    first_lsn: the transaction's first record (the COMMIT itself if it has no other).
    """

    type: ClassVar[int] = COMMIT
    transaction: int
    file_id: int
    first_lsn: int
    pgid: int
    n: int
    page_count: int
    request_id: bytes = NO_REQUEST
    bulk: bool = False


class Create(_Body, frozen=True, gc=False):
    """A page file is made, empty."""

    type: ClassVar[int] = CREATE
    file_id: int
    page_size: int
    name: str


class Rename(_Body, frozen=True, gc=False):
    """A page file has another name."""

    type: ClassVar[int] = RENAME
    file_id: int
    name: str


class Drop(_Body, frozen=True, gc=False):
    """A page file is gone.  Its id is never used again."""

    type: ClassVar[int] = DROP
    file_id: int


class Truncate(_Body, frozen=True, gc=False):
    """A page file is cut to so many pages."""

    type: ClassVar[int] = TRUNCATE
    file_id: int
    page_count: int


class Checkpoint(_Body, frozen=True, gc=False):
    """Everything before `redo_lsn` is in the data files.  PAGE_COUNTS records lie from `page_counts_lsn` to here."""

    type: ClassVar[int] = CHECKPOINT
    redo_lsn: int
    page_counts_lsn: int
    next_file_id: int
    next_transaction: int
    shutdown: bool = False


class PageCounts(_Body, frozen=True, gc=False):
    """How many pages files have: pairs of file id and page count."""

    type: ClassVar[int] = PAGE_COUNTS
    counts: tuple[tuple[int, int], ...]


class Epoch(_Body, frozen=True, gc=False):
    """The first record of an epoch: after a start, all records bear a higher epoch than any before."""

    type: ClassVar[int] = EPOCH
    previous: int


class SegmentSwitch(_Body, frozen=True, gc=False):
    """The log goes on at the start of the next segment."""

    type: ClassVar[int] = SEGMENT_SWITCH


class Noop(_Body, frozen=True, gc=False):
    """Nothing; `size` bytes of zeros."""

    type: ClassVar[int] = NOOP
    size: int = 0


class Seal(_Body, frozen=True, gc=False):
    """Nothing but its `durable_upto`, which vouches for the batch before it."""

    type: ClassVar[int] = SEAL


class SidecarImage(_Body, frozen=True, gc=False):
    """One block of a file's sidecar, whole (`pfs.wal.sidecar`)."""

    type: ClassVar[int] = SIDECAR_IMAGE
    file_id: int
    block: int
    image: bytes


Body = (
    PageImage
    | Commit
    | Create
    | Rename
    | Drop
    | Truncate
    | Checkpoint
    | PageCounts
    | Epoch
    | SegmentSwitch
    | Noop
    | Seal
    | SidecarImage
)
