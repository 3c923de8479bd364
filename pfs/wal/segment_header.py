"""The header of a WAL segment: 64 bytes that say which part of which log the file is.

    offset  size
         0     8  magic, "PFSWALSG"
         8     4  version of the formats of segments and records
        12     4  timeline
        16     8  segment number
        24     8  system id
        32     4  segment size in bytes
        36     4  epoch in which the segment was made or recycled
        40    20  zeros
        60     4  CRC-32C of bytes 0 to 59

It is written and synced before the file gets the segment's name, so a segment with a damaged header is not the work
of a crash.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pfs.wal.crc import crc32c
from pfs.wal.lsn import SEGMENT_HEADER_SIZE

MAGIC = b"PFSWALSG"
VERSION = 1

_FIELDS = struct.Struct("<8sIIQQII20x")
_CRC = struct.Struct("<I")


class SegmentHeader(NamedTuple):
    """What the header says."""

    timeline: int
    segment: int
    system_id: int
    segment_size: int
    epoch: int
    version: int = VERSION


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The 64 bytes of a header."""
    timeline, segment, system_id, segment_size, epoch, version = header
    fields = _FIELDS.pack(MAGIC, version, timeline, segment, system_id, segment_size, epoch)
    return fields + _CRC.pack(crc32c(fields))


def decode_segment_header(data: bytes | bytearray | memoryview) -> SegmentHeader | None:
    """The header at the start of a segment; None if it is damaged or cut off.

    The version is the caller's to check: a whole header of another version is no damage.
    """
    if len(data) < SEGMENT_HEADER_SIZE:
        return None
    magic, version, timeline, segment, system_id, segment_size, epoch = _FIELDS.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _FIELDS.size)
    if magic != MAGIC or crc != crc32c(bytes(data[: _FIELDS.size])):
        return None
    return SegmentHeader(timeline, segment, system_id, segment_size, epoch, version)
