"""The records of the log, byte by byte: encoding and decoding.

    offset  size
         0     4  magic, F1 57 A1 0D
         4     4  checksum (below)
         8     4  length of the record, without padding
        12     1  type
        13     1  flags
        14     2  zero
        16     8  LSN of this record
        24     8  LSN of the record before it, 0 for the first of a log
        32     8  durable_upto: everything before this LSN was durable when the record was made
        40     4  epoch
        44     4  zero
        48     8  transaction, 0 if it belongs to none
        56     8  file id, 0 if it concerns none
        64        fixed part, of a length that the type gives; then data; then zeros up to a multiple of 8

Numbers are little-endian.  The checksum is CRC-32C over the data first and then over the header from offset 8 on and
the fixed part, exclusive-or the system's seed.  Data first, because the checksum of a page is computed once and then
continued here and in the sidecar; the seed, so that neither a record of another system nor one that a client has stored
in a page passes for one of this log.

A record is its place: with the LSN of its own position and of its predecessor, its epoch and its checksum, nothing that
a recycled segment, a torn batch or an earlier life of the log left behind is taken for it (`pfs.wal.reader`).
`durable_upto` vouches for what came before: if a record that vouches for position X is found, whatever is missing
before X was not lost by a crash but later.

An encoder returns the buffers to write, the page itself among them and not a copy of it.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from pfs.errors import CorruptionFound, InvalidRequest
from pfs.wal.bodies import (
    CHECKPOINT,
    COMMIT,
    CREATE,
    EPOCH,
    NO_REQUEST,
    PAGE_IMAGE,
    SIDECAR_IMAGE,
    TRUNCATE,
    TYPE_NAMES,
    Body,
    Checkpoint,
    Commit,
    Create,
    Drop,
    Epoch,
    Noop,
    PageCounts,
    PageImage,
    Rename,
    Seal,
    SegmentSwitch,
    SidecarImage,
    Truncate,
)
from pfs.wal.crc import crc32c, zero_page

MAGIC: Final = 0x0DA157F1
MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
HEADER_SIZE: Final = 64

ZERO: Final = 1
"""Flag of a PAGE_IMAGE: the page is all zeros, and there is no data."""
COMPRESSED: Final = 2
"""Flag of a PAGE_IMAGE: the data is the page as one zlib stream."""
BULK: Final = 1
"""Flag of a COMMIT: its pages are on disk already and durable; there are no images."""
SHUTDOWN: Final = 1
"""Flag of a CHECKPOINT: the system was stopped in order, and no record follows."""

FIXED_SIZES: Final = tuple(
    {PAGE_IMAGE: 8, COMMIT: 48, CREATE: 8, TRUNCATE: 8, CHECKPOINT: 32, EPOCH: 8, SIDECAR_IMAGE: 8}.get(number, 0)
    for number in range(SIDECAR_IMAGE + 1)
)
"""Length of the fixed part by type; type 0 does not exist."""

PAGE_IMAGE_SIZE: Final = HEADER_SIZE + FIXED_SIZES[PAGE_IMAGE]
"""Bytes of a PAGE_IMAGE beside its data."""

HEADER: Final = struct.Struct("<IIIBBHQQQIIQQ")
"""The header as it is decoded."""

_PREFIX = struct.Struct("<II")
_REST = struct.Struct("<IBBHQQQIIQQ")
_REST_OF_PAGE_IMAGE = struct.Struct("<IBBHQQQIIQQII")
_REST_OF_COMMIT = struct.Struct("<IBBHQQQIIQQQQQQ16s")
_TWO_U32 = struct.Struct("<II")
_U64 = struct.Struct("<Q")
_PAIR = struct.Struct("<QQ")
_FOUR_U64 = struct.Struct("<QQQQ")
_COMMIT = struct.Struct("<QQQQ16s")

Data = bytes | bytearray | memoryview


class Stamp(NamedTuple):
    """What the place in the log gives to a record."""

    lsn: int
    prev_lsn: int
    durable_upto: int
    epoch: int
    seed: int


class Record(NamedTuple):
    """A record that was found whole.  `fixed` and `data` are views of the segment that it was read from."""

    lsn: int
    prev_lsn: int
    durable_upto: int
    epoch: int
    type: int
    flags: int
    transaction: int
    file_id: int
    length: int
    fixed: memoryview
    data: memoryview

    @property
    def end(self) -> int:
        """Where the record ends, padding included."""
        return self.lsn + ((self.length + 7) & ~7)

    @property
    def name(self) -> str:
        return TYPE_NAMES[self.type]


# ---------------------------------------------------------------------------------------------- encoding


def seed_of(system_id: int) -> int:
    """The seed of a system's record checksums."""
    return crc32c(_U64.pack(system_id))


class Image(NamedTuple):
    """A page as it goes into a record: flags, data, checksum of the data."""

    flags: int
    data: bytes
    crc: int


def page_data(page: bytes, page_crc: int | None = None, *, compress: bool = False) -> Image:
    """How a page is stored: not at all if it is all zeros, compressed if asked for and worth it, else as it is.

    page_crc: the CRC-32C of the page if it is known.
    """
    size = len(page)
    if page == zero_page(size):
        return Image(ZERO, b"", 0)
    if compress:
        packed = zlib.compress(page, 1)
        if len(packed) + 8 <= size:
            return Image(COMPRESSED, packed, crc32c(packed))
    return Image(0, page, crc32c(page) if page_crc is None else page_crc)


def encode_page_image(
    stamp: Stamp, transaction: int, file_id: int, index: int, page_size: int, image: Image
) -> list[bytes]:
    """The buffers of a PAGE_IMAGE: its header and, uncopied, its data (padded if that is compressed)."""
    flags, data, data_crc = image
    lsn, prev_lsn, durable_upto, epoch, seed = stamp
    length = 72 + len(data)
    rest = _REST_OF_PAGE_IMAGE.pack(
        length, PAGE_IMAGE, flags, 0, lsn, prev_lsn, durable_upto, epoch, 0, transaction, file_id, index, page_size
    )
    header = _PREFIX.pack(MAGIC, crc32c(rest, data_crc) ^ seed) + rest
    if not data:
        return [header]
    if flags:
        return [header + data + bytes(-length & 7)]
    return [header, data]


def encode_commit(
    stamp: Stamp,
    transaction: int,
    file_id: int,
    first_lsn: int,
    pgid: int,
    n: int,
    page_count: int,
    request_id: bytes = NO_REQUEST,
    bulk: bool = False,
) -> bytes:
    """The bytes of a COMMIT."""
    lsn, prev_lsn, durable_upto, epoch, seed = stamp
    rest = _REST_OF_COMMIT.pack(
        112, COMMIT, bulk, 0, lsn, prev_lsn, durable_upto, epoch, 0,
        transaction, file_id, first_lsn, pgid, n, page_count, request_id,
    )  # fmt: skip
    return _PREFIX.pack(MAGIC, crc32c(rest) ^ seed) + rest


def encoded_size(body: Body) -> int:
    """How many bytes of the log the record of a body (not a PageImage) takes, padding included."""
    _, _, _, fixed, data = _parts(body)
    return (HEADER_SIZE + len(fixed) + len(data) + 7) & ~7


def encode(stamp: Stamp, body: Body) -> list[bytes]:
    """The buffers of any record, padding included."""
    if isinstance(body, PageImage):
        image = page_data(body.page)
        return encode_page_image(stamp, body.transaction, body.file_id, body.index, len(body.page), image)
    transaction, file_id, flags, fixed, data = _parts(body)
    lsn, prev_lsn, durable_upto, epoch, seed = stamp
    length = HEADER_SIZE + len(fixed) + len(data)
    rest = _REST.pack(length, body.type, flags, 0, lsn, prev_lsn, durable_upto, epoch, 0, transaction, file_id) + fixed
    return [_PREFIX.pack(MAGIC, crc32c(rest, crc32c(data)) ^ seed) + rest + data + bytes(-length & 7)]


def _parts(body: Body) -> tuple[int, int, int, bytes, bytes]:
    """Transaction, file id, flags, fixed part and data of a body."""
    match body:
        case Commit(transaction, file_id):
            fixed = _COMMIT.pack(body.first_lsn, body.pgid, body.n, body.page_count, body.request_id)
            return transaction, file_id, int(body.bulk), fixed, b""
        case Create(file_id, page_size, name):
            return 0, file_id, 0, _TWO_U32.pack(page_size, 0), name.encode()
        case Rename(file_id, name):
            return 0, file_id, 0, b"", name.encode()
        case Drop(file_id):
            return 0, file_id, 0, b"", b""
        case Truncate(file_id, page_count):
            return 0, file_id, 0, _U64.pack(page_count), b""
        case Checkpoint():
            fixed = _FOUR_U64.pack(body.redo_lsn, body.page_counts_lsn, body.next_file_id, body.next_transaction)
            return 0, 0, int(body.shutdown), fixed, b""
        case PageCounts(counts):
            return 0, 0, 0, b"", b"".join([_PAIR.pack(*pair) for pair in counts])
        case Epoch(previous):
            return 0, 0, 0, _TWO_U32.pack(previous, 0), b""
        case Noop(size):
            return 0, 0, 0, b"", bytes(size)
        case SidecarImage(file_id, block, image):
            return 0, file_id, 0, _U64.pack(block), image
        case SegmentSwitch() | Seal():
            return 0, 0, 0, b"", b""
    raise InvalidRequest(f"{type(body).__name__} is no record, or one that is encoded by a function of its own")


# ---------------------------------------------------------------------------------------------- decoding


def decode(view: memoryview, offset: int, lsn: int, seed: int) -> Record | None:
    """The record at an offset of a segment, which is position `lsn` of the log; None if no whole one is there.

    Checked: magic, type, length, that the record says that it is at `lsn`, vouches for nothing after itself, and its
    checksum.  What its predecessor has to do with it (epoch, prev_lsn) is the reader's to check.
    """
    if offset + HEADER_SIZE > len(view):
        return None
    magic, crc, length, kind, flags, _, own_lsn, prev_lsn, durable_upto, epoch, _, transaction, file_id = (
        HEADER.unpack_from(view, offset)
    )
    if magic != MAGIC or own_lsn != lsn or not 1 <= kind <= SIDECAR_IMAGE or durable_upto > lsn:
        return None
    start = offset + HEADER_SIZE
    data_start = start + FIXED_SIZES[kind]
    end = offset + length
    if not data_start <= end <= len(view):
        return None
    data = view[data_start:end]
    if crc32c(view[offset + 8 : data_start], crc32c(data)) ^ seed != crc:
        return None
    return Record(
        lsn, prev_lsn, durable_upto, epoch, kind, flags, transaction, file_id, length, view[start:data_start], data
    )


def is_placed_at(view: memoryview, offset: int, lsn: int) -> bool:
    """True if there is the header of a record that says it is at `lsn`, whatever its state."""
    if offset + HEADER_SIZE > len(view):
        return False
    return view[offset : offset + 4] == MAGIC_BYTES and _U64.unpack_from(view, offset + 16)[0] == lsn


def image_index(record: Record) -> int:
    """Which page of its transaction a PAGE_IMAGE is."""
    return int.from_bytes(record.fixed[:4], "little")


def image_page(record: Record) -> bytes:
    """The page of a PAGE_IMAGE.  Raises `CorruptionFound` if the data does not give one, though its checksum fits."""
    _, page_size = _TWO_U32.unpack(record.fixed)
    if record.flags & ZERO:
        return zero_page(page_size)
    if record.flags & COMPRESSED:
        try:
            page = zlib.decompressobj().decompress(record.data, page_size + 1)
        except zlib.error:
            page = b""
    else:
        page = bytes(record.data)
    if len(page) != page_size:
        raise CorruptionFound(
            f"the page image at LSN {record.lsn} of file {record.file_id} does not hold a page of {page_size} bytes, "
            "though its checksum fits: it was not written by this version of pfs"
        )
    return page


def decode_commit(record: Record) -> Commit:
    """The body of a COMMIT."""
    first_lsn, pgid, n, page_count, request_id = _COMMIT.unpack(record.fixed)
    bulk = bool(record.flags & BULK)
    return Commit(record.transaction, record.file_id, first_lsn, pgid, n, page_count, request_id, bulk)


def decode_checkpoint(record: Record) -> Checkpoint:
    """The body of a CHECKPOINT."""
    redo_lsn, page_counts_lsn, next_file_id, next_transaction = _FOUR_U64.unpack(record.fixed)
    return Checkpoint(redo_lsn, page_counts_lsn, next_file_id, next_transaction, bool(record.flags & SHUTDOWN))


def decode_page_counts(record: Record) -> list[tuple[int, int]]:
    """The pairs of a PAGE_COUNTS.  Raises `CorruptionFound` if they do not come out even."""
    if len(record.data) % _PAIR.size:
        raise CorruptionFound(f"the PAGE_COUNTS record at LSN {record.lsn} ends within a pair")
    return list(_PAIR.iter_unpack(record.data))


def decode_body(record: Record) -> Body:
    """The body of any record."""
    fixed, data, file_id = record.fixed, record.data, record.file_id
    match record.type:
        case 1:
            return PageImage(record.transaction, file_id, image_index(record), image_page(record))
        case 2:
            return decode_commit(record)
        case 3:
            return Create(file_id, _TWO_U32.unpack(fixed)[0], _name(data))
        case 4:
            return Rename(file_id, _name(data))
        case 5:
            return Drop(file_id)
        case 6:
            return Truncate(file_id, _U64.unpack(fixed)[0])
        case 7:
            return decode_checkpoint(record)
        case 8:
            return PageCounts(tuple(decode_page_counts(record)))
        case 9:
            return Epoch(_TWO_U32.unpack(fixed)[0])
        case 10:
            return SegmentSwitch()
        case 11:
            return Noop(len(data))
        case 12:
            return Seal()
        case _:
            return SidecarImage(file_id, _U64.unpack(fixed)[0], bytes(data))


def _name(data: Data) -> str:
    return bytes(data).decode(errors="replace")
