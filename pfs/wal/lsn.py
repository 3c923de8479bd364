"""Positions in the log and the names of its segments: plain arithmetic.

The log is one endless run of bytes, cut into segments of equal size.  An LSN (log sequence number) is a position in it,
64 bits, never used again.  Segment n holds the positions n x size to (n + 1) x size - 1.  Segment 0 does not exist, so
that LSN 0 can mean "none"; the first record of a log is in segment 1, after the segment's header.

A segment is named as PostgreSQL names it: timeline, then the number of the segment in two parts, so that with any
segment size the middle part is the upper half of the LSN.

    000000010000000000000001     timeline 1, LSN 0/01000000 on, with segments of 16 MiB
    0000000100000000000000FF     the last one of this "id": 256 x 16 MiB = 4 GiB
    000000010000000100000000     LSN 1/00000000 on

Invariants: records begin at multiples of 8 and never cross a segment; `parse_segment_name(segment_name(t, n, s), s)`
is `(t, n)`, and no other string parses.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pfs.errors import InvalidRequest
from pfs.files.segments import check_block_size

NO_LSN = 0
"""The LSN that means "none"."""

ALIGNMENT = 8
"""Every record begins at a multiple of this."""

DEFAULT_SEGMENT_SIZE = 16 << 20
MIN_SEGMENT_SIZE = 4 << 10
MAX_SEGMENT_SIZE = 1 << 30

SEGMENT_HEADER_SIZE = 64
"""Bytes at the start of each segment that are not records (`pfs.wal.segment_header`)."""

LARGEST_RECORD_OVERHEAD = 256
"""What is kept free in a segment beside one page image: more than an image's header and a COMMIT need."""

_NAME = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class SegmentName(NamedTuple):
    """What the name of a segment says."""

    timeline: int
    segment: int


def check_segment_size(size: int) -> int:
    """Return the size if it is a power of two from 4 KiB to 1 GiB, else raise `InvalidRequest`."""
    if type(size) is not int or not MIN_SEGMENT_SIZE <= size <= MAX_SEGMENT_SIZE or size & (size - 1):
        raise InvalidRequest(
            f"WAL segment size {size!r}: must be a power of two from {MIN_SEGMENT_SIZE} to {MAX_SEGMENT_SIZE} bytes"
        )
    return size


def largest_page(segment_size: int) -> int:
    """The largest page, in bytes, whose image fits into a segment of this size."""
    room = segment_size - SEGMENT_HEADER_SIZE - LARGEST_RECORD_OVERHEAD
    return min(1 << (room.bit_length() - 1), 64 << 10)


def check_page_fits(page_size: int, segment_size: int) -> int:
    """Return the page size if images of such pages fit into the segments, else raise `InvalidRequest`.

    To be asked when a system is configured and when a page file is made, so that no write fails for it later.
    """
    check_block_size(page_size)
    if page_size > largest_page(segment_size):
        raise InvalidRequest(
            f"page size {page_size}: an image of such a page does not fit into a WAL segment of {segment_size} bytes, "
            f"which holds pages of at most {largest_page(segment_size)} bytes; use larger segments"
        )
    return page_size


def first_lsn(segment_size: int) -> int:
    """Where the first record of a new log is."""
    return segment_size + SEGMENT_HEADER_SIZE


def segment_of(lsn: int, segment_size: int) -> int:
    """The number of the segment that holds a position."""
    return lsn // segment_size


def aligned(length: int) -> int:
    """A length rounded up to a multiple of 8."""
    return (length + 7) & ~7


def segment_name(timeline: int, segment: int, segment_size: int) -> str:
    """The file name of a segment."""
    high, low = divmod(segment, (1 << 32) // segment_size)
    return f"{timeline:08X}{high:08X}{low:08X}"


def parse_segment_name(name: str, segment_size: int) -> SegmentName | None:
    """The inverse of `segment_name`; None for a name that no segment of this size has."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    timeline, high, low = (int(part, 16) for part in match.groups())
    per_id = (1 << 32) // segment_size
    segment = high * per_id + low
    if timeline == 0 or low >= per_id or segment == 0:
        return None
    return SegmentName(timeline, segment)


def format_lsn(lsn: int) -> str:
    """An LSN as PostgreSQL writes it: `1/02000040`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:08X}"


def parse_lsn(text: str) -> int:
    """The inverse of `format_lsn`; a plain decimal or 0x number is an LSN too.  Raises `InvalidRequest`."""
    match = _LSN.fullmatch(text)
    if match is not None:
        return int(match[1], 16) << 32 | int(match[2], 16)
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise InvalidRequest(f"{text!r} is no LSN: write it as 1/02000040, or as a number of bytes")
    return value
