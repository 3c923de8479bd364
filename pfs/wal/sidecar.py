"""The sidecar of a page file: what pfs knows of each page, kept apart from the opaque pages.

A page has one record of 16 bytes:

    offset  size
         0     4  checksum: CRC-32C of the page, continued over file id, pgid and LSN (8 bytes each)
         4     4  flags: 1 written, 2 lost
         8     8  LSN of the COMMIT that the page is of (a bulk append: an LSN before its COMMIT)

so that a page at the wrong place, of another file or of another time does not match.  A record of zeros is a page that
was never written: what the data file holds there, zeros of a hole perhaps, is never served.

Records stand in blocks of 512 bytes, 31 to a block; page n is record n mod 31 of block n div 31:

    offset  size
         0     4  checksum: CRC-32C of bytes 4 to 511, continued over the file id (8 bytes)
         4     4  version, 1
         8     8  block number
        16   496  31 records

A block of zeros was never written: none of its pages was.  Records beyond the file's page count mean nothing.

A block that is not valid cannot say any more which pages match.  When pages of it are written, it is made anew, and the
records of its other pages are marked as lost: they match no page, until the log heals them or they are written.

A torn write of a block could take along the records of pages that did not change, and of which the log has no image
any more.  So the first change of a block after a checkpoint logs the block (SIDECAR_IMAGE), and that record is durable
before the block is written.  Three rules make this right while checkpoints overlap with everything else:

* "After a checkpoint" means: after that checkpoint wrote its last block, before it syncs.  (After its redo point would
  be too early: the checkpoint itself changes blocks after an image that was logged then.)
* Recovery overwrites a block only if what is on disk is not valid.  What is valid has every record that the log cannot
  give again: they were synced.
* If there are several images of a block the last one counts.  A bulk append, whose pages have no images, logs each
  block that it shares with committed pages with its own records already in it; an older image would lack them.

A restored block may hold records of pages that were never committed, or were cut off since; they lie beyond the page
count, or are written again with their pages.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from pfs.wal.crc import crc32c

BLOCK_SIZE: Final = 512
RECORD_SIZE: Final = 16
HEADER_SIZE: Final = 16
RECORDS_PER_BLOCK: Final = (BLOCK_SIZE - HEADER_SIZE) // RECORD_SIZE
VERSION: Final = 1
WRITTEN: Final = 1
LOST: Final = 2

EMPTY_BLOCK: Final = bytes(BLOCK_SIZE)
"""A block none of whose pages was ever written."""

_RECORD = struct.Struct("<IIQ")
_IDENTITY = struct.Struct("<QQQ")
_FILE_ID = struct.Struct("<Q")
_REST_OF_HEADER = struct.Struct("<IQ")
_CRC = struct.Struct("<I")


class PageRecord(NamedTuple):
    """What the sidecar says of a page that was written.  A checksum of None matches no page: the record was lost."""

    checksum: int | None
    lsn: int


LOST_RECORD: Final = PageRecord(None, 0)
"""The record of a page whose record was in a block that was not valid."""

_ALL_LOST = bytes(HEADER_SIZE) + RECORDS_PER_BLOCK * _RECORD.pack(0, LOST, 0)


def locate(pgid: int) -> tuple[int, int]:
    """The block of a page's record, and its number in the block."""
    return divmod(pgid, RECORDS_PER_BLOCK)


def block_count(page_count: int) -> int:
    """How many blocks so many pages have."""
    return -(-page_count // RECORDS_PER_BLOCK)


def page_record(page_crc: int, file_id: int, pgid: int, lsn: int) -> PageRecord:
    """The record of a page from the CRC-32C of its bytes."""
    return PageRecord(crc32c(_IDENTITY.pack(file_id, pgid, lsn), page_crc), lsn)


def page_matches(record: PageRecord, page: bytes | memoryview, file_id: int, pgid: int) -> bool:
    """True if this is the page that the record is of."""
    return crc32c(_IDENTITY.pack(file_id, pgid, record.lsn), crc32c(page)) == record.checksum


def read_record(block: bytes | bytearray | memoryview, number: int) -> PageRecord | None:
    """A record of a block that was checked; None if its page was never written."""
    checksum, flags, lsn = _RECORD.unpack_from(block, HEADER_SIZE + number * RECORD_SIZE)
    if flags & WRITTEN:
        return PageRecord(checksum, lsn)
    return LOST_RECORD if flags & LOST else None


def changed_block(block: bytes | None, file_id: int, number: int, records: Mapping[int, PageRecord]) -> bytes:
    """Block `number` of a file's sidecar with new records of pages that were written, by pgid; None: not valid."""
    new = bytearray(_ALL_LOST if block is None else block)
    first = number * RECORDS_PER_BLOCK
    for pgid, record in records.items():
        _RECORD.pack_into(new, HEADER_SIZE + (pgid - first) * RECORD_SIZE, record.checksum, WRITTEN, record.lsn)
    _REST_OF_HEADER.pack_into(new, 4, VERSION, number)
    _CRC.pack_into(new, 0, _block_crc(new, file_id))
    return bytes(new)


def block_is_valid(block: bytes | bytearray | memoryview, file_id: int, number: int) -> bool:
    """True if this is block `number` of the file's sidecar, or one that was never written."""
    if len(block) != BLOCK_SIZE:
        return False
    if block == EMPTY_BLOCK:
        return True
    (crc,) = _CRC.unpack_from(block)
    return crc == _block_crc(block, file_id) and _REST_OF_HEADER.unpack_from(block, 4) == (VERSION, number)


def _block_crc(block: bytes | bytearray | memoryview, file_id: int) -> int:
    return crc32c(_FILE_ID.pack(file_id), crc32c(memoryview(block)[4:]))
